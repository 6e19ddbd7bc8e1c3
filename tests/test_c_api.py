"""cdropout in other packages' loops: modules in Cython, C and C++, built against the installed package, give the same
bytes as Python.

Where cdropout is imported from the checkout, what its wheel would hold is copied into a folder first: the files that
setup.py selects, and the compiled modules that are in the checkout. CDROPOUT_WHEEL names a wheel to install instead.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import calls
import pytest
from compilers import reason_to_skip

import cdropout as cd
from cdropout import _kernels

ROOT = Path(__file__).parents[1]
SOURCES = Path(__file__).parent / "c_api"
PAGE = ROOT / "docs/c_api.md"
LANGUAGES = ("c", "cpp", "cython")

pytestmark = pytest.mark.skipif(not SOURCES.exists(), reason="the tests were taken out of the checkout")


def run(*arguments, folder, packages=(), check=True, env=None):
    """Run this Python in a folder, with packages first on its path."""
    path = os.pathsep.join(map(str, packages))
    environment = {**os.environ, **(env or {})}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**environment, "PYTHONPATH": path} if path else environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0 or not check, result.stdout + result.stderr
    return result


@pytest.fixture(scope="session")
def compiler():
    """Skip the test if Cython, setuptools or a compiler is missing."""
    for name in ("Cython", "setuptools"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    for name, suffix in (("CC", ".c"), ("CXX", ".cpp")):
        command = os.environ.get(name) or sysconfig.get_config_var(name) or "cc"
        if reason := reason_to_skip(*command.split(), suffix=suffix):
            pytest.skip(f"there is no compiler: {reason}")


@pytest.fixture(scope="session")
def packages(compiler, tmp_path_factory):
    """The folders that a program needs on its path to import an installed cdropout, which is never the checkout's."""
    site, wheel = Path(cd.__file__).resolve().parents[1], os.environ.get("CDROPOUT_WHEEL")
    if site != ROOT and wheel is None:
        return (site,)
    folder = tmp_path_factory.mktemp("site")
    if wheel is not None:
        options = ("--no-deps", "--disable-pip-version-check", "--quiet", "--target")
        run("-m", "pip", "install", *options, folder, Path(wheel).resolve(), folder=folder)
        return (folder,)
    run("setup.py", "-q", "build_py", "--build-lib", folder, folder=ROOT)
    for suffix in EXTENSION_SUFFIXES:
        for module in (ROOT / "cdropout").glob(f"*{suffix}"):
            shutil.copy(module, folder / "cdropout")
    return (folder,)


@pytest.fixture(scope="session")
def built(packages, tmp_path_factory):
    """The folder of the modules embedded_c, embedded_cpp and embedded_cython, built against the installed package."""
    folder = tmp_path_factory.mktemp("c_api") / "modules"
    shutil.copytree(SOURCES, folder)
    run("setup.py", "-q", "build_ext", "--inplace", folder=folder, packages=packages)
    return folder


@pytest.fixture(scope="session", params=LANGUAGES)
def module(request):
    """The name of a module in each language."""
    return f"embedded_{request.param}"


def answers(module, one_in, built, packages):
    """What a module gives for one in so many of the calls: distinct digests over all ways to cut and place it."""
    printed = run("calls.py", module, one_in, folder=built, packages=packages).stdout
    answer = json.loads(printed)
    assert Path(answer["cdropout"]).resolve().parent != ROOT / "cdropout"
    return answer["results"]


@pytest.fixture(scope="session")
def one_in(module):
    """The module in C answers one call in five, the others, which call the same functions, one in seven.

    These have no factor in common with the numbers of starts, probabilities, dtypes and kinds that calls are made of.
    """
    return 5 if module == "embedded_c" else 7


@pytest.fixture(scope="session")
def given(module, one_in, built, packages):
    """What a module gives for the calls that it is asked for."""
    return answers(module, one_in, built, packages)


