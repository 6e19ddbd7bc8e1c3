"""The questions of the benchmarks, and those other than `compare`: they check before they time."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cdropout as cd
from benchmarks import command_line, frameworks, parts, threads, training_share
from benchmarks.cases import OPERATIONS, Case
from benchmarks.command_line import QUESTIONS, docstring_of, main
from benchmarks.result_check import Expectation, WrongResultError, check_result
from cdropout import _kernels
from cdropout.digits.data import LabelledImages, load_dataset
from examples.mnist.sample import SAMPLE

P = 0.1
ROOT = Path(command_line.__file__).parents[1]

# The command


def test_help_lists_every_question_without_importing_it(run_python):
    code = f"import sys; sys.path.append({str(ROOT)!r}); sys.modules['numpy.random'] = None"
    code += "; from benchmarks.command_line import main; main(['--help'])"
    shown = run_python("-c", code).stdout.decode().replace(os.linesep, "\n")
    for question in QUESTIONS:
        summary = docstring_of(question).partition("\n")[0]
        assert summary.endswith(".")
        assert re.search(rf"^ +{question} +{re.escape(summary)}$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "question", [name for name in QUESTIONS if name not in ("attention", "dask", "tables", "torch-models")]
)
def test_question_has_options_with_help(question, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([question, "--help"])
    assert exit_.value.code == 0
    assert docstring_of(question).splitlines()[-1] in capsys.readouterr().out


def test_question_whose_package_is_missing_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.attention", raising=False)
    with pytest.raises(SystemExit) as exit_:
        main(["attention"])
    assert exit_.value.code == 2
    assert "benchmarks attention: error: a package is not installed" in capsys.readouterr().err


SHARE_ARGUMENTS = ("--threads 0", "--rounds 0", "--p 1", "--batch 0", "--batch 10001")
SERVING_ARGUMENTS = ("--threads 0", "--rounds 0", "--p 1", "--samples x", "--requests -1")


@pytest.mark.parametrize(
    ("question", "arguments"),
    [*(("training-share", each) for each in SHARE_ARGUMENTS), *(("serving", each) for each in SERVING_ARGUMENTS)],
)
def test_question_refuses_bad_arguments(question, arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([question, *arguments.split()])
    assert exit_.value.code == 2
    assert f"argument {arguments.split()[0]}: " in capsys.readouterr().err


@pytest.mark.ci
@pytest.mark.parametrize("programs", [(), pytest.param(("MLP",), marks=pytest.mark.deep)])
def test_jax_checks_and_measures(run_python, programs):
    pytest.importorskip("jax")
    pytest.importorskip("tqdm")
    options = ("--sizes", "4096", "--rounds", "1", "--threads", "1", "--cpu-time", "--quiet", "--programs", *programs)
    # A separate process, whose CPUs the question limits. The checkout comes last on the path: its folder `cdropout/`
    # may have no compiled core.
    code = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.command_line import main; sys.exit(main())"
    run = run_python("-c", code, "jax", *options, check=False)
    assert run.returncode == 0, run.stderr.decode()
    lines = run.stdout.decode().splitlines()
    assert any(line.split()[0] == "4,096" for line in lines if line)
    names = [line.removeprefix("MLP 784-512-512-10").split()[0] for line in lines if line.startswith("MLP")]
    ours = [f"cdropout.jax.{name}" for name in ("dropout", "enable", "prng")]
    assert names == (["none", "threefry", "rbg", *ours] if programs else [])


@pytest.mark.deep
def test_jax_compares_one_thread_of_a_call_with_two(run_python):
    pytest.importorskip("jax")
    pytest.importorskip("tqdm")
    command = ("-m", "benchmarks", "jax", "--divided", "--quiet", "--threads")
    run = run_python(*command, "2", "--rounds", "1", env={"PYTHONPATH": str(ROOT)}, check=False)
    assert run.returncode == 0, run.stderr.decode()
    rows = [line.split() for line in run.stdout.decode().splitlines()[-7:]]
    assert [row[0] for row in rows] == [f"{1 << k:,}" for k in range(14, 21)]
    assert all(float(figure) > 0 for row in rows for figure in row[1:])
    run = run_python(*command, "1", env={"PYTHONPATH": str(ROOT)}, check=False)
    assert run.returncode == 2
    assert b"argument --divided: needs --threads 2 or more, got 1" in run.stderr


def test_floor_runs(capsys):
    assert main(["floor", "--sizes", "4096", "--rounds", "2", "--offset", "0"]) == 0
    assert "mask.apply(x, out=y)" in capsys.readouterr().out


def test_masks_runs(capsys):
    assert main(["masks", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        sum(line.startswith(("uint8 pixels", "int64 tokens", "bools", "mask of 1e6")) for line in lines)
        >= 3 + 2 + 7 + 5
    )


def test_threads_prints_a_ratio_for_each_form_of_decisions(monkeypatch, capsys):
    monkeypatch.setattr(threads, "DECISION_SIZES", (4096,))
    before = _kernels.get_limits()["min_elems_per_thread"]
    try:
        assert main(["threads", "--decisions", "--rounds", "1"]) == 0
    finally:
        _kernels.set_limits(min_elems_per_thread=before)
    assert re.search(r"^ +4096( +\S+){5}$", capsys.readouterr().out, re.MULTILINE)


def test_instruction_sets_have_a_row_for_each_dtype_and_a_column_for_each_size_and_set(capsys):
    pytest.importorskip("tqdm")
    isas = _kernels.supported_isas()[-2:]
    options = ("--sizes", "4096", "--rounds", "1", "--isas", *isas)
    assert main(["instruction-sets", *options, "--only", "relu_dropout_backward"]) == 0
    ratios = rf"( +\d+\.\d\d){{{len(isas)}}}$"
    out = capsys.readouterr().out
    assert len(re.findall(rf"^relu_dropout_backward\(.* float(16|32|64) .*{ratios}", out, re.MULTILINE)) == 3
    assert main(["instruction-sets", *options, "--only", "mask.packed", "--least", "--markdown"]) == 0
    assert re.search(r"^\| `mask.packed\(\)` \|", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(SystemExit):
        main(["instruction-sets", *options, "--only", "no such operation"])
    assert "argument --only: no operation contains" in capsys.readouterr().err


def test_instruction_sets_that_give_other_bits_are_refused(monkeypatch):
    from benchmarks import instruction_sets

    answers = iter([{"floor": [1.0], "operation": [1.0], "digest": name} for name in "ab"])
    monkeypatch.setattr(instruction_sets, "ask", lambda process, request: next(answers))
    row = instruction_sets.rows_of_table()[0]
    with pytest.raises(WrongResultError, match="must give the same bits"):
        instruction_sets.ratios({"avx2": None, "sse2": None}, row, {}, 1, False)


def test_import_time_runs(capsys):
    assert main(["import-time", "--rounds", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    numpy_alone, both, difference = (float(line.split()[-1]) for line in out[-3:])
    assert numpy_alone > 0
    assert difference == pytest.approx(both - numpy_alone, abs=0.11)


def test_parts_runs_and_leaves_the_library_as_it_was(monkeypatch, capsys):
    before = _kernels.get_limits()["max_gathered_stride"]
    monkeypatch.setattr(parts, "N_ELEMS", 4096)
    monkeypatch.setattr(parts, "STRIDES", (16, 2048))
    assert main(["parts", "--rounds", "2"]) == 0
    assert re.search("seeded +gathered", capsys.readouterr().out)
    assert main(["parts", "--rounds", "1", "--repeats", "64"]) == 0
    assert len(re.findall(r"^.+ of .+ 64 ( +[0-9.]+){6}$", capsys.readouterr().out, re.MULTILINE)) == len(parts.CUTS)
    assert _kernels.get_limits()["max_gathered_stride"] == before


# The share of a training step


@pytest.fixture(scope="module")
def few():
    data = load_dataset(SAMPLE)
    return replace(data, train=LabelledImages(data.train.images[:64], data.train.labels[:64]))


def test_share_is_the_part_of_a_step(few):
    shares = training_share.measure_shares(few, batch=8, rounds=2)
    assert list(shares) == list(training_share.DROPOUTS)
    assert shares.pop("none").share == 0
    for share in shares.values():
        assert 0 < share.dropout < share.step
        assert 0 < share.share < 1


@pytest.mark.parametrize("name", [name for name in training_share.DROPOUTS if name != "none"])
def test_layers_of_the_share_drop_the_same_elements_backward(name):
    layer = training_share.DROPOUTS[name](P, 1)
    x = Case(OPERATIONS["features"], 10_000, "float32", P, 1).x
    y, dx = layer.forward(x.copy()), layer.backward(x.copy())
    check_result(y, x, Expectation(P, 1 / (1 - P), OPERATIONS["forward"]))
    np.testing.assert_array_equal(dx, y)
    assert y.dtype == np.float32


# Frameworks


def contender_that(forward, backward=None):
    """A contender with one thing wrong: what it makes of its input, and of the output's gradient."""
    x, dy = frameworks.numbers((64, 128), 0), frameworks.numbers((64, 128), 1)
    return frameworks.Contender(list, lambda: [(x, forward(x)), *([(dy, backward(dy))] if backward else [])])


