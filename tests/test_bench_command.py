"""`python -m cdropout bench`: its comparisons and its output; speed is not tested."""

import importlib
import io
import json
import re
import sys

import numpy as np
import pytest

import cdropout as cd
from cdropout import __main__ as command_line
from cdropout import machine

for package in ("rich.console", "threadpoolctl"):
    pytest.importorskip(package)
Console = importlib.import_module("rich.console").Console
comparison = importlib.import_module("cdropout.bench.comparison")
report = importlib.import_module("cdropout.bench.report")


@pytest.fixture
def small_machine(monkeypatch):
    """Small sizes, so that a comparison is quick, and two threads from 8,192 elements on."""
    monkeypatch.setattr(machine, "cache_bytes", lambda: {1: 1 << 12, 2: 1 << 16, 3: 1 << 18})
    monkeypatch.setattr(comparison, "MEMORY_ELEMS", (1 << 17, 1 << 18))
    monkeypatch.setattr(comparison, "LEAST_ELEMS_FOR_TWO", 1 << 13)
    monkeypatch.setattr(comparison, "SETTLE_SECONDS", 0.0001)
    monkeypatch.setattr(comparison._kernels, "thread_limit", lambda: 2)


def test_the_sizes_fill_half_of_each_cache_and_outgrow_the_last():
    assert comparison.sizes({1: 48 << 10, 2: 1 << 20, 3: 32 << 20}) == {"L2": 1 << 16, "L3": 1 << 21, "memory": 1 << 24}
    three_of_24 = comparison.sizes({1: 32 << 10, 2: 1280 << 10, 3: 24 << 20})
    assert three_of_24 == {"L2": 1 << 16, "L3": 1 << 20, "memory": 1 << 24}
    assert comparison.sizes({1: 128 << 10, 2: 16 << 20}) == {"L2": 1 << 20, "memory": 1 << 24}
    assert comparison.sizes({2: 1 << 20, 3: 1 << 30})["memory"] == 1 << 26
    assert comparison.sizes({}) == comparison.sizes(comparison.USUAL_CACHES)


def test_everything_is_measured_on_every_size(small_machine):
    told = []
    turns = list(comparison.measure(0.1, 0.2, told.append))
    assert [(turn[0].place, turn[0].n_elems, turn[0].kind, turn[0].n_threads) for turn in turns] == [
        ("L2", 4096, "out of place", 1),
        ("L2", 4096, "in place", 1),
        ("L3", 16384, "out of place", 1),
        ("L3", 16384, "in place", 1),
        ("L3", 16384, "out of place", 2),
        ("L3", 16384, "in place", 2),
        ("memory", 131072, "out of place", 1),
        ("memory", 131072, "in place", 1),
        ("memory", 131072, "out of place", 2),
        ("memory", 131072, "in place", 2),
    ]
    for turn in turns:
        assert turn[0].ratio == 1
        assert all(figure.ns_per_elem > 0 for figure in turn)
        assert len(turn) == (6 if (turn[0].kind, turn[0].n_threads) == ("out of place", 1) else 2)
    assert told == sorted(told)
    assert len(told) >= 3 * len(turns)


def test_wrong_bits_are_an_error_and_nothing_is_timed(small_machine, monkeypatch):
    real = cd.dropout
    monkeypatch.setattr(cd, "dropout", lambda x, p, **options: real(x, p / 2, **options))
    monkeypatch.setattr(comparison, "interleaved_times", lambda *arguments, **options: pytest.fail("was timed"))
    with pytest.raises(comparison.WrongResultError, match="dropout must give the bits of its mask with"):
        list(comparison.measure(0.1, 0.1))