@pytest.fixture(scope="session")
def expected():
    """A function that returns Python's digest for a call, computed once."""
    known = {}

    def of(call):
        if call not in known:
            known[call] = calls.digest(calls.by_python(call))
        return known[call]

    return of


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("operation", [*calls.OPERATIONS, *calls.NOISES, "fill_keep"])
def test_every_range_of_every_operation_gives_pythons_bytes(given, expected, one_in, operation, dtype):
    for call in calls.calls_of(operation, dtype)[::one_in]:
        assert given[str(call)] == [expected(call)], call


@pytest.mark.parametrize("part", calls.PARTS)
def test_any_cut_of_any_mask_that_python_can_make_gives_pythons_bytes(given, expected, one_in, part):
    for call in calls.strided_calls_of(part)[::one_in]:
        assert given[str(call)] == [expected(call)], call


@pytest.mark.deep
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_call_from_every_language_gives_pythons_bytes(built, packages, expected, language):
    given = answers(f"embedded_{language}", 1, built, packages)
    asked = calls.all_calls(1)
    assert len(given) == len(asked)
    for call in asked:
        assert given[str(call)] == [expected(call)], call


def test_masks_that_c_is_asked_for_have_every_form():
    masks = {name: part.mask(0.5) for name, part in calls.PARTS.items()}
    runs = {name for name, mask in masks.items() if mask.is_run and not mask.shared_axes}
    assert {"whole", "axes of length 1", "shape ()", "no elements"} <= runs
    assert {len(mask.shape) for mask in masks.values()} >= {0, 1, 2, 3, 4, 64}
    assert sum(not mask.is_run and bool(mask.shared_axes) for mask in masks.values()) >= 5
    assert calls.PARTS["the stream's last positions"].start + 8000 == _kernels.POSITION_LIMIT


def ask(module, code, built, packages):
    """Run code in which the module has the name embedded; return the lines that it prints."""
    program = f"import {module} as embedded\nimport numpy as np\nimport cdropout as cd\n{code}"
    return run("-c", program, folder=built, packages=packages).stdout.splitlines()


def test_c_and_python_take_positions_of_one_stream(module, built, packages):
    code = """
from concurrent.futures import ThreadPoolExecutor
stream, key = cd.Stream(5), cd.Stream(5).key
assert embedded.draw_mask(stream, 5000, 0.1) == (key & 2**64 - 1, key >> 64, 0, 0.1, 1 / (1 - 0.1))
assert cd.draw_mask(1, 0.1, rng=stream).start == 8192
assert embedded.draw_noise(stream, 4097, 0.5) == (key & 2**64 - 1, key >> 64, 12288, 0.5)
assert embedded.draw_mask(stream, 1, 1.0)[2:] == (20480, 1.0, 1.0)
def draw(i):
    if i % 2:
        return embedded.draw_mask(stream, 4097, 0.5)[2]
    return cd.draw_mask(4097, 0.5, rng=stream).start
with ThreadPoolExecutor(8) as pool:
    starts = list(pool.map(draw, range(4000)))
print(sorted(starts) == list(range(24576, 24576 + 4000 * 8192, 8192)), stream.position == 24576 + 4000 * 8192)
"""
    assert ask(module, code, built, packages) == ["True True"]


def test_a_draw_that_fails_takes_nothing(module, built, packages):
    code = """
stream = cd.Stream(5)
for p in (-0.1, 1.5, float("nan"), float("inf")):
    assert embedded.draw_mask(stream, 5, p) is None
    assert embedded.alpha_dropout(p) is None
for std in (-1.0, 1e38, float("nan"), float("inf")):
    assert embedded.draw_noise(stream, 5, std) is None
assert embedded.draw_mask(stream, 2**64 - 4095, 0.5) is None
assert embedded.draw_mask(stream, 2**64 - 1, 0.5) is None
print(stream.position, embedded.draw_mask(stream, 2**64 - 4096, 0.5)[2], embedded.draw_mask(stream, 1, 0.5))
"""
    assert ask(module, code, built, packages) == ["0 0 None"]