WRONG_CONTENDERS = {
    "the rate": (contender_that(lambda x: cd.dropout(x, 0.2) * np.float32(0.8 / 0.9)), "dropped must be"),
    "the scale": (contender_that(lambda x: cd.dropout(x, P) * np.float32(0.9)), "neither dropped nor kept"),
    "the gradient's mask": (
        contender_that(lambda x: cd.dropout(x, P), lambda dy: cd.dropout(dy, P)),
        "a gradient must",
    ),
    "the gradient's scale": (
        contender_that(lambda x: cd.dropout(x, P, rng=1), lambda dy: cd.dropout(dy, P, rng=1) * np.float32(0.9)),
        "neither dropped nor kept",
    ),
    "one mask for all calls": (contender_that(lambda x: cd.dropout(x, P, rng=1)), "each call must draw anew"),
}


@pytest.mark.parametrize("name", WRONG_CONTENDERS)
def test_framework_contender_is_refused_for(name):
    contender, message = WRONG_CONTENDERS[name]
    with pytest.raises(WrongResultError, match=f"cdropout: .*{message}"):
        frameworks.check_contender("cdropout", contender)


@pytest.fixture
def framework(request, monkeypatch):
    """The name of a framework that is installed, as its benchmark uses it."""
    name = request.param
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    module = pytest.importorskip({"thinc": "thinc.api"}.get(name, name), exc_type=ImportError)
    if name == "keras" and module.backend.backend() != "numpy":
        pytest.skip("Keras runs on another backend here")
    n_threads = module.get_num_threads() if name == "torch" else 1
    yield name
    if name == "torch":
        module.set_num_threads(n_threads)
    if name == "keras":
        importlib.import_module("cdropout.keras").disable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS, indirect=True)
