"""Builds the compiled core. All metadata is in pyproject.toml."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, OptionError

HERE = Path(__file__).parent
C_SOURCES = [
    "src/c_api.c",
    "src/xla_ffi.c",
    *sorted(p.relative_to(HERE).as_posix() for folder in ("core", "system") for p in HERE.glob(f"src/{folder}/**/*.c")),
]
HEADERS = sorted(
    p.relative_to(HERE).as_posix()
    for pattern in ("src/**/*.h", "src/**/*.pxi", "src/**/*.pxd", "cdropout/include/*.h")
    for p in HERE.glob(pattern)
)
NUMPY_MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]

# No -march: one binary for every processor. No contraction: a multiplication and an addition stay two roundings on
# every instruction set. Kernels run with floating-point traps off: told so, gcc converts a scale once instead of once
# for each group. -fwrapv is among Python's own flags, which CFLAGS replaces.
COMPILE_FLAGS = [
    *("-std=c11", "-g0", "-fvisibility=hidden", "-fwrapv"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]

# Undo -ffast-math, its parts and similar flags in CC, CFLAGS and CPPFLAGS, which come before these on the command line:
# they change bits and remove the checks for NaN. A compiler is given those that it knows, before COMPILE_FLAGS.
# If some are in effect nevertheless, src/core/float_flags.h stops the build, or src/core/float_check.h the import.
# -msse2 is for 32-bit x86, whose x87 instructions round twice.
STRICT_FLOAT_FLAGS = [
    *("-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-finite-math-only", "-fsigned-zeros"),
    *("-fno-associative-math", "-fno-reciprocal-math", "-fno-single-precision-constant"),
    *("-fexcess-precision=standard", "-ffp-eval-method=source", "-msse2", "-mfpmath=sse", "-fdenormal-fp-math=ieee"),
    *("-fno-rounding-math", "-fno-signaling-nans"),
    "-fsigned-char",  # gcc 12 removes AVX2's blendv otherwise
    "-ftree-parallelize-loops=1",  # threads of gcc's within a kernel
]

# gcc and clang link a library with -ffast-math, -Ofast or -funsafe-math-optimizations with an object that switches
# flush-to-zero on in every process that loads it. These flags undo that, and the last flag with -O counts.
STRICT_FLOAT_LINK_FLAGS = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-O2"]
# Flags for such objects that no other flag undoes: flush-to-zero, and the precision of long double.
PROCESS_STATE_FLAGS = {"-mdaz-ftz", "-mpc32", "-mpc64", "-mpc80"}

# The vector kernels gain 20 to 40 % from -O3 on AVX2; the other sources gain nothing from it, and take half as long to
# compile without (docs/design.md, "Build time").
VECTOR_SOURCES = {path.name for path in HERE.glob("src/core/isa/*.c")} - {"portable.c"}

# What tests/test_binary.py finds again in the binary: canaries behind arrays on the stack, checked lengths where the C
# library has checking functions, tables that are read-only once they are linked, and no stack that can be executed.
HARDENING_FLAGS = ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
HARDENING_LINK_FLAGS = ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]

# The system and processor that the modules are for: "linux-x86_64", "win-amd64", "macosx-11.0-arm64". A build for
# another one sets _PYTHON_HOST_PLATFORM, as tests/windows and cibuildwheel do.
TARGET = sysconfig.get_platform()
IS_FOR_LINUX, IS_FOR_WINDOWS = TARGET.startswith("linux"), TARGET.startswith("win")

# zig compiles for the processor that it runs on unless it is told not to. gcc keeps a vector of 32 or 64 bytes on
# Windows' stack, which is aligned to 16, and moves it with instructions that need its alignment (gcc's bug 54412).
PORTABLE_FLAGS = ["-mcpu=baseline"]
UNALIGNED_FLAGS = ["-Wa,-muse-unaligned-vector-move"]

# clang-cl has gcc's flags behind a prefix.
CLANG_CL_FLAGS = ["/std:c11", "/fp:precise", *(f"/clang:{flag}" for flag in ("-ffp-contract=off", "-fwrapv"))]

# A library that is right only if OpenMP compiles, links and runs. Without OpenMP it shows whether any library runs.
OPENMP_PROBE = """
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1
#endif
int cdropout_probe(void);
int cdropout_probe(void)
{
    int n_threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : n_threads)
    n_threads += 1;
    return n_threads >= 1 && omp_get_max_threads() >= 1 ? 0 : 1;
}
"""
RUN_PROBE = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).cdropout_probe())"

# The steps of this probe, in order, and what a build is told about OpenMP if one fails (src/system/threads.h).
SERIAL_REASONS = {"compile": "SERIAL_NO_OPENMP", "link": "SERIAL_NOT_LINKED", "run": "SERIAL_NOT_RUN"}


class BuildInParallel(build_ext):
    """build_ext that compiles as many sources at a time as there are processors, each with the optimization that it
    gains from, without the environment's flags that change results, and with OpenMP where a probe shows that it works.
    CDROPOUT_OPENMP=0 leaves OpenMP out; with CDROPOUT_OPENMP=1 the build fails where OpenMP does not work.
    CDROPOUT_PORTABLE=1 leaves the vector kernels out, without which a build for x86-64 or AArch64 fails otherwise."""

    def build_extensions(self) -> None:
        # distutils compares times of files only: a module built with other flags would count as up to date.
        self.force = True
        is_portable = choice_of("CDROPOUT_PORTABLE", "with vector kernels", "without") == "1"
        is_msvc = self.compiler.compiler_type == "msvc"
        if is_msvc:
            use_clang_cl(self.compiler, self.plat_name)
            compile_flags, link_flags = CLANG_CL_FLAGS, []
            openmp, no_openmp = ["/openmp"], []
        else:
            self.compiler.linker_so = [f for f in self.compiler.linker_so if f not in PROCESS_STATE_FLAGS]
            compile_flags = [*known_flags(self.compiler, [*STRICT_FLOAT_FLAGS, *PORTABLE_FLAGS]), *COMPILE_FLAGS]
            link_flags = known_flags(self.compiler, STRICT_FLOAT_LINK_FLAGS)
            if IS_FOR_WINDOWS:
                compile_flags += [] if defines(self.compiler, "__clang__") else UNALIGNED_FLAGS
            else:
                compile_flags += HARDENING_FLAGS
            if IS_FOR_LINUX:
                link_flags += HARDENING_LINK_FLAGS
            openmp, no_openmp = ["-fopenmp"], known_flags(self.compiler, ["-fno-openmp"])  # undoes it in CFLAGS
        serial_reason = self.serial_reason(openmp, no_openmp)
        for extension in self.extensions:
            is_parallel = extension.name == "cdropout._kernels" and serial_reason is None
            extension.extra_compile_args = [*compile_flags, *(openmp if is_parallel else no_openmp)]
            extension.extra_link_args = [*link_flags, *(no_openmp if not is_parallel else [] if is_msvc else openmp)]
            if is_portable:
                extension.define_macros = [*extension.define_macros, ("CDROPOUT_PORTABLE_ONLY", "1")]
            if serial_reason is not None:
                extension.define_macros = [*extension.define_macros, ("CDROPOUT_SERIAL_REASON", serial_reason)]
        if is_msvc:
            translate(self.extensions)
            super().build_extensions()
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool, ThreadPoolExecutor(len(self.extensions)) as waiting:
            self.compiler.compile = partial(compile_in_pool, self.compiler, pool)
            # The C sources are compiled while Cython translates the others.
            started = [waiting.submit(self.compile_c_sources, extension) for extension in self.extensions]
            translate(self.extensions)
            for extension, compiled in zip(self.extensions, started, strict=True):
                extension.sources = [source for source in extension.sources if source not in C_SOURCES]
                extension.extra_objects = compiled.result()
            self.parallel = len(self.extensions)  # each waits for its sources
            super().build_extensions()

    def compile_c_sources(self, extension: Extension) -> list[str]:
        """The objects of those sources of an extension that are written in C."""
        return self.compiler.compile(
            [source for source in extension.sources if source in C_SOURCES],
            output_dir=self.build_temp,
            macros=extension.define_macros,
            include_dirs=extension.include_dirs,
            debug=self.debug,
            extra_postargs=extension.extra_compile_args,
            depends=extension.depends,
        )

    def serial_reason(self, openmp: list[str], no_openmp: list[str]) -> str | None:
        """The reason to build without OpenMP, a name of src/system/threads.h; None where OpenMP works."""
        asked = choice_of("CDROPOUT_OPENMP", "without OpenMP", "only with OpenMP")
        if asked == "0":
            return "SERIAL_ASKED"
        if asked == "" and TARGET.startswith(("win", "macosx")):
            return "SYSTEM_THREADS"
        failed, error = self.failed_step(openmp)
        if failed is None:
            return None
        # The control: what fails without OpenMP as well says nothing about OpenMP.
        failed_without, error_without = self.failed_step(no_openmp)
        if failed_without == failed == "run":
            return None  # no new library runs here (a folder mounted noexec): that OpenMP links has to do
        if failed_without in ("compile", "link"):
            raise CompileError(f"the compiler must {failed_without} a library, and cannot: {error_without}")
        message = f"OpenMP does not work with this compiler, its test library does not {failed}: {error}"
        if asked == "1":
            raise CompileError(f"CDROPOUT_OPENMP is 1, and {message}")
        print(f"cdropout: {message}\ncdropout: building without OpenMP: every call uses one thread", file=sys.stderr)
        return SERIAL_REASONS[failed]

    def failed_step(self, flags: list[str]) -> tuple[str | None, Exception | None]:
        """The step of the probe that fails, and its error, with the compiler and the linker that build the modules."""
        link_flags = [] if self.compiler.compiler_type == "msvc" else flags
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "probe.c"), os.path.join(folder, "probe.so")
            source.write_text(OPENMP_PROBE)
            step = "compile"
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                step = "link"
                self.compiler.link_shared_object(
                    objects, library, export_symbols=["cdropout_probe"], extra_postargs=link_flags
                )
                step = "run"
                # A library for another processor cannot run here: that it links has to do.
                if os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).endswith(platform.machine()):
                    command = [sys.executable, "-c", RUN_PROBE, library]
                    tried = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
                    if tried.returncode != 0:
                        raise RuntimeError(f"exit status {tried.returncode}, {tried.stderr.strip()[-200:]}")
            except Exception as error:  # distutils and the program each fail in their own ways
                return step, error
        return None, None


def choice_of(variable: str, meaning_of_0: str, meaning_of_1: str) -> str:
    """The value of a variable of the environment: "0", "1" or "" where it is not set."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise OptionError(f"{variable} must be 0 ({meaning_of_0}) or 1 ({meaning_of_1}), got {value!r}")
    return value


