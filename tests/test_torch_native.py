"""The C++ part of cdropout.torch: building, caching, loading it, and doing without it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cdropout.torch as ct  # noqa: E402

native = ct.native_library

PRINT_MASK = """
import torch
import torch.nn.functional as F
import cdropout.torch as ct
loaded = ct.native_library.load()
torch.manual_seed(5)
x = torch.linspace(-1, 1, 3000).view(10, 20, 15).requires_grad_()
ys = [ct.dropout(x, 0.3), ct.dropout1d(x, 0.2), ct.alpha_dropout(x, 0.4, True), ct.dropout(x.transpose(0, 2), 0.5)]
with ct.enabled(bernoulli=True):
    ys += [F.dropout(x, 0.1), F.feature_alpha_dropout(x, 0.1, True), torch.empty(7, 9).bernoulli_(0.5)]
    ys.append(F.scaled_dot_product_attention(x, x, x, dropout_p=0.2))
sum(y.double().square().sum() for y in ys).backward()
print(loaded, [y.double().sum().item() for y in ys], x.grad.double().sum().item())
"""


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )


@pytest.fixture(scope="module")
def is_built():
    if native.is_refused():
        pytest.skip("CDROPOUT_TORCH_NATIVE=0")
    if shutil.which(native._command()[0]) is None:
        pytest.skip("no C++ compiler")
    return native.build_native()


def test_cpp_and_python_draw_the_same_masks(is_built):
    in_cpp = run(PRINT_MASK)
    in_python = run(PRINT_MASK, CDROPOUT_TORCH_NATIVE="0")
    assert in_cpp.stdout.startswith("True ")
    assert in_python.stdout.startswith("False ")
    assert in_cpp.stdout.split(" ", 1)[1] == in_python.stdout.split(" ", 1)[1]
    assert in_python.stderr == ""


@pytest.mark.ci
def test_importing_compiles_nothing_and_switches_nothing_on(tmp_path):
    code = """
import sys, torch
before = "torch._dynamo" in sys.modules  # PyTorch's compiler, whose import takes longer than that of all else
import cdropout.torch as ct
print(ct.native_library.is_loaded(), ct.is_enabled(), ("torch._dynamo" in sys.modules) != before)
"""
    assert run(code, CDROPOUT_CACHE=str(tmp_path)).stdout.split() == ["False", "False", "False"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_without_a_compiler_python_runs_and_says_so_once(tmp_path):
    code = """
import torch, cdropout.torch as ct
ct.enable(); ct.disable(); ct.enable(); ct.replace_dropout(torch.nn.Dropout())
print(torch.nn.functional.dropout(torch.ones(99), 0.5).unique().tolist())
"""
    done = run(code, CDROPOUT_CACHE=str(tmp_path), CXX="/no/such/compiler")
    assert done.stdout.strip() == "[0.0, 2.0]"
    assert done.stderr.count("RuntimeWarning") == 1
    assert "there is no C++ compiler '/no/such/compiler'" in done.stderr
    refused = run(code, CDROPOUT_CACHE=str(tmp_path), CXX="/no/such/compiler", CDROPOUT_TORCH_NATIVE="0")
    assert "Warning" not in refused.stderr


@pytest.mark.ci
def test_a_compiler_that_fails_is_quoted(tmp_path):
    code = "import cdropout.torch as ct; ct.build_native()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "CDROPOUT_CACHE": str(tmp_path), "CXX": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "NativeBuildError: false failed:" in done.stderr
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"], "no unfinished library"


@pytest.mark.ci
def test_a_failure_is_an_error_where_the_environment_says_so(tmp_path):
    code = """
import cdropout.torch as ct
try:
    ct.enable()
except ct.NativeBuildError as error:
    print("refused", ct.is_enabled())