def test_framework_contenders_pass_the_check_and_are_timed(framework, monkeypatch, capsys):
    monkeypatch.setattr(frameworks, "SHAPES", ((32, 64),))
    contenders = frameworks.FRAMEWORKS[framework]((32, 64))
    assert list(contenders) == [framework, "cdropout"]
    n_passes = {len(contender.passes()) for contender in contenders.values()}
    assert n_passes == {2 if framework == "torch" else 1}
    frameworks.compare(framework, rounds=1)
    assert capsys.readouterr().out.startswith(f"{framework:<10} {(32, 64)!s:>14} ")


@pytest.mark.parametrize("framework", ["torch"], indirect=True)
def test_framework_models_are_checked(framework):
    torch = importlib.import_module(framework)
    replace_dropout = importlib.import_module("cdropout.torch").replace_dropout
    x = torch.ones(16, 8)

    def model(p):
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(p))

    frameworks.check_model("none", model(0.0), x, 0.0)
    frameworks.check_model("torch", model(0.5), x, 0.5)
    with pytest.raises(WrongResultError, match="cdropout: dropout modules must be of"):
        frameworks.check_model("cdropout", model(0.5), x, 0.5)
    replaced = model(0.5)
    assert replace_dropout(replaced) == 1
    frameworks.check_model("cdropout", replaced, x, 0.5)
    with pytest.raises(WrongResultError, match=r"cdropout: .* neither dropped nor kept"):
        frameworks.check_model("cdropout", replaced, x, 0.05)
    with pytest.raises(WrongResultError):
        frameworks.check_model("cdropout", replaced.eval(), x, 0.5)