def use_clang_cl(compiler: Any, platform_name: str) -> None:
    """Have setuptools's class for Visual Studio run clang-cl, with Visual Studio's headers, libraries and linker."""
    if not compiler.initialized:
        compiler.initialize(platform_name)
    folders = [os.environ.get("PATH", ""), r"C:\Program Files\LLVM\bin"]
    if "VCINSTALLDIR" in os.environ:
        folders += [os.path.join(os.environ["VCINSTALLDIR"], "Tools", "Llvm", x, "bin") for x in ("x64", "ARM64")]
    name = os.environ.get("CC") or "clang-cl"
    clang_cl = shutil.which(name, path=os.pathsep.join(folders))
    if clang_cl is None or "clang-cl" not in os.path.basename(clang_cl):
        raise CompileError(
            f"cdropout must be compiled by clang-cl on Windows, and {name!r} is not that or not found: cl.exe does not "
            "compile its kernels. LLVM has clang-cl (winget install LLVM.LLVM), Visual Studio has it as the component "
            '"C++ Clang Compiler for Windows", and the variable CC may have its path'
        )
    compiler.cc = clang_cl
    target = {"win-arm64": "arm64", "win32": "i686"}.get(platform_name, "x86_64")
    # clang-cl does not have cl.exe's optimization between sources, which link.exe would do. The lists are changed in
    # place, because the class has them under several names.
    options = [value for name, value in vars(compiler).items() if name.startswith(("compile_options", "ldflags"))]
    for listed in options:
        listed[:] = [option for option in listed if option not in ("/GL", "/LTCG")]
    compiler.compile_options.insert(0, f"--target={target}-pc-windows-msvc")
    # The method that runs the compiler is `spawn`, in newer versions of setuptools `call`.
    for method in [name for name in ("spawn", "call") if hasattr(compiler, name)]:
        setattr(compiler, method, partial(run_optimizing, getattr(compiler, method)))


