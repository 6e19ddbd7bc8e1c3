"""The C core alone, on this processor and on others under emulation: the same answers everywhere."""

import hashlib
import itertools
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import reference
from frozen_cases import frozen_digests

from cdropout import _kernels

ROOT = Path(__file__).parents[1]
CORE = [ROOT / "src/dispatch.c", *sorted((ROOT / "src/isa").glob("*.c"))]
PROGRAMS = ("known_answers", "frozen_cases", "float_mode", "guard_pages", "sanitizers/positions")
KEY = 0x0123456789ABCDEFFEDCBA9876543210
FROZEN = frozen_digests()

pytestmark = pytest.mark.skipif(not CORE[0].exists(), reason="the tests were taken out of the checkout")


class Processor(NamedTuple):
    """What a processor's programs are built with, what runs them, and which instruction sets they must find."""

    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    isas: tuple[str, ...]


PROCESSORS = {
    "native": Processor(("cc",), (), _kernels.supported_isas()),
    # An x86-64 of 2008, without AVX.
    "nehalem": Processor(("cc",), ("qemu-x86_64", "-cpu", "Nehalem"), ("sse2", "portable")),
    "aarch64": Processor(("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64",), ("neon", "portable")),
    # Big-endian.
    "s390x": Processor(("s390x-linux-gnu-gcc", "-static"), ("qemu-s390x",), ("portable",)),
}
EMULATED = tuple(name for name in PROCESSORS if name != "native")


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in bytes(data):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@pytest.fixture(scope="module")
def run_program(tmp_path_factory):
    """Run one of the programs on a processor; the core is compiled once for each compiler."""
    folders = {}

    def build(compiler):
        folder = tmp_path_factory.mktemp("built")
        command = [*compiler, "-std=c11", "-ffp-contract=off", "-O2", "-pthread"]

        def run_compiler(*arguments):
            subprocess.run([*command, *arguments], cwd=folder, check=True, timeout=600)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda source: run_compiler("-c", source), CORE))
        for program in PROGRAMS:
            run_compiler("-o", Path(program).name, ROOT / f"tests/{program}.c", *sorted(folder.glob("*.o")), "-lm")
        return folder

    def run(program, processor, *arguments, stdin=b"", check=True):
        if processor.emulator[:1] == ("qemu-x86_64",) and platform.machine() != "x86_64":
            pytest.skip("needs an x86-64")
        for needed in (processor.compiler[0], *processor.emulator[:1]):
            if shutil.which(needed) is None:
                pytest.skip(f"{needed} is not installed")
        if processor.compiler not in folders:
            folders[processor.compiler] = build(processor.compiler)
        command = [*processor.emulator, folders[processor.compiler] / Path(program).name, *arguments]
        return subprocess.run(command, check=check, timeout=600, capture_output=True, input=stdin).stdout

    return run


def answers(printed):
    """What known_answers.c prints: {isa: {kernel: hash}}."""
    found = {}
    for line in printed.decode().splitlines():
        isa, kernel, digest = line.split()
        found.setdefault(isa, {})[kernel] = digest
    return found


@pytest.fixture(scope="module")
def native(run_program):
    return answers(run_program("known_answers", PROCESSORS["native"]))


def assert_same(found, native, isas):
    assert set(found) == set(isas)
    expected = native["portable"]
    assert len(expected) == 2 + 4 * 2 * (8 + 7)
    for isa, kernels in found.items():
        assert kernels == expected, isa


def test_the_programs_answers_are_the_models(native):
    raw = reference.raw_bytes(KEY, 2**32 - 1, 2)
    kept = reference.keep(KEY, 70, 3 * 4096 + 7, 0.3)
    for kernels in native.values():
        assert kernels["raw"] == fnv1a(raw)
        assert kernels["keep"] == fnv1a(kept.tobytes())
        for dtype in ("f32", "f64", "f16", "bf16"):
            streaming = {name: kernels[name] for name in kernels if name.endswith(f"_{dtype}_streaming")}
            assert len(streaming) == 15
            assert streaming == {name: kernels[name.removesuffix("_streaming")] for name in streaming}
            assert kernels[f"words_{dtype}"] == kernels[f"apply_mask_{dtype}"]
            assert kernels[f"alpha_words_{dtype}"] == kernels[f"alpha_dropout_{dtype}"]


def test_every_isa_of_this_machine_gives_the_same_answers(native):
    assert_same(native, native, _kernels.supported_isas())


@pytest.mark.parametrize("name", EMULATED)
def test_other_processors_give_the_same_answers(run_program, native, name):
    found = answers(run_program("known_answers", PROCESSORS[name]))
    if name == "s390x":
        # Big-endian numbers lie the other way round in memory: the stream and the decisions are what can be compared.
        assert set(found) == {"portable"}
        for kernel in ("raw", "keep"):
            assert found["portable"][kernel] == native["portable"][kernel]
    else:
        assert_same(found, native, PROCESSORS[name].isas)


def results(printed):
    """What frozen_cases.c prints: (isa, the digest of its bytes) for each result."""
    at = 0
    while at < len(printed):
        end = printed.index(b"\n", at) + 1
        isa, n_bytes = printed[at:end].split()
        at = end + int(n_bytes)
        yield isa.decode(), hashlib.sha256(printed[end:at]).hexdigest()


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_frozen_digest_holds_on_every_processor(run_program, name):
    lines = "".join(f"{case.line()}\n" for case in FROZEN)
    found = results(run_program("frozen_cases", PROCESSORS[name], stdin=lines.encode()))
    isas = PROCESSORS[name].isas
    expected = [(isa, digest) for digest in FROZEN.values() for isa in isas]
    for (case, isa), result, wanted in zip(itertools.product(FROZEN, isas), found, expected, strict=True):
        assert result == wanted, f"{case} on {isa}"


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_changed_floating_point_mode_is_left_and_entered_again(run_program, name):
    printed = run_program("float_mode", PROCESSORS[name]).decode()
    # In the caller's mode the kernels' results change, or else the program would show nothing.
    assert printed.splitlines() == [f"{isa} changed same restored" for isa in PROCESSORS[name].isas]


@pytest.mark.parametrize("name", PROCESSORS)
def test_threads_that_draw_from_one_stream_take_every_position_once(run_program, name):
    printed = run_program("sanitizers/positions", PROCESSORS[name]).decode()
    assert printed.splitlines() == [
        f"{isa}: every position once, the bits of one thread" for isa in PROCESSORS[name].isas
    ]


IN_BOUNDS = r"\d{5,} calls, \d{5,} of them streaming as well: nothing outside an array, the same bits everywhere\n"


def test_no_kernel_touches_a_guard_page_or_a_canary(run_program):
    assert re.fullmatch(IN_BOUNDS, run_program("guard_pages", PROCESSORS["native"]).decode())


@pytest.mark.deep
@pytest.mark.parametrize("name", PROCESSORS)
def test_no_kernel_touches_a_guard_page_at_any_distance_or_on_another_processor(run_program, name):
    distances = "all" if name == "native" else "touching"  # an emulator takes many times as long
    printed = run_program("guard_pages", PROCESSORS[name], distances).decode()
    print(f"{name}, {distances}: {printed}")
    assert re.fullmatch(IN_BOUNDS, printed)


@pytest.mark.parametrize("isa", PROCESSORS["native"].isas)
def test_a_kernel_that_goes_one_element_too_far_is_caught(run_program, isa):
    printed = run_program("guard_pages", PROCESSORS["native"], "one-too-many", isa, check=False).decode()
    assert re.match(f"{isa}: apply_mask_f32 reached outside its arrays: 2 positions", printed)
