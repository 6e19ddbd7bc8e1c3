"""Mutated pickles and states are refused or load as valid objects, without a crash; old pickles still load."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import cdropout as cd
from cdropout.compat import deepnet

VECTORS = Path(__file__).with_name("vectors")
PROGRAM = Path(__file__).with_name("mutated_pickles.py")
WAYS = ("load_bytes", "restore_fields", "restore_stream", "set_layer_fields", "set_state")
FROZEN = json.loads((VECTORS / "pickles.json").read_text())


def check_mutations(printed, n_mutations):
    counts = {(way, outcome): int(n) for way, outcome, n in (line.rsplit(" ", 2) for line in rows(printed))}
    print(*(f"{way} {outcome}: {n}" for (way, outcome), n in sorted(counts.items())), sep=", ")
    assert sum(counts.values()) == n_mutations
    for way in WAYS:
        assert counts[way, "refused"] > 0
        assert counts[way, "whole"] > 0
    # Changed bytes may name another object that a pickle may hold, such as a part of the first.
    assert {way for way, outcome in counts if outcome == "else"} <= {"load_bytes"}


def rows(printed):
    return printed.decode().replace("something else", "else").splitlines()


@pytest.mark.promise("old-pickles")
def test_hundreds_of_mutations_are_refused_or_whole(run_python):
    check_mutations(run_python(str(PROGRAM), "900", "0").stdout, 900)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(1, 6))
def test_ten_thousand_mutations_are_refused_or_whole(run_python, seed):
    check_mutations(run_python(str(PROGRAM), "2000", str(seed)).stdout, 2000)


@pytest.fixture(scope="module")
def digest():
    sys.path.insert(0, str(VECTORS))
    try:
        from make_pickles import digest

        return digest
    finally:
        sys.path.remove(str(VECTORS))


@pytest.mark.promise("old-pickles")
@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_pickle_loads_and_does_what_it_did(digest, name):
    assert digest(pickle.loads(bytes.fromhex(FROZEN[name]["pickle"]))) == FROZEN[name]["digest"]


def test_every_version_of_a_pickle_is_frozen():
    names = {name.rsplit(", protocol", 1)[0] for name in FROZEN}
    assert names == {
        *("mask, version 1", "mask, version 2", "mask of a part, version 2", "noise, version 1", "stream, version 1"),
        *("layer, without a version", "layer, version 1"),
        *(
            f"layer {name}, version 1"
            for name in ("DropConnect", "DropBlock2d", "BiasReLUDropout", "GaussianNoise", "Zoneout")
        ),
        *("bit generator, version 1", "stream of a large seed, version 1"),
        # Pickles that name the modules in which the classes are now.
        *(f"mask{part} of cdropout._kernels, version 2" for part in ("", " of a part")),
        *(f"{name} of cdropout._kernels, version 1" for name in ("noise", "stream")),
        "layer of cdropout.layers.alpha, version 1",
        *(
            f"layer {name} of cdropout.layers.{module}, version 1"
            for name, module in (
                ("DropConnect", "linear"),
                ("DropBlock2d", "drop_block"),
                ("BiasReLUDropout", "fused"),
                ("GaussianNoise", "gaussian"),
                ("Zoneout", "zoneout"),
            )
        ),
    }


class Changing:
    """A number that is another one after it has been converted once."""

    def __init__(self, first, then):
        self.numbers = [first, then]

    def __float__(self):
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


@pytest.mark.parametrize("then", [7.0, np.nan, -1.0, 1.0 + 1e-9])
def test_a_layer_keeps_the_rate_that_was_checked(then):
    layer = cd.Dropout(0.5, rng=1)
    layer.__setstate__({**layer.__getstate__(), "_p": Changing(0.5, then)})
    assert layer.p == 0.5
    noisy = cd.GaussianDropout(0.25, rng=1)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        noisy.p = Changing(0.5, then)  # which is converted twice
    assert noisy.p == 0.25
    noise = cd.GaussianNoise(0.5, rng=1)
    noise.__setstate__({**noise.__getstate__(), "_std": Changing(0.5, then)})
    assert noise.std == 0.5
    zoneout = cd.Zoneout(0.5, rng=1).eval()
    zoneout.__setstate__({**zoneout.__getstate__(), "_evaluated": (Changing(0.5, then), (3,))})
    assert np.array_equal(zoneout.backward(np.ones(3))[0], np.full(3, 0.5))


@pytest.mark.parametrize(
    ("module", "name"),
    [("functional", "dropout"), ("variants", "drop_path"), ("linear", "drop_connect"), ("linear", "DropConnect")],
)
def test_the_names_of_earlier_modules_load(module, name):
    assert pickle.loads(f"ccdropout.{module}\n{name}\n.".encode()) is getattr(cd, name)


def test_a_stand_in_that_earlier_code_pickled_loads_and_goes_on():
    layer = deepnet.Dropout(0.75, rng=1)
    y = layer.forward(np.ones((4, 6)))
    state = {"_stream": layer._pass._stream, "_last": (layer._pass.mask.value, y.dtype, None)}
    layer._pass.__setstate__(state)
    assert np.array_equal(layer.mask, y)
    assert np.array_equal(layer.backward(np.ones((4, 6)))[0], y)