def run_optimizing(run: Any, command: list[str], *arguments: Any, **named: Any) -> Any:
    """Run a command of clang-cl, with more optimization for the sources that gain from it."""
    is_vector = any(os.path.basename(part) in VECTOR_SOURCES for part in command)
    flags = ["/clang:-O3"] if is_vector and "/clang:-O3" not in command else []
    return run([*command, *flags], *arguments, **named)


def known_flags(compiler: Any, flags: list[str]) -> list[str]:
    """Those of the flags that the compiler knows: neither refused nor named in a warning."""

    def is_known(flag: str) -> bool:
        command = [*compiler.compiler_so, flag, "-E", "-x", "c", os.devnull]
        try:
            tried = subprocess.run(command, check=False, capture_output=True)
        except OSError:
            return False  # there is no such compiler, which distutils reports
        return tried.returncode == 0 and flag.encode() not in tried.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [flag for flag, known in zip(flags, pool.map(is_known, flags), strict=True) if known]


def defines(compiler: Any, macro: str) -> bool:
    """Whether a compiler defines a macro."""
    command = [*compiler.compiler_so, "-dM", "-E", "-x", "c", os.devnull]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return any(line.split()[1:2] == [macro] for line in listed.splitlines())


def optimization(source: str) -> str:
    return "-O3" if os.path.basename(source) in VECTOR_SOURCES else "-O2"