def test_alpha_dropout_has_pythons_numbers_and_the_raw_output_is_the_streams(module, built, packages):
    code = """
from cdropout import _kernels
for p in (0.0, 5e-324, 0.1, 0.5, 1 - 2.0**-53, 1.0):
    assert embedded.alpha_dropout(p) == _kernels.alpha_map(p)
raw, stream = np.empty(2 * 8192, np.uint8), cd.Stream(7)
embedded.fill_raw(raw.ctypes.data, stream, 2**32 - 1, 2)
print(np.array_equal(raw, _kernels.raw_blocks(stream.key, 2**32 - 1, 2)))
print(embedded.cached_bytes() == _kernels.get_limits()["max_cached_bytes"])
"""
    assert ask(module, code, built, packages) == ["True", "True"]


def test_what_does_not_fit_is_refused_and_nothing_is_written(module, built, packages):
    code = """
x, out = np.ones(10, np.float32), np.full(10, 7, np.float32)
mask, noise, a, b = cd.Mask(1, 0, 0.5, 10), cd.Noise(1, 0, 1.0, 10), out.ctypes.data, x.ctypes.data
good = (a, b, b, b, 5, 1, 0.0, 0.0, 0)
def apply(operation=3, dtype=0, fields=good, ranges=((0, 10),)):
    return embedded.apply(operation, dtype, fields, mask, None, list(ranges))
refused = [
    apply(operation=-1), apply(operation=9), apply(operation=10), apply(operation=11), apply(operation=2**31 - 1),
    apply(dtype=-1), apply(dtype=4), apply(ranges=[(5, 4)]),
    apply(fields=(0, *good[1:])), apply(fields=(a, 0, *good[2:])), apply(fields=(a, b, b, 0, *good[4:])),
    apply(fields=(a, b, b, b, 0, *good[5:])), apply(4, fields=(a, b, 0, *good[3:])),
    apply(7, fields=(a, b, 0, *good[3:])), apply(6, fields=(a, b, 0, *good[3:])),
    apply(7, fields=(*good[:5], 2, *good[6:])), apply(0, fields=(*good[:5], 8, *good[6:]), ranges=[(2**61, 2**61)]),
    embedded.apply_noise(1, 4, good, noise, [(0, 10)]), embedded.apply_noise(0, 0, good, noise, [(5, 4)]),
    embedded.apply_noise(0, 0, (0, *good[1:]), noise, [(0, 10)]), embedded.fill_keep(0, mask, [(0, 10)]),
    embedded.apply_noise(0, 0, (*good[:5], 2, *good[6:]), noise, [(0, 10)]), embedded.fill_keep(a, mask, [(5, 4)]),
]
print(set(refused), len(refused), np.all(out == 7), apply(ranges=[(3, 3)]), np.all(out == 7), apply())
"""
    assert ask(module, code, built, packages) == ["{-1} 23 True 0 True 0"]


