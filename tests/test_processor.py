"""Which instruction sets the processor has, and which compilers and builds are refused."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from compilers import reason_to_skip

from cdropout import _kernels

ROOT = Path(__file__).parents[1]
CPU_INFO = Path("/proc/cpuinfo")
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"}

pytestmark = [
    pytest.mark.skipif(not (ROOT / "src/core").is_dir(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64"),
    pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler"),
]


@pytest.fixture(scope="module")
def detect(tmp_path_factory):
    """Run processor.c; return its answers for AVX2 and AVX-512 and those of the compiler's builtin."""
    program = tmp_path_factory.mktemp("processor") / "processor"
    subprocess.run(["cc", "-std=c11", "-static", ROOT / "tests/processor.c", "-o", program], check=True, timeout=60)

    def detect(*answers, emulator=()):
        command = [*emulator, program, *(f"{answer:x}" for answer in answers)]
        printed = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout
        avx2, avx512, *builtin = (bool(int(word)) for word in printed.split())
        return (avx2, avx512), tuple(builtin)

    return detect


@pytest.mark.ci
def test_zig_finds_the_same_although_its_builtin_does_not(detect, tmp_path):
    if reason := reason_to_skip("python-zig", "cc"):
        pytest.skip(reason)
    program, source = tmp_path / "processor", ROOT / "tests/processor.c"
    subprocess.run(["python-zig", "cc", "-mcpu=baseline", "-O1", source, "-o", program], check=True, timeout=120)
    printed = subprocess.run([program], check=True, timeout=60, capture_output=True, text=True).stdout
    assert tuple(bool(int(word)) for word in printed.split()[:2]) == detect()[0]


def test_the_instruction_sets_are_those_that_the_compiler_and_the_system_find(detect):
    found, by_builtin = detect()
    assert found == by_builtin
    assert found == tuple(name in _kernels.supported_isas() for name in ("avx2", "avx512"))
    if not CPU_INFO.exists():
        pytest.skip("the system has no /proc/cpuinfo to compare with")
    lines = CPU_INFO.read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    assert found == ({"avx2", "f16c"} <= flags, flags >= AVX512)


@pytest.mark.ci
@pytest.mark.parametrize(("model", "has_avx2"), [("Nehalem", False), ("SandyBridge", False), ("max", True)])
def test_emulated_processors_have_what_the_compiler_finds(detect, model, has_avx2):
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64 is not installed")
    assert detect(emulator=("qemu-x86_64", "-cpu", model)) == ((has_avx2, False), (has_avx2, False))


def bits(*numbers):
    return sum(1 << number for number in numbers)


LEAF1 = bits(27, 28, 29)  # XGETBV, AVX, F16C
LEAF7 = bits(5, 8, 16, 17, 30, 31)  # AVX2, BMI2, AVX-512 F, DQ, BW, VL
ALL_SAVED = 0xE7  # the registers of x87, SSE, AVX and AVX-512


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((7, LEAF1, LEAF7, ALL_SAVED), (True, True)),
        ((32, LEAF1, LEAF7, ALL_SAVED), (True, True)),
        # The system saves the registers of AVX, or of SSE, alone.
        ((7, LEAF1, LEAF7, 0x07), (True, False)),
        ((7, LEAF1, LEAF7, 0x03), (False, False)),
        ((7, LEAF1, LEAF7, 0x67), (True, False)),
        ((7, LEAF1, LEAF7, 0), (False, False)),
        # It does not say so.
        ((7, LEAF1 & ~bits(27), LEAF7, ALL_SAVED), (False, False)),
        # The processor lacks AVX, F16C, leaf 7, AVX2, or a part of AVX-512.
        ((7, LEAF1 & ~bits(28), LEAF7, ALL_SAVED), (False, False)),
        ((7, LEAF1 & ~bits(29), LEAF7, ALL_SAVED), (False, False)),
        ((6, LEAF1, LEAF7, ALL_SAVED), (False, False)),
        ((7, LEAF1, LEAF7 & ~bits(5), ALL_SAVED), (False, False)),
        *(((7, LEAF1, LEAF7 & ~bits(number), ALL_SAVED), (True, False)) for number in (8, 16, 17, 30, 31)),
    ],
)
def test_an_instruction_set_needs_the_processor_and_the_system(detect, answers, expected):
    assert detect(*answers)[0] == expected


# ---- compilers and builds that are refused --------------------------------------------------------------------------


def said_of(header, *lines):
    """Return the exit code of a compiler that reads a header of the core after other lines, and what it says."""
    standard = ("stddef.h", "stdint.h", "float.h")  # these need the macros of the real compiler and processor
    source = "\n".join([*(f"#include <{name}>" for name in standard), *lines, f'#include "{header}"', ""])
    command = ["cc", "-std=c11", "-fsyntax-only", "-I", ROOT / "src/core", "-x", "c", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, input=source)
    return done.returncode, done.stderr


@pytest.mark.parametrize("header", ["atomic.h", "kernel_table.h"])
def test_a_compiler_that_is_neither_gcc_nor_clang_is_refused(header):
    assert said_of(header) == (0, "")
    code, said = said_of(header, "#undef __GNUC__")  # as cl.exe
    assert code != 0
    assert "cdropout must be compiled by gcc or clang, on Windows by clang-cl" in said
    assert said_of(header, "#undef __GNUC__", "#define __clang__ 1") == (0, "")  # as clang-cl


def test_a_build_without_vector_kernels_is_refused_unless_it_is_asked_for():
    as_for_windows = ("#undef __x86_64__", "#define _M_X64 100")
    code, said = said_of("kernel_table.h", *as_for_windows)
    assert code != 0
    assert "this build would have no vector kernels" in said
    assert "set CDROPOUT_PORTABLE=1" in said
    assert said_of("kernel_table.h", *as_for_windows, "#define CDROPOUT_PORTABLE_ONLY") == (0, "")
