"""The build: flags of the environment that change results, and what becomes of OpenMP."""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from compilers import reason_to_skip
from conftest import switches_settings
from setuptools import Distribution, Extension
from setuptools.errors import CompileError, OptionError

import cdropout as cd
from cdropout import _kernels

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).with_name("float_flags.c")
# What setuptools reads besides sysconfig.
VARIABLES = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "CDROPOUT_OPENMP", "CDROPOUT_PORTABLE")

pytestmark = [
    switches_settings,
    pytest.mark.skipif(not (ROOT / "src/core").is_dir(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the flags are those of gcc and clang on Linux"),
    pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler"),
]


@pytest.fixture
def setup_py(monkeypatch):
    """The module setup.py, which builds nothing when it is imported here, in an environment without flags."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: None)
    specification = importlib.util.spec_from_file_location("setup_of_cdropout", ROOT / "setup.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


RUN = """
import ctypes, json, sys
import numpy as np
from numpy import float64, longdouble
state = lambda: (float(float64(1e-308) * float64(0.01)), float(longdouble(1) / 3 * 3 - longdouble(1) / 3 * 2))
before = state()
library = ctypes.CDLL(sys.argv[1])
double = ctypes.c_double
def call(name, *arguments):
    function = getattr(library, name)
    function.restype, function.argtypes = double, [double] * len(arguments)
    return function(*arguments).hex()
library.is_nan.argtypes = [double]
x = np.arange(1, 9) / 7
library.thirds(x.ctypes.data_as(ctypes.c_void_p))
library.changed_by_flags.restype = ctypes.c_char_p
print(json.dumps({
    "process": [before, state()],
    "is_nan": library.is_nan(float("nan")),
    "plus_zero": call("plus_zero", -0.0),
    "product_and_sum": call("product_and_sum", 1 + 2**-30, 1 - 2**-30, -1.0),
    "sum_and_difference": call("sum_and_difference", 1e16, 1.25),
    "tenth": call("tenth"),
    "product_of_products": call("product_of_products", 1e200, 1e-200),
    "thirds": x.tolist(),
    "openmp": [library.has_openmp(), library.serial_reason()],
    "changed": (library.changed_by_flags() or b"").decode(),
}))
"""


def results_of(library):
    """Return the results of float_flags.c, and the floating-point state of the process before and after it is loaded.

    In a new process, because the state stays changed.
    """
    return json.loads(subprocess.run([sys.executable, "-c", RUN, library], check=True, stdout=-1, timeout=60).stdout)


@pytest.fixture
def build(setup_py, tmp_path, monkeypatch):
    """Build float_flags.c as setup.py builds the compiled module, in an environment, and return its results."""

    def build(**environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            extension = Extension("cdropout._kernels", [str(SOURCE)], include_dirs=[str(ROOT / "src")])
            command = setup_py.BuildInParallel(Distribution({"ext_modules": [extension]}))
            patch.setattr(setup_py, "translate", lambda extensions: None)
            command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
            command.ensure_finalized()
            command.run()
            return results_of(command.get_ext_fullpath("cdropout._kernels"))

    return build


# ---- C sources that Cython writes -----------------------------------------------------------------------------------


def test_c_sources_made_with_another_numpy_are_not_reused(setup_py, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("module.pyx").write_text("x = 1\n")

    def translate():
        extension = Extension("module", ["module.pyx"])
        setup_py.translate([extension])
        (source,) = extension.sources
        return Path(source)

    mark = "/* made before */"
    made = translate()
    made.write_text(made.read_text() + mark)
    assert mark in translate().read_text()
    monkeypatch.setattr(np, "__version__", "9.9")
    assert mark not in translate().read_text()


# ---- flags ----------------------------------------------------------------------------------------------------------

FAST = "-Ofast -ffast-math -ffp-contract=fast -march=native"
# Flags of the environment, and a result that they change without setup.py.
FLAGS = {
    "-ffast-math": "process",
    "-Ofast": "process",
    "-funsafe-math-optimizations": "process",
    "-ffinite-math-only": "is_nan",
    "-fno-signed-zeros": "plus_zero",
    "-fassociative-math -fno-signed-zeros -fno-trapping-math": "sum_and_difference",
    "-freciprocal-math": "thirds",
    "-ffp-contract=fast -march=native": "product_and_sum",
    "-fsingle-precision-constant": "tenth",
    "-mfpmath=387": "product_of_products",
    "-mpc32": "process",
}


def has_flags(compiler, flags):
    return reason_to_skip(compiler, *flags.split()) is None


@pytest.mark.ci
@pytest.mark.promise("import")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_flags_of_the_environment_change_no_result_and_no_state_of_the_process(build, compiler):
    if reason := reason_to_skip(compiler):
        pytest.skip(reason)
    expected = build(CC=compiler)
    assert expected["process"][0] == expected["process"][1]
    assert build(CC=compiler, CFLAGS=FAST) == expected
    elsewhere = {"CPPFLAGS": "-ffinite-math-only", "LDFLAGS": "-funsafe-math-optimizations"}
    if has_flags(compiler, "-mpc32"):
        elsewhere["LDFLAGS"] += " -mpc32"
    assert build(CC=f"{compiler} {FAST}", **elsewhere) == expected


@pytest.mark.deep
@pytest.mark.parametrize("variable", ["CC", "CFLAGS", "CPPFLAGS", "LDFLAGS"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", FLAGS)
def test_each_flag_in_each_variable_changes_no_result(build, compiler, variable, flags):
    if not has_flags(compiler, flags):
        pytest.skip(f"{compiler} has no {flags}")
    with_flags = {"CC": compiler} | {variable: f"{compiler} {flags}" if variable == "CC" else flags}
    assert build(**with_flags) == build(CC=compiler)


@pytest.fixture(scope="module")
def compile_alone(tmp_path_factory):
    """Compile float_flags.c without setup.py; return what the compiler says, and the results where it compiles."""
    library = tmp_path_factory.mktemp("alone") / "library.so"

    def compile_alone(compiler, *flags):
        command = [compiler, "-std=c11", "-O2", "-I", ROOT / "src", "-shared", "-fPIC", SOURCE, "-o", library, *flags]
        compiled = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        return compiled.stderr, results_of(library) if compiled.returncode == 0 else None

    return compile_alone


CONTRACTION = "-ffp-contract=fast -march=native"
# The link changes the state of the process; the arithmetic stays as it is.
ONLY_LINKED = "-mpc32"
# clang 14 accepts it and ignores it.
IGNORED = ("clang", "-fsingle-precision-constant")


@pytest.mark.ci
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_flags_without_setup_py_change_a_result_and_are_refused_or_found_at_run_time(compile_alone, compiler, flags):
    # The control of the tests above, and the checks in the sources for builds without setup.py.
    if reason := reason_to_skip(compiler):
        pytest.skip(reason)
    if not has_flags(compiler, flags):
        pytest.skip(f"this {compiler} has no {flags}")
    _, plain = compile_alone(compiler)
    assert plain["changed"] == ""
    said, found = compile_alone(compiler, *flags.split())
    is_refused = found is None
    if is_refused:
        assert re.search(r"error: .*cdropout must be compiled without", said)
        _, found = compile_alone(compiler, *flags.split(), "-DCDROPOUT_FLOAT_FLAGS_H")  # leaves the check out
    if flags == CONTRACTION and found == plain:
        pytest.skip("this processor has no instruction for a product and a sum")
    if (compiler, flags) == IGNORED:
        assert found == plain
        return
    assert found[FLAGS[flags]] != plain[FLAGS[flags]]
    assert bool(found["changed"]) == (flags != ONLY_LINKED)
    if compiler == "gcc":  # defines a macro for every flag except these
        assert is_refused == (flags not in (CONTRACTION, ONLY_LINKED))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "i686"), reason="only x86's blendv is removed")
def test_gcc_is_refused_with_unsigned_char_unless_a_later_flag_undoes_it(compile_alone):
    if reason := reason_to_skip("gcc"):
        pytest.skip(reason)
    said, found = compile_alone("gcc", "-funsigned-char")
    assert found is None
    assert "error: #error" in said
    assert "-fsigned-char" in said
    _, undone = compile_alone("gcc", "-funsigned-char", "-fsigned-char")
    assert undone == compile_alone("gcc")[1]


def test_flags_that_change_results_are_refused_after_those_of_setup_py(build, tmp_path):
    # A wrapper that adds flags at the end, where setup.py cannot undo them.
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec cc "$@" -ffast-math\n')
    wrapper.chmod(0o755)
    with pytest.raises(CompileError):
        build(CC=str(wrapper))


def test_a_build_for_32_bit_x86_asks_for_sse2(build, monkeypatch):
    if reason := reason_to_skip("i686-linux-gnu-gcc"):
        pytest.skip(reason)
    monkeypatch.setitem(globals(), "results_of", lambda library: Path(library).read_bytes()[:5])
    # The variable tells setup.py that the library is for another processor, and cannot be run.
    assert build(CC="i686-linux-gnu-gcc", _PYTHON_HOST_PLATFORM="linux-i686") == b"\x7fELF\x01"  # 32 bits


# Those that setup.py undoes, at once, and others.
CORE_FLAGS = [
    *(FAST, "-mfpmath=387", "-ffp-model=fast -fdenormal-fp-math=preserve-sign", "-ftree-parallelize-loops=4"),
    *("-march=native", "-flto", "-O0", "-frounding-math", "-ftrapv", "-fno-wrapv -fno-strict-aliasing"),
    *("-fshort-enums -funsigned-char", "-fsignaling-nans"),
]


@pytest.mark.deep
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_flags_of_the_environment_change_no_answer_of_the_core(setup_py, compiler, tmp_path):
    if reason := reason_to_skip(compiler):
        pytest.skip(reason)

    class Compiler:
        compiler_so = (compiler,)

    undo = [*setup_py.known_flags(Compiler, setup_py.STRICT_FLOAT_FLAGS), *setup_py.COMPILE_FLAGS]
    link = setup_py.known_flags(Compiler, setup_py.STRICT_FLOAT_LINK_FLAGS)
    sources = sorted((ROOT / "src/core").rglob("*.c"))

    def answers(flags):
        def compile_one(source):
            output = tmp_path / f"{source.stem}.o"
            command = [compiler, *flags.split(), "-c", source, "-o", output, *undo, setup_py.optimization(str(source))]
            subprocess.run(command, check=True, timeout=600, capture_output=True)
            return output

        with setup_py.ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, [*sources, ROOT / "tests/known_answers.c"]))
        program = tmp_path / "known_answers"
        link_command = [compiler, *flags.split(), "-o", program, *objects, "-lm", *link]
        subprocess.run(link_command, check=True, timeout=600, capture_output=True)
        return subprocess.run([program], check=True, timeout=600, capture_output=True).stdout

    expected = answers("")
    for flags in CORE_FLAGS:
        if has_flags(compiler, flags):
            assert answers(flags) == expected, flags


# ---- clang-cl, on Windows -------------------------------------------------------------------------------------------


@pytest.fixture
def visual_studio(monkeypatch, tmp_path):
    """The class for Visual Studio of setuptools, with a Visual Studio that has nothing but a folder."""
    msvc = pytest.importorskip("setuptools._distutils.compilers.C.msvc")
    monkeypatch.setattr(msvc, "_get_vc_env", lambda name: {"path": str(tmp_path), "include": "", "lib": ""})
    monkeypatch.delenv("VCINSTALLDIR", raising=False)
    return msvc.Compiler()


# Of the standard headers that Windows' SDK has, what dispatch.c needs.
STRING_H = """
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
int strcmp(const char *a, const char *b);
"""


@pytest.mark.parametrize(("platform", "machine"), [("win-amd64", b"\x64\x86"), ("win-arm64", b"\x64\xaa")])
def test_clang_cl_compiles_the_core_with_the_flags_of_setup_py(
    setup_py, visual_studio, monkeypatch, tmp_path, platform, machine
):
    if reason := reason_to_skip("clang"):
        pytest.skip(reason)
    if subprocess.run(["clang", "-print-targets"], check=True, capture_output=True).stdout.count(b"aarch64") == 0:
        pytest.skip("this clang compiles for this processor alone")
    log, clang = tmp_path / "commands", shutil.which("clang")
    (tmp_path / "clang-cl").write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec {clang} --driver-mode=cl "$@"\n')
    (tmp_path / "clang-cl").chmod(0o755)
    (tmp_path / "string.h").write_text(STRING_H)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    setup_py.use_clang_cl(visual_studio, platform)
    (made,) = visual_studio.compile(
        [str(ROOT / "src/core/dispatch.c")],
        output_dir=str(tmp_path / "temp"),
        include_dirs=[str(tmp_path)],
        extra_postargs=[*setup_py.CLANG_CL_FLAGS, "/WX", "/clang:-ffreestanding"],
    )
    assert Path(made).read_bytes()[:2] == machine
    command = log.read_text()
    assert "/O2" in command
    assert "/GL" not in command
    assert "/LTCG" not in str(vars(visual_studio))
    (tmp_path / "avx2.c").write_text("int nothing;\n")
    visual_studio.compile([str(tmp_path / "avx2.c")], output_dir=str(tmp_path / "temp"))
    assert log.read_text().endswith(" /clang:-O3\n")


def test_a_windows_without_clang_cl_is_told_where_it_is_from(setup_py, visual_studio, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"cdropout must be compiled by clang-cl on Windows, and 'clang-cl' is not"):
        setup_py.use_clang_cl(visual_studio, "win-amd64")


def test_an_unknown_choice_of_kernels_is_refused(build):
    with pytest.raises(OptionError, match=r"CDROPOUT_PORTABLE must be 0 .* or 1 .*, got 'yes'"):
        build(CDROPOUT_PORTABLE="yes")


# ---- OpenMP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_wrapper(tmp_path):
    """Write a compiler that runs a line of a shell first; $* are its arguments."""

    def make(line):
        path = tmp_path / "cc-wrapper"
        path.write_text(f'#!/bin/sh\n{line}\nexec cc "$@"\n')
        path.chmod(0o755)
        return str(path)

    return make


REASONS = ("unknown", "asked", "compiler", "link", "run")
has_openmp = pytest.mark.skipif(reason_to_skip("cc", "-fopenmp") is not None, reason="the compiler has no OpenMP")


def openmp_of(results):
    """Return whether a build has OpenMP, or why not."""
    is_parallel, reason = results["openmp"]
    return True if is_parallel else REASONS[reason]


def test_the_names_of_reasons_are_those_of_the_c_source():
    assert _kernels.SERIAL_REASONS == REASONS
    assert (_kernels.why_serial() is None) == (_kernels.has_openmp() or _kernels.has_system_threads())


@has_openmp
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", True),
        ('case "$*" in *-fopenmp*) echo "no such flag" >&2; exit 1;; esac', "compiler"),
        ('case "$*" in *-shared*-fopenmp*) echo "cannot find -lgomp" >&2; exit 1;; esac', "link"),
        ('case "$*" in *-fopenmp*) set -- "$@" -Dcdropout_probe=renamed;; esac', "run"),
    ],
)
def test_a_build_notes_why_it_is_serial(build, make_wrapper, line, expected, capfd):
    assert openmp_of(build(CC=make_wrapper(line))) == expected
    said = capfd.readouterr().err
    assert ("building without OpenMP" in said) == (expected is not True)
    assert ("undefined symbol: cdropout_probe" in said) == (expected == "run")


@has_openmp
def test_a_module_that_was_built_with_other_flags_is_built_again(build):
    assert [openmp_of(build(CDROPOUT_OPENMP=asked)) for asked in "101"] == [True, "asked", True]


def test_openmp_is_left_out_where_that_is_asked_for_even_with_its_flag_in_cflags(build):
    assert openmp_of(build(CDROPOUT_OPENMP="0", CFLAGS="-fopenmp")) == "asked"


@has_openmp
def test_a_build_that_must_have_openmp_fails_without_it(build, make_wrapper):
    assert openmp_of(build(CDROPOUT_OPENMP="1")) is True
    with pytest.raises(CompileError, match=r"CDROPOUT_OPENMP is 1, and OpenMP does not work .* does not link"):
        build(CDROPOUT_OPENMP="1", CC=make_wrapper('case "$*" in *-shared*-fopenmp*) exit 1;; esac'))


def test_another_value_of_the_variable_is_refused(build):
    with pytest.raises(OptionError, match=r"CDROPOUT_OPENMP must be 0 .* or 1 .*, got 'off'"):
        build(CDROPOUT_OPENMP="off")


def test_a_compiler_that_does_not_work_is_not_taken_for_one_without_openmp(build, make_wrapper):
    with pytest.raises(CompileError, match="the compiler must compile a library, and cannot"):
        build(CC=make_wrapper("exit 1"))


@has_openmp
def test_a_folder_without_permission_to_execute_does_not_cost_openmp(setup_py, build, monkeypatch):
    # Such a folder refuses to load any library.
    monkeypatch.setattr(setup_py, "RUN_PROBE", "import sys; sys.exit('failed to map segment from shared object')")
    assert openmp_of(build()) is True


@has_openmp
def test_a_temporary_folder_mounted_noexec_does_not_cost_openmp(build, tmp_path, monkeypatch):
    mounted = tmp_path / "noexec"
    mounted.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "noexec", "tmpfs", mounted], stderr=-3).returncode:
        pytest.skip("mounting a folder needs more rights")
    try:
        monkeypatch.setattr("tempfile.tempdir", str(mounted))
        assert openmp_of(build(TMPDIR=str(mounted))) is True
    finally:
        subprocess.run(["umount", mounted], check=True)


@has_openmp
@pytest.mark.parametrize("flags", ["--coverage", "-fsanitize=undefined", "-flto"])
def test_flags_that_the_link_needs_too_do_not_cost_openmp(build, flags):
    if not has_flags("cc", flags):
        pytest.skip(f"the compiler has no {flags}")
    assert openmp_of(build(CFLAGS=flags)) is True


# ---- what a serial build says ---------------------------------------------------------------------------------------


@pytest.fixture
def note_serial_build():
    """Change what the loaded build takes for the reason why it is serial."""
    before = _kernels.why_serial()
    yield _kernels.note_serial_build
    _kernels.note_serial_build(before)


LARGE = np.ones(3_000_000, np.float32)
CALLS = {
    "dropout": lambda stream: cd.dropout(LARGE, 0.5, rng=stream),
    "layer": lambda stream: cd.Dropout(0.5, rng=stream)(LARGE),
    "fused": lambda stream: cd.dropout_add(LARGE, LARGE, 0.5, rng=stream),
    "noise": lambda stream: cd.gaussian_noise(LARGE, 0.5, rng=stream),
    "keep": lambda stream: cd.Mask(1, 0, 0.5, LARGE.shape).keep(),
}
n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
needs_cpus = pytest.mark.skipif(n_cpus == 1, reason="with one CPU no call is slower")


@needs_cpus
@pytest.mark.parametrize("reason", ["link", "run"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_first_large_call_of_a_build_that_lost_openmp_warns_once(note_serial_build, call, reason):
    note_serial_build(reason)
    cd.dropout(LARGE[:1000], 0.5, rng=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(cd.Stream(1))
        call(cd.Stream(1))
    assert [f"the build's test library did not {reason}" in str(warning.message) for warning in caught] == [True]
    assert caught[0].category is RuntimeWarning
    assert caught[0].filename == __file__


@pytest.mark.parametrize("reason", [None, "asked", "compiler", "unknown"])
def test_a_build_that_could_not_or_should_not_have_openmp_does_not_warn(note_serial_build, reason):
    note_serial_build(reason)
    cd.dropout(LARGE, 0.5, rng=1)  # pytest makes warnings errors


@needs_cpus
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_warning_as_an_error_draws_nothing(note_serial_build, call):
    note_serial_build("run")
    stream = cd.Stream(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            call(stream)
    assert stream.position == 0


# ---- whole wheels ---------------------------------------------------------------------------------------------------

FACTS = """
import hashlib, json, warnings
import numpy as np
before = float(np.float64(1e-308) * 0.01)
import cdropout as cd
from cdropout import environment
digests = []
x = np.random.default_rng(0).standard_normal(100_003)
x[:4] = np.nan, np.inf, -np.inf, -0.0
for dtype in (np.float16, np.float32, np.float64):
    a = x.astype(dtype)
    for y in (
        cd.dropout(a, 0.3, rng=1), cd.relu_dropout(a, 0.3, rng=1), cd.dropout_add(a, a, 0.3, rng=1),
        cd.gaussian_dropout(a, 0.3, rng=1), cd.gaussian_noise(a, 0.3, rng=1), cd.alpha_dropout(a, 0.3, rng=1),
    ):
        digests.append(hashlib.sha256(y.tobytes()).hexdigest())
try:
    cd.dropout(a, float("nan"))
except ValueError as error:
    digests.append(str(error))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        cd.dropout(np.ones(3_000_000), 0.5)
facts = environment.facts()
print(json.dumps({
    "digests": digests,
    "subnormal": [before, float(np.float64(1e-308) * 0.01)],
    "serial": facts["threads"]["serial_because"],
    "warnings": [str(warning.message) for warning in caught],
    "text": environment.describe(facts),
}))
"""


def facts_of(folder, run_python):
    return json.loads(run_python("-P", "-c", FACTS, env={"PYTHONPATH": str(folder)}).stdout)


@pytest.fixture
def build_package(tmp_path, run_python):
    """Build and install the package in an environment, and return FACTS of it."""

    def build_package(**environment):
        tree, folder = tmp_path / "tree", tmp_path / "installed"
        for path in (tree, folder):
            shutil.rmtree(path, ignore_errors=True)
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "build")
        for name in ("cdropout", "src"):
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree / name)
        pip_install = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        subprocess.run([*pip_install, "--target", folder, tree], check=True, timeout=900, env=clean | environment)
        return facts_of(folder, run_python)

    return build_package


@pytest.mark.deep
@pytest.mark.parametrize(
    "environment",
    [
        {"CFLAGS": "-ffast-math"},
        {"CFLAGS": "-Ofast -march=native", "LDFLAGS": "-Ofast"},
        {"CC": "gcc -funsafe-math-optimizations", "CPPFLAGS": "-ffp-contract=fast"},
        {"CC": "clang", "CFLAGS": "-Ofast"},
    ],
    ids=str,
)
def test_a_package_built_with_fast_math_in_the_environment_is_the_plain_one(build_package, run_python, environment):
    compiler = environment.get("CC", "gcc").split()[0]
    if reason := reason_to_skip(compiler):
        pytest.skip(reason)
    found, expected = build_package(**environment), facts_of(ROOT, run_python)
    assert found["digests"] == expected["digests"]
    assert found["subnormal"] == expected["subnormal"] == [1e-310, 1e-310]


@pytest.mark.deep
def test_a_package_that_contracts_products_and_sums_is_not_imported(build_package, make_wrapper):
    if not has_flags("cc", CONTRACTION) or "avx2" not in _kernels.supported_isas():
        pytest.skip("needs a processor with an instruction for a product and a sum")
    wrapper = make_wrapper(f'set -- "$@" {CONTRACTION}')  # at the end, where setup.py cannot undo it
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build_package(CC=wrapper)
    assert b"ImportError: cdropout must be compiled without contraction" in caught.value.stderr


@pytest.mark.deep
@has_openmp
@needs_cpus
def test_a_package_that_lost_openmp_says_so_and_one_that_was_built_without_does_not_warn(build_package, make_wrapper):
    lost = build_package(CC=make_wrapper('case "$*" in *-shared*-fopenmp*) exit 1;; esac'))
    assert lost["serial"] == "link"
    assert "1 (serial build, although the compiler had OpenMP: the build's test library did not link)" in lost["text"]
    assert ["this build of cdropout has no OpenMP" in warning for warning in lost["warnings"]] == [True]
    asked = build_package(CDROPOUT_OPENMP="0")
    assert (asked["serial"], asked["warnings"]) == ("asked", [])
    assert "1 (serial build: CDROPOUT_OPENMP was 0)" in asked["text"]