def test_what_does_not_fit_a_strided_mask_is_refused_and_nothing_is_written(module, built, packages):
    code = """
x, out = np.ones(20, np.float32), np.full(20, 7, np.float32)
whole, a, b = cd.Mask(1, 0, 0.5, (1, 200)), out.ctypes.data, x.ctypes.data
mask, good = whole[:, ::20], (a, b, b, b, 5, 1, 0.0, 0.0, 0)
def apply(operation=3, dtype=0, fields=good, mask=mask, begin=0, end=10):
    return embedded.apply_strided(operation, dtype, fields, mask, None, [(begin, end)])
def keep(mask=mask, begin=0, end=10, out=a):
    return embedded.fill_keep_strided(out, mask, [(begin, end)])
masks = [
    *((mask, p, 2, (1, 10)) for p in (float("nan"), -0.1, 1.1, float("inf"))),
    *((mask, 0.5, n_axes, (1,) * 64) for n_axes in (-1, 65, -(2**31), 2**31 - 1)),
    *((mask, 0.5, 2, lens) for lens in ((2**32, 2**32), (2**63, 2), (3, 2**63), (2**64 - 1, 2**64 - 1))),
    (mask, 0.5, 64, (2,) * 64),
]
refused = [
    *(apply(operation, mask=m, end=1) for m in masks for operation in range(9)), *(keep(m, end=1) for m in masks),
    *(apply(operation) for operation in (-1, 7, 9, 10, 11, 2**31 - 1)), apply(dtype=-1), apply(dtype=4),
    apply(fields=(0, *good[1:])), apply(fields=(a, 0, *good[2:])), apply(fields=(a, b, b, 0, *good[4:])),
    apply(fields=(a, b, b, b, 0, *good[5:])), apply(4, fields=(a, b, 0, *good[3:])),
    apply(6, fields=(a, b, 0, *good[3:])), keep(out=0),
    *(call(begin=begin, end=end) for call in (apply, keep) for begin, end in ((5, 4), (0, 11), (11, 11), (12, 11))),
    *(apply(mask=cd.Mask(1, 0, 0.5, shape), end=end) for shape, end in (((), 2), ((0,), 1), ((3, 0), 3))),
]
print(set(refused), len(refused), np.all(out == 7))
print(apply(begin=10), keep(begin=3, end=3), np.all(out == 7), apply(mask=(mask, 0.5, 2, (1, 10)), begin=2), out[:2])
"""
    assert ask(module, code, built, packages) == [f"{{-1}} {13 * 10 + 26} True", "0 0 True 0 [7. 7.]"]


def test_kept_columns_in_any_ranges_of_rows_have_the_bits_of_python(module, built, packages):
    code = """
from cdropout.compact import KeepWords, gather_kept, scatter_kept
for number, dtype in enumerate((np.float32, np.float64)):
    mask = cd.Mask(5, 77, 0.4, 300)
    words, kept = np.full(5, 2**64 - 1, np.uint64), KeepWords(mask)
    x = np.random.default_rng(1).standard_normal((9, 300)).astype(dtype)
    dense = np.zeros((9, kept.n_kept), dtype)
    def move(rest, out, x, ranges=((5, 9), (0, 2), (2, 5)), scale=1.7, dtype=number):
        return embedded.move_kept(rest, dtype, out.ctypes.data, x.ctypes.data, 9, 300, words.ctypes.data, mask, scale,
                                  list(ranges))
    status = [move(0, dense, x)]
    same = [np.array_equal(words, kept.words), dense.tobytes() == gather_kept(x, None, kept, scale=1.7).tobytes()]
    for rest, name in ((1, "zero"), (2, "keep"), (3, "add")):
        out, expected = x.copy(), x.copy()
        status.append(move(rest, out, dense))
        scatter_kept(dense, None, kept, out=expected, rest=name, scale=1.7)
        same.append(out.tobytes() == expected.tobytes())
    before = out.copy()
    refused = [
        move(-1, out, dense), move(4, out, dense), move(1, out, dense, ((0, 10),)), move(1, out, dense, ((3, 2),)),
        move(1, out, dense, scale=float("inf")), move(1, out, dense, scale=float("nan")), move(1, out, dense, dtype=2),
        move(1, out, dense, dtype=-1),
    ]
    print(status, all(same), set(refused), np.array_equal(out, before))
"""
    assert ask(module, code, built, packages) == ["[0, 0, 0, 0] True {-1} True"] * 2