def test_framework_that_is_missing_or_wrong_is_not_timed(monkeypatch, capsys):
    wrong, _ = WRONG_CONTENDERS["the scale"]
    monkeypatch.setattr(frameworks, "interleaved_medians", None)
    monkeypatch.setitem(frameworks.FRAMEWORKS, "thinc", lambda shape: {"thinc": wrong})
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["frameworks", "--frameworks", "torch", "--rounds", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("torch      not measured: ")
    assert out[-1].startswith("torch, training steps not measured: ")
    assert main(["frameworks", "--frameworks", "thinc", "--rounds", "1"]) == 1
    assert "thinc      refused: thinc: " in capsys.readouterr().out


def test_programs_of_torch_are_checked_and_timed_and_those_without_their_package_left_out(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "transformers", None)
    options = ("--rounds", "1", "--threads", "1", "--quiet", "--compile")
    assert main(["torch-models", "--programs", "BERT", "MLP", *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("BERT           not measured: ")
    assert re.match(r"MLP +1 +2 +2 +0 ", out[-1])


def test_programs_of_torch_that_drop_differently_are_refused(monkeypatch):
    torch_models = pytest.importorskip("benchmarks.torch_models", exc_type=ImportError)
    program = torch_models.PROGRAMS["MLP"]()
    monkeypatch.setattr(program, "drop", lambda does: None)
    with pytest.raises(WrongResultError, match="none: "):
        torch_models.Contenders(program).check()


@pytest.mark.parametrize("option", [[], ["--kernels"], ["--torch", "--cpu-time"]])
def test_compact_prints_a_row_for_each_setting(option, capsys):
    n_tables = 1 + (importlib.util.find_spec("torch") is not None) if not option else "--torch" in option
    if "--torch" in option:
        pytest.importorskip("torch")
    shortest = ["--hidden", "32", "--batches", "8", "--p", "0.5", "--threads", "1", "--rounds", "1"]
    assert main(["compact", *shortest, *option]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^784-32-32-10 .*(?:SGD|Adam)", printed, re.MULTILINE)) == 2 * n_tables
    assert len(re.findall(r"^float\d\d half of the", printed, re.MULTILINE)) == (0 if "--torch" in option else 20)


def test_compact_measures_cpu_time_of_one_thread_in_pytorch_only(capsys):
    for options in (["--cpu-time"], ["--torch", "--cpu-time", "--threads", "1", "2"]):
        with pytest.raises(SystemExit) as exit_:
            main(["compact", *options])
        assert exit_.value.code == 2
        assert "--cpu-time: needs --torch --threads 1" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_prints_a_row_for_each_rule_and_size(dtype, capsys):
    assert main(["optimizers", "--rounds", "1", "--dtype", dtype, "--sizes", "100", "40000"]) == 0
    rows = re.findall(r"^(\w+) +(\d+)(?: +\d+\.\d+){5}$", capsys.readouterr().out, re.MULTILINE)
    assert rows == [(rule, n_elems) for rule in ("adam", "nesterov") for n_elems in ("100", "40000")]


def test_optimizers_prints_cpu_time_of_one_thread(capsys):
    assert main(["optimizers", "--cpu-time", "--rounds", "2", "--sizes", "1000"]) == 0
    rows = re.findall(r"^(\w+) +(\d+)(?: +\d+\.\d+){3}$", capsys.readouterr().out, re.MULTILINE)
    assert rows == [("adam", "1000"), ("nesterov", "1000")]


def test_optimizers_refuses_to_time_steps_with_other_bits(monkeypatch):
    from benchmarks import optimizers

    monkeypatch.setattr(optimizers, "MOMENTUM", 0.8)
    with pytest.raises(WrongResultError, match="nesterov: a step has other bits"):
        optimizers.measure("nesterov", 100, "float32", 1)


def test_networks_of_compact_in_pytorch_have_the_same_start():
    torch = pytest.importorskip("torch")
    from benchmarks.compact_torch import networks

    x = torch.rand(8, 20, generator=torch.Generator().manual_seed(0))
    made = networks((20, 16, 16, 5), 0.5)
    for model in made.values():
        assert torch.allclose(model.eval()(x), made["none"](x), atol=1e-6)


def test_networks_of_compact_have_the_same_start_and_full_products_without_dropout():
    from benchmarks.compact import networks

    x = np.random.default_rng(0).random((8, 20), np.float32)
    made = networks((20, 16, 16, 5), 0.5, len(x))
    plain = made["none"][0].forward(x)
    for name in ("compact", "lazy", "groups"):
        assert made[name][0].eval().forward(x) == pytest.approx(plain, rel=1e-4, abs=1e-5)


@pytest.mark.ci
def test_tables_prints_a_row_for_each_setting(capsys, monkeypatch):
    for package in ("torch", "sklearn"):
        pytest.importorskip(package)
    monkeypatch.delenv("CDROPOUT_MNIST", raising=False)
    from benchmarks import tables

    sample = load_dataset(SAMPLE)
    few = replace(
        sample,
        train=LabelledImages(sample.train.images[:256], sample.train.labels[:256]),
        test=LabelledImages(sample.test.images[:100], sample.test.labels[:100]),
    )
    monkeypatch.setattr(tables, "load_dataset", lambda source: few)
    monkeypatch.setattr(tables, "N_SUB_NETWORKS", 20)
    assert main(["tables", "--rounds", "1", "--threads", "1", "--epochs", "1", "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    for part in tables.PARTS:
        assert f"{part}:" in shown
    for row in (
        r"1 +scikit-learn",
        r"1 +PyTorch",
        r"mean +\d",
        r"diabetes +ours",
        r"synthetic +PyTorch",
        r"\(0.0, 0.5\) +\d",
    ):
        assert re.search(row, shown), row


# Programs in C


@pytest.mark.skipif("avx2" not in _kernels.known_isas() or shutil.which("cc") is None, reason="needs cc for x86-64")
@pytest.mark.parametrize("program", ["generator_choice.c", "kernels.c"])
def test_programs_in_c_compile_without_warnings(program):
    command = ["cc", "-mavx2", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"benchmarks/{program}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100).stderr == ""


def test_the_command_of_the_kernels_benchmark_compiles_every_source_of_the_core():
    comment = (ROOT / "benchmarks/kernels.c").read_text(encoding="utf-8").partition("*/")[0]
    patterns = re.findall(r"src/core/\S+\.c\b", comment)
    sources = {path for pattern in patterns for path in ROOT.glob(pattern)}
    # The command is for x86-64.
    assert sources == set((ROOT / "src/core").rglob("*.c")) - {ROOT / "src/core/isa/neon.c"}