"""
    done = run(code, CDROPOUT_CACHE=str(tmp_path), CXX="/no/such/compiler", CDROPOUT_TORCH_NATIVE="1")
    assert done.stdout.split() == ["refused", "False"]


@pytest.mark.ci
def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = "import cdropout.torch as ct; ct.enable()"
    assert "the cache folder cannot be used" in run(code, CDROPOUT_CACHE=str(blocked)).stderr


@pytest.mark.ci
def test_of_processes_that_start_together_one_compiles(is_built, tmp_path):
    # The compiler gives what the real one has made. One second is enough for the other processes to wait for it.
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(
        "#!/bin/sh\n"
        f"echo >>{calls}; sleep 1\n"
        'for word; do if [ "$previous" = -o ]; then made="$word"; fi; previous="$word"; done\n'
        f'cp {is_built} "$made"\n'
    )
    compiler.chmod(0o755)
    code = "import cdropout.torch as ct; print(ct.build_native())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "CDROPOUT_CACHE": str(tmp_path), "CXX": str(compiler)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("compiling" in stderr for _, stderr in outputs) == 1
    assert len({stdout for stdout, _ in outputs}) == 1
    assert len(calls.read_text()) == len(native._source_files()) + 1


@pytest.mark.ci
def test_a_library_that_pytorch_cannot_load_is_refused(is_built, tmp_path, monkeypatch):
    monkeypatch.setenv("CDROPOUT_CACHE", str(tmp_path))
    path = native._library_path()
    path.parent.mkdir()
    path.write_bytes(b"not a library")
    assert "cannot load" in run("import cdropout.torch as ct; ct.enable()").stderr


def last_uses():
    """Return gradients that the backward pass must not overwrite: who else refers to them, and how to see it."""
    held = {}

    def hold(name):
        return lambda gradient: held.update({name: (gradient, gradient.clone())})

    x = torch.randn(64, requires_grad=True)
    y = torch.nn.functional.dropout(x, 0.5)
    y.register_hook(hold("a hook's"))
    (3 * y).sum().backward()
    y = torch.nn.functional.dropout(x, 0.5)
    y.retain_grad()
    (y * torch.arange(64)).sum().backward()
    held["a retained one"] = (y.grad, torch.arange(64.0))
    given = torch.arange(64.0)
    torch.nn.functional.dropout(x, 0.5).backward(given)
    held["the caller's"] = (given, torch.arange(64.0))
    memory = np.arange(64, dtype=np.float32)
    torch.nn.functional.dropout(x, 0.5).backward(torch.from_numpy(memory)[:])
    held["a view of an array"] = (torch.from_numpy(memory), torch.arange(64.0))
    # Addition gives one gradient to both branches, and the other one is used after dropout's.
    other = torch.randn(64, requires_grad=True)
    ((torch.nn.functional.dropout(x, 0.5) + other) * torch.arange(64)).sum().backward()
    held["one of two branches"] = (other.grad, torch.arange(64.0))
    return held


def test_the_backward_pass_overwrites_no_gradient_that_others_refer_to():
    with ct.enabled():
        for name, (gradient, expected) in last_uses().items():
            assert torch.equal(gradient, expected), name


def test_a_gradient_without_another_use_is_overwritten(is_built):
    def n_allocated(use):
        x = torch.randn(64, requires_grad=True)
        y = torch.nn.functional.dropout(x, 0.5)
        loss = use(y).sum()
        one = torch.ones([])
        with torch.profiler.profile() as profiled:
            loss.backward(one)
        assert set(x.grad.tolist()) == {0.0, 6.0}
        return sum(event.count for event in profiled.key_averages() if event.key == "aten::empty_like")

    with ct.enabled():
        assert n_allocated(lambda y: y * 3) == 0
        # The branch of an older operation is computed after dropout's, and addition gives both the same gradient.
        older = torch.zeros(64, requires_grad=True) * 2
        assert n_allocated(lambda y: (y + older) * 3) == 1


COUNT_DRAWN = """
import torch
import cdropout.torch as ct
loaded = ct.native_library.load()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
    torch.ops.cdropout.draw(torch.ones(100), 0.5, [], False, 1)
print(loaded, [event.name for event in profiled.events()].count("cdropout::masked"))
"""


def test_the_profiler_sees_a_mask_that_a_compiled_graph_draws(is_built):
    assert run(COUNT_DRAWN).stdout == "True 1\n"
    assert run(COUNT_DRAWN, CDROPOUT_TORCH_NATIVE="0").stdout == "False 1\n"