def test_what_numpy_is_timed_at_is_dropout():
    x = np.ones(100_000, np.float32)
    turn = comparison.Turn("L2", x.size, comparison.OUT_OF_PLACE, 1, 1.0)
    calls = comparison.contenders(x, np.empty_like(x), 0.25, turn)
    floor, *drops = calls.values()
    assert (floor() == np.float32(1 / 0.75)).all()
    assert len(drops) == 5
    for call in drops:
        y = call()
        np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)
        assert abs(np.count_nonzero(y == 0) - 25_000) < 6 * (x.size * 0.25 * 0.75) ** 0.5


def test_the_command_prints_a_table_and_what_it_says(small_machine, capsys):
    assert command_line.main(["bench", "--seconds", "0.1", "--p", "0.2"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "float32, p = 0.2" in shown.out
    for text in ("4,096", "16,384", "131,072", "(L2)", "(L3)", "(memory)", "with 2 threads", "NumPy, the best known"):
        assert text in shown.out
    for code in ("np.multiply(x, s, out=y)", "cdropout.dropout(x, p, out=x)", "x * ((rand(*shape) < keep) / keep)"):
        assert re.search(rf"^ *{re.escape(code)} +[0-9.e+-]+ \([0-9.e+]+\)", shown.out, re.MULTILINE)
    assert re.search(r"On one thread, cdropout is \d+ times \(L2\), .* as fast as NumPy's best code", shown.out)


@pytest.mark.parametrize(
    ("ns_per_elem", "ratio", "cell"),
    [
        (0.04567, 0.1234, "0.046 (0.12)"),
        (0.4567, 9.876, "0.457 (9.88)"),
        (4.567, 12.34, "4.57 (12)"),
        (45.67, 1.234, "45.7 (1.23)"),
        (999.4, 999.4, "999 (999)"),
    ],
)
def test_the_table_fits_into_a_usual_terminal(ns_per_elem, ratio, cell):
    sizes, kinds = {"L2": 65_536, "L3": 2_097_152, "memory": 16_777_216}, (comparison.OUT_OF_PLACE, comparison.IN_PLACE)
    written = [each.code for each in comparison.WRITE_UPS.values()]
    figures = [
        comparison.Figure(contender, place, n_elems, kind, n_threads, ns_per_elem, ratio)
        for kind in kinds
        for place, n_elems in sizes.items()
        for n_threads in (1, 64)
        for contender in (comparison.FLOORS[kind], comparison.OURS[kind], comparison.BEST, *written)
    ]
    drawn = io.StringIO()
    Console(file=drawn, width=report.USUAL_WIDTH).print(report.table(figures))
    assert "…" not in drawn.getvalue()
    assert drawn.getvalue().count(cell) == len(figures) - 2 * 3  # the multiplication takes one thread


@pytest.mark.parametrize("arguments", [["bench", "--json"], ["--json", "bench"]])
def test_json_has_every_figure_and_what_it_was_measured_with(small_machine, capsys, arguments):
    assert command_line.main([*arguments, "--seconds", "0.1"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["environment"]["cdropout"] == cd.__version__
    assert (written["p"], written["dtype"]) == (0.1, "float32")
    assert len(written["figures"]) == 3 * (6 + 2) + 2 * (2 + 2)
    assert all(figure["ratio"] > 0 for figure in written["figures"])


@pytest.mark.parametrize("package", ["rich", "threadpoolctl"])
def test_without_a_package_the_extra_is_named(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as caught:
        command_line.main(["bench"])
    assert caught.value.code == 2
    assert f'bench needs {package}: pip install "cdropout[cli]"' in capsys.readouterr().err


def test_the_command_runs_in_a_separate_process(run_python):
    code = (
        "from cdropout import machine; machine.cache_bytes = lambda: {2: 1 << 16}; "
        "from cdropout.bench import comparison; comparison.MEMORY_ELEMS = (1 << 16, 1 << 16); "
        "from cdropout.__main__ import main; main(['bench', '--seconds', '0.1'])"
    )
    run = run_python("-c", code)
    assert "as fast as NumPy's best code" in run.stdout.decode()
    assert run.stderr == b""
