"""The benchmarks check before they time, work without optional packages, and write what they print."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cdropout as cd
from benchmarks import cases, chart, command_line, compare, contenders, processes, report, sweep
from benchmarks.cases import DTYPES, OPERATIONS, Case, Operation, Skip
from benchmarks.command_line import main
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.result_check import Expectation, WrongResultError, check_result, expect_dropout
from benchmarks.sweep import Plan, Results, measure, prepare, run_sweep
from benchmarks.table import Table
from benchmarks.timing import interleaved_times
from cdropout.command import CommandError

BENCHMARKS = Path(command_line.__file__).parent
FORWARD = OPERATIONS["forward"]
P = 0.1


@pytest.fixture
def case():
    return Case(FORWARD, 4096, "float32", P, 1)


@pytest.fixture
def tiny():
    """A plan that takes a moment."""
    return Plan(sizes=(128, 4096), contenders=("cdropout", "numpy-best"), rounds=2)


def last(results_so_far):
    """Return what a sweep yields last."""
    *_, results = results_so_far
    return results


# The checker


@pytest.mark.parametrize("dtype", cases.WIDE_DTYPES)
def test_dropout_passes_the_check(dtype):
    case = Case(FORWARD, 100_000, dtype, P, 1)
    dropped = check_result(cd.dropout(case.x, P, rng=1), case.x, expect_dropout(case))
    np.testing.assert_array_equal(dropped, ~cd.draw_mask(case.shape, P, rng=1).keep())


def drop(x, p, scale):
    return np.where(cd.draw_mask(x.shape, p, rng=1).keep(), x * x.dtype.type(scale), 0).astype(x.dtype)


def spoil(change):
    """Return a function that takes x and returns its dropout with one thing changed."""

    def make(x):
        y = drop(x, P, 1 / (1 - P))
        change(y)
        return y

    return make


def test_check_allows_for_the_rounding_of_subnormal_numbers():
    x = (np.arange(1, 5000) * 2.0**-24).astype(np.float16)  # up to 5 times the smallest normal number
    case = Case(FORWARD, x.size, "float16", P, 1)
    check_result(drop(x, P, 1 / (1 - P)), x, expect_dropout(case))
    with pytest.raises(WrongResultError):
        check_result(drop(x, P, 1.0), x, expect_dropout(case))


WRONG = {
    "a rate 12 sigma too high": (lambda x: drop(x, 0.156, 1 / (1 - P)), "dropped must be 410 of 4096"),
    "a rate 12 sigma too low": (lambda x: drop(x, 0.044, 1 / (1 - P)), "dropped must be 410 of 4096"),
    "nothing dropped": (lambda x: x / np.float32(1 - P), "dropped must be 410 of 4096"),
    "no scale": (lambda x: drop(x, P, 1), "neither dropped nor kept"),
    "the scale of p": (lambda x: drop(x, P, 1 / P), "neither dropped nor kept"),
    "a scale 1e-6 off": (lambda x: drop(x, P, 1 / (1 - P) * (1 + 1e-6)), "neither dropped nor kept"),
    "almost zeros": (lambda x: np.where((y := drop(x, P, 1 / (1 - P))) == 0, np.float32(1e-30), y), "neither"),
    "one NaN": (spoil(lambda y: y.__setitem__(5, np.nan)), "1 of 4096 elements are neither dropped nor kept"),
    "one infinity": (spoil(lambda y: y.__setitem__(-1, np.inf)), "1 of 4096 elements"),
    "nothing written": (lambda x: np.full_like(x, np.nan), "4096 of 4096 elements"),
    "another shape": (lambda x: x[:-1], "shape must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_checker_refuses(name, case):
    make, message = WRONG[name]
    with pytest.raises(WrongResultError, match=message):
        check_result(make(case.x), case.x, expect_dropout(case))


def test_checker_takes_a_floor_only_if_it_drops_nothing(case):
    expectation = Expectation(0.0, 1.0, Operation("copy"))
    check_result(case.x, case.x, expectation)
    y = case.x.copy()
    y[7] = 0
    with pytest.raises(WrongResultError, match="got 1"):
        check_result(y, case.x, expectation)


@pytest.mark.parametrize("name", ["features", "samples"])
def test_checker_refuses_decisions_that_are_not_shared(name):
    case = Case(OPERATIONS[name], 10_000, "float32", P, 1)
    axes = case.operation.shared_axes
    check_result(cd.dropout(case.x, P, rng=1, shared_axes=axes), case.x, expect_dropout(case))
    with pytest.raises(WrongResultError, match="shared along axes"):
        check_result(cd.dropout(case.x, P, rng=1), case.x, expect_dropout(case))


def unfused(case, p, scale):
    """A fused operation in plain NumPy."""
    operation = case.operation
    y = case.x + case.bias if operation.bias else case.x
    y = np.maximum(y, 0) if operation.relu else y
    y = drop(y, p, scale)
    return y + case.residual if operation.residual else y


@pytest.mark.parametrize("name", ["relu", "bias-relu-in-place", "add", "bias-add"])
def test_checker_knows_fused_operations(name):
    case = Case(OPERATIONS[name], 10_000, "float32", P, 1)
    arrays = {"bias": case.bias, "residual": case.residual}
    check_result(unfused(case, P, 1 / (1 - P)), case.x, expect_dropout(case), **arrays)
    for p, scale in ((P, 1.0), (0.2, 1 / (1 - P))):
        with pytest.raises(WrongResultError):
            check_result(unfused(case, p, scale), case.x, expect_dropout(case), **arrays)


def test_frozen_mask_is_refused_where_each_call_must_draw(case):
    mask = cd.draw_mask(case.shape, P, rng=1)
    frozen = Contender("forward", "", lambda case: lambda: mask.apply(case.x), name="frozen")
    with pytest.raises(WrongResultError, match="two dropped the same"):
        prepare(frozen, case)
    prepare(replace(frozen, redraws=False), case)


# The table of contenders


def test_contender_stands_once_in_each_operation_and_dtype():
    seen = [(contender.operation, contender.name, dtype) for contender in CONTENDERS for dtype in contender.dtypes]
    assert len(seen) == len(set(seen))
    assert {contender.operation for contender in CONTENDERS} == set(OPERATIONS)


@pytest.mark.parametrize("dtype", cases.WIDE_DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_one_floor(name, dtype):
    floors = [c for c in CONTENDERS if c.is_floor and c.operation == name and dtype in c.dtypes]
    assert len(floors) == 1


# Libraries other than NumPy are left out: to import them takes longer than all tests of this file.
OWN = [contender for contender in CONTENDERS if not contender.modules]


@pytest.mark.parametrize("contender", OWN, ids=[f"{c.operation}-{c.name}-{c.dtypes[0]}" for c in OWN])
def test_contender_gives_what_is_expected_of_it(contender):
    reasons = []
    for dtype in contender.dtypes:
        try:
            cases.probe_dtype(dtype)
            prepare(contender, Case(OPERATIONS[contender.operation], 6000, dtype, P, 1))
        except Skip as reason:
            reasons.append(str(reason))
    if len(reasons) == len(contender.dtypes):
        pytest.skip("; ".join(reasons))


def test_missing_library_is_a_reason_and_no_crash(monkeypatch, case, tiny):
    for name in ("torch", "jax", "numba", "mkl_random", "onnx", "onnxruntime", "mlx", "mlx.core"):
        monkeypatch.setitem(sys.modules, name, None)
    results = Results()
    measure(case, replace(tiny, contenders=contenders.NAMES), results)
    assert {row.contender for row in results.rows} == {
        contender.name for contender in OWN if contender.operation == "forward"
    }
    assert "pytorch: torch is not installed" in results.skipped
    assert "onnxruntime: onnx is not installed" in results.skipped
    assert "mlx: mlx.core is not installed" in results.skipped
    assert len(results.skipped) == sum(bool(c.modules) for c in CONTENDERS if c.operation == "forward")


def enter(monkeypatch, contender):
    """Let the sweep know no contenders but a floor and this one."""
    floor = next(c for c in CONTENDERS if c.is_floor)
    monkeypatch.setattr(sweep, "CONTENDERS", (floor, contender))


def fail(case):
    raise RuntimeError("no compiler\nand a second line")


def test_library_that_fails_is_skipped_and_ours_is_not(monkeypatch, case, tiny):
    peer = Contender("forward", "", fail, name="cdropout", modules=("numpy",))
    enter(monkeypatch, peer)
    results = Results()
    measure(case, tiny, results)
    assert results.skipped == ["cdropout: does not run: RuntimeError: no compiler"]
    assert [row.contender for row in results.rows] == ["floor"]
    enter(monkeypatch, replace(peer, modules=()))
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(case, tiny, Results())


def test_wrong_result_is_refused_and_never_timed(monkeypatch, case, tiny):
    calls = []

    def make(case):
        def call():
            calls.append(1)
            return np.zeros_like(case.x)

        return call

    enter(monkeypatch, Contender("forward", "", make, name="cdropout"))
    results = Results()
    measure(case, tiny, results)
    assert len(calls) == 1
    assert [row.contender for row in results.rows] == ["floor"]
    assert results.refused[0].startswith("cdropout, forward, 4,096 elements: dropped must be 410 of 4096")


def test_p_that_8_bits_cannot_express_is_a_reason():
    case = Case(FORWARD, 4096, "float32", 0.001, 1)
    contender = next(c for c in CONTENDERS if c.name == "numpy-8-bit")
    with pytest.raises(Skip, match=r"8 bits cannot tell p = 0\.001 from 0"):
        prepare(contender, case)


def test_dtype_that_cdropout_refuses_is_a_reason(monkeypatch, tiny):
    def refuse(x, p):
        raise TypeError("x must be an array of another dtype")

    monkeypatch.setattr(cd, "dropout", refuse)
    results = last(run_sweep(replace(tiny, operations=("backward",), dtypes=("float32", "float16")), progress=False))
    assert results.skipped == [
        "float32: cdropout refuses float32: x must be an array of another dtype",
        "float16: cdropout refuses float16: x must be an array of another dtype",
    ]
    assert results.rows == []


def test_bfloat16_without_ml_dtypes_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(Skip, match="ml_dtypes, which makes bfloat16 arrays, is not installed"):
        cases.probe_dtype("bfloat16")


def test_case_without_memory_is_a_reason(case):
    case.n_elems = 1 << 50
    if not Path("/proc/meminfo").exists():
        pytest.skip("this system does not tell how much memory it has")
    with pytest.raises(Skip, match="GiB of memory"):
        sweep.check_memory(case, 1)


# The sweep


def test_sweep_gives_rows_with_the_floor_at_1(tiny):
    results = last(run_sweep(tiny, progress=False))
    assert results.refused == []
    assert {row.operation for row in results.rows} == set(OPERATIONS)
    floors = [row for row in results.rows if row.contender == "floor"]
    assert len(floors) == len(OPERATIONS) * len(tiny.sizes)
    assert {row.ratio for row in floors} == {1.0}
    for row in results.rows:
        assert row.rounds == 2
        assert 0 < row.lower_quartile <= row.seconds <= row.upper_quartile
        assert row.ns_per_elem == pytest.approx(row.seconds / row.n_elems * 1e9)
        assert row.gb_per_s * row.seconds * 1e9 == pytest.approx(OPERATIONS[row.operation].n_moved * row.n_elems * 4)


def test_settings_vary_one_at_a_time_from_the_first():
    plan = Plan((128,), dtypes=("float32", "float64"), ps=(0.1, 0.5), thread_counts=(1, 2))
    assert plan.list_settings() == [("float32", 0.1, 1), ("float32", 0.1, 2), ("float64", 0.1, 1), ("float32", 0.5, 1)]


def test_contenders_of_one_thread_are_not_measured_again_with_more(tiny):
    plan = replace(tiny, thread_counts=(1, 2))
    for n_threads, expected in ((1, ["floor", "cdropout", "numpy-best"]), (2, ["floor", "cdropout"])):
        entrants = sweep.list_entrants(Case(FORWARD, 128, "float32", P, n_threads), plan)
        assert [contender.name for contender in entrants] == expected


def test_sweep_out_of_time_says_what_is_missing(tiny):
    results = last(run_sweep(replace(tiny, seconds=0.0), progress=False))
    assert results.rows == []
    assert "forward, 128 elements and more: no time left" in results.skipped


def test_interrupted_sweep_keeps_what_it_has(monkeypatch, tiny):
    def measure_once(case, plan, results, deadline):
        if case.n_elems > 128:
            raise KeyboardInterrupt
        measure(case, plan, results, deadline)

    monkeypatch.setattr(sweep, "measure", measure_once)
    results = last(run_sweep(tiny, progress=False))
    assert {row.n_elems for row in results.rows} == {128}
    assert results.skipped == ["all that would have followed: interrupted"]


def test_in_place_operations_never_run_out_of_elements():
    work = np.ones(1000)
    left = []

    def halve():
        left.append(np.count_nonzero(work))
        work[np.flatnonzero(work)[::2]] = 0

    def refresh():
        work.fill(1)

    times = interleaved_times(
        {"halve": halve}, rounds=3, seconds_per_turn=0.01, refresh=refresh, calls_per_refresh=2, progress=False
    )
    assert len(times["halve"]) == 3
    assert len(left) > 10
    assert min(left) == 500


@pytest.mark.parametrize("n_elems", [1, 2, 128, 97, 4096, 6000, 1 << 20])
def test_matrix_has_all_elements_and_is_as_square_as_can_be(n_elems):
    n_rows, n_cols = cases.near_square(n_elems)
    assert n_rows * n_cols == n_elems
    assert n_rows <= n_cols
    assert not any(n_elems % n == 0 for n in range(n_rows + 1, int(n_elems**0.5) + 1))


# The command


def test_tables_align_cells_with_titles():
    table = Table(("", "<6"), ("ns", "8.2f"), ("a long title", ".1f"))
    assert table.text([("one", 1.234, 5), ("two", None, "none")]).splitlines() == [
        *("             ns a long title", "one        1.23          5.0", "two                     none")
    ]


def plan_of(*arguments):
    return compare.make_plan(command_line.build_parser("compare").parse_args(["compare", *arguments]))


@pytest.fixture
def files(tmp_path):
    return ["--json", str(tmp_path / "table.json"), "--plot", str(tmp_path / "chart.png")]


TINY = ["compare", "--quick", "--quiet", "--sizes", "128", "1K", "--rounds", "2", "--operations", "forward", "in-place"]
TINY += ["--contenders", "cdropout", "numpy-best"]


def test_command_prints_tables_and_writes_json_and_a_chart(tmp_path, files, capsys):
    assert main([*TINY, *files]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("CPU  ", "instruction set  ", "threads  ", "versions  ", "cdropout " + cd.__version__):
        assert text in out
    assert "== forward, float32, p = 0.1, 1 thread\n" in out
    assert "== in-place, float32, p = 0.1, 1 thread\n" in out
    assert "== ratios to the floor\n" in out
    fields = json.loads((tmp_path / "table.json").read_text())
    assert set(fields) == {"machine", "plan", "rows", "skipped", "refused"}
    assert len(fields["rows"]) == 2 * (3 + 3)
    assert {row["ratio"] for row in fields["rows"] if row["contender"] == "floor"} == {1.0}
    assert [sweep.Row(**row).n_elems for row in fields["rows"]] == [128] * 3 + [1024] * 3 + [128] * 3 + [1024] * 3
    image = (tmp_path / "chart.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(image) > 20_000  # an empty canvas of this size has 5,000 bytes


def test_results_that_cannot_be_written_are_an_error_and_the_old_ones_stay_whole(monkeypatch, tmp_path, files, capsys):
    path = tmp_path / "table.json"
    path.write_text("old results")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CommandError, match=r"table\.json: must be writable, got No space left on device"):
        main([*TINY, *files])
    assert "== ratios to the floor\n" in capsys.readouterr().out
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.json", "old results")]


def test_refused_result_of_ours_is_a_status_of_1(monkeypatch, files, capsys):
    monkeypatch.setattr(cd, "dropout", lambda x, p=0.5, *, rng=None, out=None: np.zeros_like(x))
    assert main([*TINY, *files]) == 1
    assert "refused: cdropout, forward, 128 elements: dropped must be 13 of 128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sizes 0", "argument --sizes: a size must be a number of elements from 1 to 2^32, such as 4096"),
        ("--sizes 1.5K", "got '1.5K'"),
        ("--sizes 4096M", None),
        ("--sizes 4097M", "got '4097M'"),
        ("--sizes -5", "argument --sizes"),
        ("--dtypes int8", "argument --dtypes: invalid choice: 'int8'"),
        ("--p 0", "argument --p: p must be in (0, 1), got '0'"),
        ("--p 1", "argument --p: p must be in (0, 1), got '1'"),
        ("--p nan", "argument --p: p must be in (0, 1), got 'nan'"),
        ("--p half", "argument --p: p must be in (0, 1), got 'half'"),
        ("--threads 0", "argument --threads: must be an integer of at least 1, got '0'"),
        ("--threads many", "argument --threads: must be an integer of at least 1, got 'many'"),
        ("--rounds 0", "argument --rounds: must be an integer of at least 1, got '0'"),
        ("--operations sideways", "argument --operations: invalid choice: 'sideways'"),
        ("--contenders tensorflow", "argument --contenders: unknown contender 'tensorflow'; known are floor, cdropout"),
        (
            "--json no/such/folder/x.json",
            f"argument --json: no/such/folder/x.json: folder {Path('no/such/folder')} must exist",
        ),
        ("--json .", "argument --json: .: must be a file, got a folder"),
        ("--plot chart.txt", "argument --plot: chart.txt: suffix must be one of .png, .pdf, .svg"),
    ],
)
def test_argument_errors_name_argument_rule_and_value(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if message is None:
        assert plan_of(*arguments.split()).sizes == (1 << 32,)
        return
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *arguments.split()])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_plan_without_options_covers_all_that_is_promised():
    plan = plan_of()
    assert (plan.sizes[0], plan.sizes[-1]) == (128, 64 << 20)
    assert plan.dtypes == DTYPES
    assert plan.contenders == contenders.NAMES
    assert plan.operations == tuple(OPERATIONS)
    assert plan.seconds is None
    quick = plan_of("--quick", "--sizes", "4K", "1K", "4K")
    assert quick.seconds < 60
    assert quick.sizes == (1024, 4096)


def test_module_runs_from_a_checkout_whose_source_folder_cannot_be_imported(tmp_path):
    for folder in (BENCHMARKS, BENCHMARKS.parent / "examples"):
        ignored = shutil.ignore_patterns("results", "data", "__pycache__")
        shutil.copytree(folder, tmp_path / folder.name, ignore=ignored)
    (tmp_path / "cdropout").mkdir()
    (tmp_path / "cdropout" / "__init__.py").write_text("raise ImportError('the source folder')")
    run = subprocess.run(
        processes.command_of("compare", "--contenders", "unknown"),
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "benchmarks compare: error: argument --contenders: unknown contender 'unknown'" in run.stderr
    assert run.returncode == 2


# The chart


def test_labels_keep_their_order_and_their_distance():
    values = [1.0, 1.01, 5.0, 0.99, 5.2]
    placed = chart.spread(values, 1.2)
    assert np.argsort(placed).tolist() == np.argsort(values).tolist()
    ordered = np.sort(placed)
    assert (ordered[1:] / ordered[:-1] >= 1.2 * (1 - 1e-9)).all()
    assert chart.spread([1.0, 10.0], 1.2) == pytest.approx([1.0, 10.0])


@pytest.mark.parametrize(
    ("n_elems", "text"), [(128, "128"), (1000, "1000"), (4096, "4 K"), (1 << 26, "64 M"), (1 << 30, "1024 M")]
)
def test_sizes_are_abbreviated_where_that_is_exact(n_elems, text):
    assert chart.abbreviate(n_elems) == text


def test_summary_has_a_column_for_each_size(tiny):
    rows = last(run_sweep(replace(tiny, operations=("forward",)), progress=False)).rows
    lines = report.summary(rows).splitlines()
    assert lines[1].split() == ["elements", "128", "4,096"]
    assert [line.split()[0] for line in lines[3:]] == ["cdropout", "numpy-best"]
    assert all(len(line.split()) == 3 for line in lines[3:])
