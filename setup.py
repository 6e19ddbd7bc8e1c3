"""Builds the compiled core. All metadata is in pyproject.toml."""

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
C_SOURCES = ["src/c_api.c", *sorted(str(p.relative_to(HERE)) for p in HERE.glob("src/core/**/*.c"))]
HEADERS = sorted(
    str(p.relative_to(HERE))
    for pattern in ("src/**/*.h", "src/**/*.pxi", "src/**/*.pxd", "cdropout/include/*.h")
    for p in HERE.glob(pattern)
)
NUMPY_MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]

# No -march and no -ffast-math: one binary for every processor, and no changed floating-point state in the process that
# loads it. No contraction: a multiplication and an addition stay two roundings on every instruction set. Kernels run
# with floating-point traps off: told so, gcc converts a scale once instead of once for each group.
COMPILE_FLAGS = [
    *("-std=c11", "-g0", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]

# The vector kernels gain 20 to 40 % from -O3 on AVX2; the other sources gain nothing from it, and take half as long to
# compile without (docs/design.md, "Build time").
VECTOR_SOURCES = {path.name for path in HERE.glob("src/core/isa/*.c")} - {"portable.c"}

# What tests/test_binary.py finds again in the binary: canaries behind arrays on the stack, checked lengths where the C
# library has checking functions, tables that are read-only once they are linked, and no stack that can be executed.
HARDENING_FLAGS = ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
HARDENING_LINK_FLAGS = ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"] if sys.platform.startswith("linux") else []

# A program that is right only if OpenMP compiles, links and runs.
OPENMP_PROBE = """
#include <omp.h>
int main(void)
{
    int n_threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : n_threads)
    n_threads += 1;
    return n_threads >= 1 && omp_get_max_threads() >= 1 ? 0 : 1;
}
"""


class BuildInParallel(build_ext):
    """build_ext that compiles as many sources at a time as there are processors, each with the optimization that it
    gains from, and with OpenMP where a probe shows that it works; CDROPOUT_OPENMP=0 leaves OpenMP out."""

    def build_extensions(self) -> None:
        is_msvc = self.compiler.compiler_type == "msvc"
        if is_msvc:
            compile_flags, link_flags = ["/std:c11", "/O2", "/fp:precise"], []
            openmp, openmp_link = ["/openmp"], []
        else:
            compile_flags, link_flags = [*COMPILE_FLAGS, *HARDENING_FLAGS], HARDENING_LINK_FLAGS
            openmp, openmp_link = ["-fopenmp"], ["-fopenmp"]
        if not self.openmp_works(openmp, openmp_link):
            print("cdropout: building without OpenMP; every call will use one thread", file=sys.stderr)
            openmp, openmp_link = [], []
        for extension in self.extensions:
            is_parallel = extension.name == "cdropout._kernels"
            extension.extra_compile_args = [*compile_flags, *(openmp if is_parallel else [])]
            extension.extra_link_args = [*link_flags, *(openmp_link if is_parallel else [])]
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

    def openmp_works(self, compile_flags: list[str], link_flags: list[str]) -> bool:
        if os.environ.get("CDROPOUT_OPENMP") == "0":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                program = os.path.join(folder, "probe")
                self.compiler.link_executable(objects, program, extra_postargs=link_flags)
                # A cross-compiled program cannot run here: that it links has to do.
                if os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).endswith(platform.machine()):
                    subprocess.run([program], check=True, timeout=60, capture_output=True)
            except Exception as error:  # distutils and the program each fail in their own ways
                print(f"cdropout: OpenMP does not work with this compiler: {error}", file=sys.stderr)
                return False
        return True


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
        build_dir="build",
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
