"""The C core alone, on this processor and on others under emulation: the same answers everywhere."""

import shutil
import subprocess
from pathlib import Path

import pytest
import reference

from cdropout import _kernels

ROOT = Path(__file__).parents[1]
CORE = [ROOT / "src/dispatch.c", *sorted((ROOT / "src/isa").glob("*.c"))]
KEY = 0x0123456789ABCDEFFEDCBA9876543210

pytestmark = pytest.mark.skipif(not CORE[0].exists(), reason="the tests were taken out of the checkout")


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in bytes(data):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@pytest.fixture(scope="module")
def run_with_core(tmp_path_factory):
    """What a program of this folder prints, built with the C core, which is compiled once for each compiler."""
    built = {}

    def run(program, compiler="cc", emulator=None):
        for needed in (compiler, *filter(None, [emulator])):
            if shutil.which(needed) is None:
                pytest.skip(f"{needed} is not installed")
        flags = ("-std=c11", "-O2", "-ffp-contract=off", "-pthread")
        if compiler not in built:
            built[compiler] = tmp_path_factory.mktemp("core")
            subprocess.run([compiler, *flags, "-c", *CORE], cwd=built[compiler], check=True, timeout=300)
        runnable = built[compiler] / "program"
        parts = [ROOT / "tests" / program, *sorted(built[compiler].glob("*.o")), "-lm"]
        static = ["-static"] if emulator else []
        subprocess.run([compiler, *flags, *static, "-o", runnable, *parts], check=True, timeout=300)
        command = [emulator, runnable] if emulator else [runnable]
        return subprocess.run(command, check=True, timeout=300, capture_output=True, text=True).stdout

    return run


def answers(printed):
    """What known_answers.c prints, as {isa: {kernel: hash}}."""
    found = {}
    for line in printed.splitlines():
        isa, kernel, digest = line.split()
        found.setdefault(isa, {})[kernel] = digest
    return found


@pytest.fixture(scope="module")
def native(run_with_core):
    return answers(run_with_core("known_answers.c"))


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


@pytest.mark.parametrize(
    ("compiler", "emulator", "isas"),
    [
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", ("neon", "portable")),
        ("s390x-linux-gnu-gcc", "qemu-s390x", ("portable",)),
    ],
    ids=["aarch64", "s390x"],
)
def test_other_processors_give_the_same_answers(run_with_core, native, compiler, emulator, isas):
    found = answers(run_with_core("known_answers.c", compiler, emulator))
    if isas == ("portable",):
        # Big-endian numbers lie the other way round in memory: the stream and the decisions are what can be compared.
        assert set(found) == {"portable"}
        for kernel in ("raw", "keep"):
            assert found["portable"][kernel] == native["portable"][kernel]
    else:
        assert_same(found, native, isas)


on_every_processor = pytest.mark.parametrize(
    ("compiler", "emulator", "isas"),
    [
        ("cc", None, _kernels.supported_isas()),
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", ("neon", "portable")),
        ("s390x-linux-gnu-gcc", "qemu-s390x", ("portable",)),
    ],
    ids=["native", "aarch64", "s390x"],
)


@on_every_processor
def test_a_changed_floating_point_mode_is_left_and_entered_again(run_with_core, compiler, emulator, isas):
    printed = run_with_core("float_mode.c", compiler, emulator)
    # In the caller's mode the kernels' results change, or else the program would show nothing.
    assert printed.splitlines() == [f"{isa} changed same restored" for isa in isas]


@on_every_processor
def test_threads_that_draw_from_one_stream_take_every_position_once(run_with_core, compiler, emulator, isas):
    printed = run_with_core("sanitizers/positions.c", compiler, emulator)
    assert printed.splitlines() == [f"{isa}: every position once, the bits of one thread" for isa in isas]