def test_objects_of_another_kind_are_type_errors_that_name_them(module, built, packages):
    code = """
fields = (0, 0, 0, 0, 0, 1, 0.0, 0.0, 0)
for call in (
    lambda: embedded.apply(0, 0, fields, "a mask", None, []),
    lambda: embedded.apply_noise(0, 0, fields, cd.Mask(1, 0, 0.5, 10), []),
    lambda: embedded.draw_mask(42, 1, 0.5),
    lambda: embedded.apply_strided(0, 0, fields, "a mask", None, []),
    lambda: embedded.apply_strided(0, 0, fields, cd.Noise(1, 0, 1.0, 10), None, []),
    lambda: embedded.fill_keep_strided(0, np.ones(3, bool), []),
):
    try:
        call()
    except TypeError as error:
        print(error)
"""
    assert ask(module, code, built, packages) == [
        "mask must be a cdropout.Mask, got str",
        "noise must be a cdropout.Noise, got Mask",
        "stream must be a cdropout.Stream, got int",
        "mask must be a cdropout.Mask, got str",
        "mask must be a cdropout.Mask, got Noise",
        "mask must be a cdropout.Mask, got ndarray",
    ]


def test_a_strided_mask_has_the_numbers_of_pythons(module, built, packages):
    code = """
import calls
for part in calls.PARTS.values():
    for p in (*calls.PART_PS, 0.1):
        mask = part.mask(p)
        numbers = (mask.key & 2**64 - 1, mask.key >> 64, mask.start, p, 1 / (1 - p) if p < 1 else 1.0)
        assert embedded.strided_fields(mask) == (*numbers, list(mask.shape), list(mask.strides)), mask
print(len(calls.PARTS), embedded.strided_fields(cd.Mask(5, 7, 0.5, (4, 6), shared_axes=0)[1:, 2:4]))
"""
    assert ask(module, code, built, packages) == [f"{len(calls.PARTS)} (5, 0, 9, 0.5, 2.0, [3, 2], [0, 1])"]


def test_a_mask_without_elements_may_have_strides_of_any_length(module, built, packages):
    code = """
for shape in ((0, 2**40, 2**40), (2**63 - 1, 0), (0, 2**62, 8), (2**62, 8, 0)):
    mask, arrays = cd.Mask(1, 0, 0.5, shape), (16, 16, 16, 0, 0, 1, 0.0, 0.0, 0)
    lens = embedded.strided_fields(mask)[5]
    print(0 in lens, len(lens) == len(shape), embedded.apply_strided(0, 0, arrays, mask, None, [(0, 0)]))
"""
    assert ask(module, code, built, packages) == ["True True 0"] * 4