def compile_in_pool(
    compiler: Any,
    pool: ThreadPoolExecutor,
    sources: list[str],
    output_dir: str | None = None,
    macros: list[Any] | None = None,
    include_dirs: list[str] | None = None,
    debug: bool = False,
    extra_preargs: list[str] | None = None,
    extra_postargs: list[str] | None = None,
    depends: list[str] | None = None,
) -> list[str]:
    """What the compiler's method of this name does, source by source in a pool, the largest first."""
    macros, objects, extra, preprocessor, build = compiler._setup_compile(
        output_dir, macros, include_dirs, sources, depends, extra_postargs
    )
    common = compiler._get_cc_args(preprocessor, debug, extra_preargs)

    def compile_one(name: str) -> None:
        source, suffix = build[name]
        compiler._compile(name, source, suffix, common, [*extra, optimization(source)], preprocessor)

    # The sources that are optimized most take longest: first.
    by_duration = sorted(build, key=lambda name: optimization(build[name][0]), reverse=True)
    for compiled in [pool.submit(compile_one, name) for name in by_duration]:
        compiled.result()
    return objects


def translate(extensions: list[Extension]) -> None:
    """Has Cython translate the .pyx sources, and puts the C sources that it makes in their place."""
    sources = {extension.name: [s for s in extension.sources if s.endswith(".pyx")] for extension in extensions}
    translated = cythonize(
        [Extension(extension.name, sources[extension.name], depends=extension.depends) for extension in extensions],
        # Cython's output depends on NumPy's declarations, but Cython only compares the times of files, and would reuse
        # C sources that were made with another NumPy.
        build_dir=f"build/numpy-{np.__version__}",
        include_path=[str(HERE), str(HERE / "src")],  # where cdropout/api.pxd and core.pxd are
    )
    made = {extension.name: extension.sources for extension in translated}
    for extension in extensions:
        written = [source for source in extension.sources if source not in sources[extension.name]]
        extension.sources = made[extension.name] + written


setup(
    ext_modules=[
        Extension(
            "cdropout._kernels",
            ["src/_kernels.pyx", *C_SOURCES],
            include_dirs=["src", np.get_include()],
            define_macros=NUMPY_MACROS,
            depends=HEADERS,
        ),
        Extension("cdropout.api", ["src/api.pyx"], include_dirs=["src"], depends=HEADERS),
        Extension(
            "cdropout.bit_generator",
            ["src/bit_generator.pyx"],
            include_dirs=["src", np.get_include()],
            define_macros=NUMPY_MACROS,
            depends=HEADERS,
        ),
    ],
    cmdclass={"build_ext": BuildInParallel},
)
