"""The C++ part of `cdropout.torch`: it is compiled on the user's machine, for the PyTorch that is installed.

PyTorch's C++ interface for autograd changes with each version, so no wheel could contain this library. One command of
a C++ compiler builds it from the files in `native/` against PyTorch's own headers, in less than a minute, and the
result is kept in a folder of the user's cache. Without a compiler, everything runs in Python: with the same masks, and
with more time for each call.

`CDROPOUT_TORCH_NATIVE=0` in the environment selects Python; with `CDROPOUT_TORCH_NATIVE=1` a failure is an error.
`CDROPOUT_CACHE` is the folder, `~/.cache/cdropout` by default; `CXX` is the compiler, `c++` by default.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import cdropout.api
from cdropout.c_api import get_include

_SOURCES = Path(__file__).parent / "native"
_SECONDS = 600  # longer than any compiler should take


class NativeBuildError(RuntimeError):
    """The C++ part of `cdropout.torch` could not be compiled or loaded; the message says why."""


class _State:
    """Whether the library is loaded, and why it is not."""

    is_loaded = False
    failure: str | None = None  # of this process's build: it is not tried again


def is_loaded() -> bool:
    """Return whether the C++ part of `cdropout.torch` is in use."""
    return _State.is_loaded


def is_refused() -> bool:
    """Return whether the environment asks for Python, by `CDROPOUT_TORCH_NATIVE=0`."""
    return os.environ.get("CDROPOUT_TORCH_NATIVE") == "0"


def load_if_built() -> bool:
    """Load the library if an earlier process has built it, and return whether it is loaded."""
    if not _State.is_loaded and not is_refused() and _State.failure is None:
        with contextlib.suppress(OSError, NativeBuildError):  # without a home folder there is no cache
            path = _library_path()
            if path.exists():
                _load(path)
    return _State.is_loaded


def load() -> bool:
    """Load the library, compiling it if no earlier process has, and return whether it is loaded.

    Warns once with the reason if it cannot be compiled.

    Raises
    ------
    NativeBuildError
        If it cannot be compiled and `CDROPOUT_TORCH_NATIVE=1`.

    """
    if load_if_built() or is_refused():
        return _State.is_loaded
    if _State.failure is None:
        try:
            build_native()
        except NativeBuildError as error:
            _State.failure = str(error)
            if os.environ.get("CDROPOUT_TORCH_NATIVE") != "1":
                message = f"cdropout.torch runs in Python, which is slower for small tensors: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=3)
    if _State.failure is not None and os.environ.get("CDROPOUT_TORCH_NATIVE") == "1":
        raise NativeBuildError(_State.failure)
    return _State.is_loaded


def build_native() -> Path:
    """Compile the C++ part of `cdropout.torch` unless that has been done, load it, and return its path.

    `enable` and `replace_dropout` do this on their first call. Call it to choose the time, as when an image of a
    container is built: `python -c "import cdropout.torch; cdropout.torch.build_native()"`.

    Raises
    ------
    NativeBuildError
        If there is no compiler, if it fails, or if PyTorch cannot load the result. The message has the end of the
        compiler's output.

    """
    try:
        path = _library_path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _lock(path.parent):  # of several processes that start together, one compiles
            if not path.exists():
                print(
                    f"cdropout.torch: compiling for PyTorch {torch.__version__}, once, in about a minute "
                    "(CDROPOUT_TORCH_NATIVE=0 skips this)",
                    file=sys.stderr,
                    flush=True,
                )
                _compile(path)
    except OSError as error:
        raise NativeBuildError(f"the cache folder cannot be used ({error}); CDROPOUT_CACHE names another") from None
    if not _State.is_loaded:
        _load(path)
    return path


def _cache_folder() -> Path:
    chosen = os.environ.get("CDROPOUT_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdropout"
    except RuntimeError as error:  # no home folder
        raise OSError(str(error)) from None


def _library_path() -> Path:
    """Return where the library of these sources, this PyTorch and this compiler's name is kept."""
    digest = hashlib.sha256()
    for file in [*_source_files(), *sorted(_SOURCES.glob("*.h")), Path(get_include()) / "cdropout_table.h"]:
        digest.update(file.read_bytes())
    digest.update(repr((torch.__version__, torch.version.git_version, _command())).encode())
    return _cache_folder() / f"torch-{torch.__version__}-{digest.hexdigest()[:16]}" / "cdropout_torch.so"


def _source_files() -> list[Path]:
    return sorted(_SOURCES.glob("*.cpp"))


def _command() -> list[str]:
    """Return the compiler and the options that all files share."""
    torch_headers = Path(torch.__file__).parent / "include"
    return [
        *shlex.split(os.environ.get("CXX") or "c++"),
        *("-std=c++20", "-O2", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-w"),
        f"-D_GLIBCXX_USE_CXX11_ABI={'1' if torch.compiled_with_cxx11_abi() else '0'}",
        *("-isystem", str(torch_headers), "-isystem", str(torch_headers / "torch/csrc/api/include")),
        *("-I", get_include()),
    ]


def _compile(path: Path) -> None:
    """Compile and link into a new file beside path, then give it its name: no other process sees a part of it."""
    libraries = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in _source_files()]
        compilations = [
            [*_command(), "-c", str(source), "-o", str(made)]
            for source, made in zip(_source_files(), objects, strict=True)
        ]
        _run(compilations)
        made = Path(folder) / path.name
        linked = [*_command(), "-shared", *map(str, objects), "-o", str(made), f"-L{libraries}"]
        _run([[*linked, "-ltorch_cpu", "-lc10"]])
        made.rename(path)


def _run(commands: list[list[str]]) -> None:
    """Run commands at the same time, and wait for all of them."""
    running = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            )
        for command, process in zip(commands, running, strict=True):
            output, _ = process.communicate(timeout=_SECONDS)
            if process.returncode != 0:
                raise NativeBuildError(f"{command[0]} failed:\n{output[-2000:]}")
    except FileNotFoundError as error:
        raise NativeBuildError(f"there is no C++ compiler {error.filename!r} (CXX names another)") from None
    except subprocess.TimeoutExpired:
        raise NativeBuildError(f"{commands[0][0]} was not done after {_SECONDS} s") from None
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold this folder's lock, once no other process does. Without fcntl, two processes may both build."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise NativeBuildError(f"PyTorch {torch.__version__} cannot load {path}: {error.__cause__ or error}") from None
    pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    torch.ops.cdropout.set_functions(pointer(cdropout.api.C_API, b"cdropout.api.C_API"))
    _State.is_loaded = True