def test_an_array_that_an_operation_does_not_name_is_not_read(module, built, packages):
    code = """
import numpy as np
y, mask = np.empty(100, np.float32), cd.draw_mask(100, 0.5, rng=1)
status = embedded.apply(1, 0, (y.ctypes.data, 16, 16, 16, 5, 1, 0.0, 0.0, 0), mask, None, [(0, 100)])
print(status, np.array_equal(y, mask.scaled()))
"""
    assert ask(module, code, built, packages) == ["0 True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="feenableexcept is GNU's")
def test_a_p_that_is_no_number_is_refused_where_invalid_operations_trap(module, built, packages):
    code = """
import ctypes, numpy as np
y, mask = np.zeros(100, np.float32), cd.draw_mask(100, 0.5, rng=1)
arrays, nan, status = (y.ctypes.data, y.ctypes.data, 0, 0, 0, 1, 0.0, 0.0, 0), float("nan"), []
ctypes.CDLL("libm.so.6").feenableexcept(1)  # FE_INVALID, on x86 and ARM
status.append(embedded.apply_strided(0, 0, arrays, (mask, nan, 1, (100,)), None, [(0, 100)]))
print(*status)
"""
    assert ask(module, code, built, packages) == ["-1"]


def test_a_part_with_gaps_has_no_mask_of_one_run(module, built, packages):
    code = """
part = cd.draw_mask((8, 10), 0.5, rng=1)[:, 2:5]
try:
    embedded.apply(0, 0, (0, 0, 0, 0, 0, 1, 0.0, 0.0, 0), part, None, [])
except ValueError as error:
    print(error)
"""
    (line,) = ask(module, code, built, packages)
    assert line.startswith("mask must take one run of positions, got Mask(")


@pytest.fixture
def headers(packages, tmp_path):
    """A copy of the installed package's headers that a test may change."""
    code = "import cdropout; print(cdropout.get_include())"
    include = run("-c", code, folder=tmp_path, packages=packages).stdout.rstrip("\n")
    return shutil.copytree(include, tmp_path / "headers")


def built_with(headers, packages):
    """Build embedded_c with these headers and return its folder."""
    folder = shutil.copytree(SOURCES, headers.parent / "module")
    env = {"CDROPOUT_TEST_HEADERS": str(headers)}
    run("setup.py", "-q", "build_ext", "--inplace", folder=folder, packages=packages, env=env)
    return folder


def replaced(path, pattern, replacement):
    """Replace a pattern's only match in a file."""
    text, n = re.subn(pattern, replacement, path.read_text(), flags=re.DOTALL)
    assert n == 1, (path, pattern, n)
    path.write_text(text)


@pytest.mark.parametrize(("major", "minor"), [(2, 0), (1, 99)])
def test_another_version_of_the_interface_is_an_import_error_that_names_both(packages, headers, major, minor):
    table = headers / "cdropout_table.h"
    assert "#define CDROPOUT_ABI_MAJOR 1\n#define CDROPOUT_ABI_MINOR 2\n" in table.read_text()
    replaced(table, r"(ABI_MAJOR) \d+", rf"\1 {major}")
    replaced(table, r"(ABI_MINOR) \d+", rf"\1 {minor}")
    folder = built_with(headers, packages)
    result = run("-c", "import embedded_c", folder=folder, packages=packages, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: this module must be rebuilt: it was built for version {major}.{minor} of cdropout's C "
        f"interface, got cdropout {cd.__version__} with version 1.2"
    )


def test_a_module_built_for_version_1_0_runs_unchanged(packages, headers):
    # The headers of 1.0 are those of 1.2 without the additions at the end.
    table, functions = headers / "cdropout_table.h", headers / "cdropout.h"
    replaced(table, r"(ABI_MINOR) \d+", r"\1 0")
    replaced(table, r"    /\* ---- since version 1\.1 ---- \*/.*(\} cdropout_table;)", r"\1")
    replaced(table, r"/\* Any mask that Python can make.*\} cdropout_strided_mask;\n", "")
    replaced(table, r"/\* A matrix of n_rows x n_columns.*CDROPOUT_ADD_TO_KEPT = 3 \};\n", "")
    replaced(functions, r"static inline int cdropout_strided_mask_of.*(#endif)", r"\1")
    assert "strided_mask" not in table.read_text() + functions.read_text()
    code = """
import calls
assert not hasattr(embedded, "apply_strided")
answers = {}
for operation in (*calls.OPERATIONS, *calls.NOISES, "fill_keep"):
    call = calls.calls_of(operation, "float32")[-1]
    print(calls.by_module(embedded, call) == [calls.digest(calls.by_python(call))])
"""
    lines = ask("embedded_c", code, built_with(headers, packages), (*packages, SOURCES.parent))
    assert lines == ["True"] * len((*calls.OPERATIONS, *calls.NOISES, "fill_keep"))


def test_the_benchmark_runs_and_checks_before_it_times(module, built, packages):
    for name in ("tqdm", "threadpoolctl"):
        pytest.importorskip(name)
    code = """
from benchmarks import c_api
c_api.compare_calls({"ours": embedded}, c_api.SMALL, rounds=1)
class Wrong:
    repeat = staticmethod(lambda *arguments: None)
try:
    c_api.compare_calls({"wrong": Wrong}, c_api.SMALL, rounds=1)
except RuntimeError as error:
    print(error)
"""
    lines = ask(module, code, built, (*packages, ROOT))
    assert [line.split()[0] for line in lines if line][-4:-1] == ["the", "ours", "mask.apply(x,"]
    assert lines[-1] == "wrong gave another result than mask.apply"


def constants_of(text, enum, constant):
    """Return the names and numbers of each enum of a C or Cython text, from patterns of an enum and of a constant."""
    enums = [re.findall(constant, body) for body in re.findall(enum, text, re.MULTILINE)]
    assert text.count(" = ") == sum(map(len, enums)), "an assignment stands outside of the enums that were found"
    return [{name: int(number) for name, number in pairs} for pairs in enums]


def test_constants_have_the_catalogs_names_and_numbers_in_c_and_in_cython():
    header = (Path(cd.get_include()) / "cdropout_table.h").read_text()
    cython = Path(cd.__file__).with_name("api.pxd").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    in_c = constants_of(header, r"^enum \{([^}]*)\};", r"CDROPOUT_(\w+) = (\d+)")
    in_cython = constants_of(cython, r"^cdef enum:\n((?:    .*\n)+)", r"(\w+) = (\d+)")
    for dtypes, operations, *others in (in_c, in_cython):
        assert dtypes == {name.upper(): number for number, name in enumerate(calls.DTYPES)}
        assert len(operations) >= 8
        for name, number in operations.items():
            assert _kernels.OPERATIONS.get(name.lower()) == number, name
        # Every operation has a constant for callers, or functions with its name.
        unnamed = _kernels.OPERATIONS.keys() - set(map(str.lower, operations))
        assert unnamed == {"multiply_by_noise", "add_noise"}
        rests = {"ZERO_REST": 1, "KEEP_REST": 2, "ADD_TO_KEPT": 3}
        assert others == [{"BLOCK": 4096, "RAW_BYTES_PER_BLOCK": 8192}, {"MAX_AXES": 64}, rests]
    assert list(calls.DTYPES) == ["float32", "float64", "float16", "bfloat16"]


def test_get_include_is_the_headers_folder():
    assert (Path(cd.get_include()) / "cdropout.h").is_file()
    assert Path(cd.get_include()).is_absolute()


# ---- docs/c_api.md --------------------------------------------------------------------------------------------------


def blocks(language):
    """Return the page's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.skipif(not PAGE.exists(), reason="the tests were taken out of the checkout")
def test_the_page_names_the_version_and_every_function_of_the_interface():
    page, table = PAGE.read_text(), (Path(cd.get_include()) / "cdropout_table.h").read_text()
    major, minor = re.findall(r"#define CDROPOUT_ABI_\w+ (\d+)", table)
    assert f"The interface's version is {major}.{minor}." in page
    functions = re.findall(r"^    \w+ \(\*(\w+)\)\(", table, re.MULTILINE)
    assert len(functions) >= 16
    assert [name for name in functions if f"`cdropout_{name}`" not in page] == []


@pytest.mark.skipif(not PAGE.exists(), reason="the tests were taken out of the checkout")
def test_the_page_compiles_and_runs_as_it_stands_there(packages, tmp_path):
    for language in ("cython", "c", "cpp", "python"):
        for block in blocks(language):
            name = re.match(r"(?:#|/\*|//) (\w+\.\w+)", block)
            if name:
                (tmp_path / name[1]).write_text(block)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("layer.c", "network.cpp", "parts.pyx", "setup.py", "training.pyx")
    ]
    run("setup.py", "-q", "build_ext", "--inplace", folder=tmp_path, packages=packages, env={"CFLAGS": "-O0 -g0"})
    programs = [block for block in blocks("python") if not block.startswith("# setup.py")]
    assert len(programs) >= 5
    run("-c", "\n".join(programs), folder=tmp_path, packages=packages)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("standard", ["c++98", "c++11", "c++17"])
def test_the_headers_compile_without_warnings_in_cpp(standard, tmp_path):
    source = tmp_path / "includes.cpp"
    source.write_text('#include "cdropout.h"\nint main() { return cdropout_import(); }\n')
    warnings = ["-pedantic", "-Wall", "-Wextra", "-Wold-style-cast", "-Wno-unused-function", "-Werror"]
    python = sysconfig.get_paths()["include"]
    command = ["g++", f"-std={standard}", *warnings, "-I", cd.get_include(), "-isystem", python, "-fsyntax-only"]
    subprocess.run([*command, source], check=True, timeout=60)
