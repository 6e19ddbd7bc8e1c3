"""The comparison with Flax: its command, its networks, and the scores on MNIST."""

import math
import sys

import pytest

import compare_jax
import comparison
from cdropout.digits.data import load_dataset
from cdropout.digits.training import Config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def test_comparison_without_flax_says_skipped(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flax", None)
    assert compare_jax.main([]) == 0
    assert capsys.readouterr().out == "skipped: Flax is not installed\n"


def test_comparison_finds_kinds_outside_the_tolerance():
    macro_f1 = {"Flax": [0.90, 0.92], "layer": [0.91, 0.915], "prng": [0.90, 0.90]}
    stray = "prng: macro F1 must be within 0.006 of Flax's, got a difference of -0.0100"
    assert comparison.find_strays(macro_f1, 0.006) == [stray]
    assert comparison.find_strays(macro_f1, 0.011) == []
    assert len(comparison.find_strays(macro_f1 | {"layer": [math.nan, 0.91]}, 0.011)) == 1


@pytest.mark.parametrize("arguments", ["--seeds 0", "--epochs 0", "--tolerance -1", "--tolerance nan"])
def test_comparison_refuses_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        compare_jax.main(arguments.split())
    assert exit_.value.code == 2
    assert f"argument {arguments.split()[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["Flax", *compare_jax.KINDS])
def test_networks_draw_from_what_they_are_named_after(kind, few):
    pytest.importorskip("flax")
    import numpy as np

    import cdropout.jax

    network = compare_jax.build_flax(Config(relu=True), few, kind)
    assert len(network.layers) == 6
    key = network.layers[4].rngs()
    x = np.ones((1, 512), np.float32)
    if kind == "enable":
        cdropout.jax.enable()
    sites = cdropout.jax.report(lambda x, key: network.layers[4](x, rngs=key), x, key)
    cdropout.jax.disable()
    assert [site.is_ours for site in sites] == [kind != "Flax"]
    assert ("<cd>" in str(key.dtype)) == (kind == "prng")


def test_a_network_without_dropout_learns_alike_with_every_kind(few):
    pytest.importorskip("flax")
    scores = [compare_jax.train_flax(Config(epochs=1, p=0.0, relu=True), few, kind) for kind in ("Flax", "layer")]
    assert scores[0].macro_f1 == scores[1].macro_f1


@pytest.mark.deep
def test_flax_learns_mnist_with_our_dropout_as_with_its_own(mnist_folder):
    """Three seeds, two epochs: means of 0.9740 and 0.9732."""
    pytest.importorskip("flax")
    configs = [Config(epochs=2, relu=True, seed=seed) for seed in range(3)]
    macro_f1 = compare_jax.compare(load_dataset(mnist_folder), configs, ("layer",))
    assert comparison.find_strays(macro_f1, 0.006) == []
    assert min(macro_f1["layer"]) > 0.96
