"""The C core alone, on this processor and on emulated ones: the same results everywhere."""

import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import reference
from compilers import reason_to_skip
from frozen_cases import frozen_digests, little_endian_bytes

from cdropout import _kernels

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "src/core").rglob("*.c"))
PROGRAMS = ("known_answers", "frozen_cases", "float_mode", "guard_pages", "sanitizers/positions")
KEY = 0x0123456789ABCDEFFEDCBA9876543210
FROZEN = frozen_digests()

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
# Numbers of operations in known_answers.c, and of those with a mask.
N_OPERATIONS, N_MASKED = 11, 8
WIDTHS = (1, 2, 4, 8)  # bytes of the elements of select

pytestmark = pytest.mark.skipif(not CORE, reason="the tests were taken out of the checkout")


class Processor(NamedTuple):
    """A processor: its compiler with flags, its emulator, and the instruction sets that its programs must find.

    The first item of the compiler is a command, all words of which come before any flag.
    """

    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    isas: tuple[str, ...]


SSE2 = ("-msse2", "-mfpmath=sse")
PROCESSORS = {
    "native": Processor(("cc",), (), _kernels.supported_isas()),
    # An x86-64 of 2008, without AVX.
    "nehalem": Processor(("cc",), ("qemu-x86_64", "-cpu", "Nehalem"), ("sse2", "portable")),
    "aarch64": Processor(("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64",), ("neon", "portable")),
    # 32 bits; without these flags, it computes with x87 instructions.
    "i686": Processor(("i686-linux-gnu-gcc", "-static", *SSE2), ("qemu-i386",), ("portable",)),
    # Big-endian.
    "s390x": Processor(("s390x-linux-gnu-gcc", "-static"), ("qemu-s390x",), ("portable",)),
    "riscv64": Processor(("riscv64-linux-gnu-gcc", "-static"), ("qemu-riscv64",), ("portable",)),
    "ppc64le": Processor(("powerpc64le-linux-gnu-gcc", "-static"), ("qemu-ppc64le",), ("portable",)),
    # musl's C library on this processor.
    "musl": Processor(("musl-gcc", "-static"), (), _kernels.supported_isas()),
    # zig, of the package ziglang. The compiler's builtin finds no AVX with it.
    "zig": Processor(("python-zig cc", "-mcpu=baseline"), (), _kernels.supported_isas()),
}
DEEP = ("ppc64le", "musl", "zig")
EMULATED = tuple(
    pytest.param(name, marks=pytest.mark.deep if name in DEEP else pytest.mark.ci)
    for name in PROCESSORS
    if name != "native"
)
BY_PROCESSOR = ("native", *EMULATED)


def fnv1a(array):
    """Return the hash that known_answers.c prints: FNV-1a of the elements in little-endian order."""
    value = 0xCBF29CE484222325
    for byte in little_endian_bytes(array):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@pytest.fixture(scope="module")
def run_program(tmp_path_factory):
    """Run one of the programs on a processor, with the core compiled once for each compiler."""
    folders = {}

    def build(compiler):
        folder = tmp_path_factory.mktemp("built")

        def run_compiler(source, *arguments):
            # -O1 halves the time of compiling; here the guard pages take longer to run than the core to compile.
            optimization = "-O2" if compiler == PROCESSORS["native"].compiler else "-O1"
            flags = [optimization, "-std=c11", "-ffp-contract=off", "-pthread"]
            command = [*compiler[0].split(), *flags, *compiler[1:], source, *arguments]
            subprocess.run(command, cwd=folder, check=True, timeout=600)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda source: run_compiler(source, "-c"), CORE))
        for program in PROGRAMS:
            source, objects = ROOT / f"tests/{program}.c", sorted(folder.glob("*.o"))
            run_compiler(source, "-o", source.stem, *objects, "-lm")
        return folder

    def run(program, processor, *arguments, stdin=b"", check=True):
        if processor.emulator[:1] == ("qemu-x86_64",) and platform.machine() != "x86_64":
            pytest.skip("needs an x86-64")
        if processor.emulator and shutil.which(processor.emulator[0]) is None:
            pytest.skip(f"{processor.emulator[0]} is not installed")
        command, *flags = processor.compiler
        if reason := reason_to_skip(*command.split(), *flags):
            pytest.skip(reason)
        if processor.compiler not in folders:
            folders[processor.compiler] = build(processor.compiler)
        command = [*processor.emulator, folders[processor.compiler] / Path(program).name, *arguments]
        return subprocess.run(command, check=check, timeout=600, capture_output=True, input=stdin).stdout

    return run


@pytest.mark.skipif(os.name != "posix", reason="its compiler is a shell script")
def test_a_compiler_that_cannot_compile_an_empty_program_is_a_reason_to_skip(run_program, tmp_path, monkeypatch):
    compiler = tmp_path / "half-installed-gcc"
    compiler.write_text("#!/bin/sh\necho 'cannot find crt1.o' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, reason in (
        ("half-installed-gcc", "half-installed-gcc cannot compile an empty program: cannot find crt1.o"),
        ("no-such-gcc", "no-such-gcc is not installed"),
    ):
        with pytest.raises(pytest.skip.Exception) as caught:
            run_program("known_answers", Processor((name, "-static"), (), ("portable",)))
        assert str(caught.value) == reason


def answers(printed):
    """Parse the output of known_answers.c into {isa: {kernel: hash}}."""
    found = {}
    for line in printed.decode().splitlines():
        isa, kernel, digest = line.split()
        found.setdefault(isa, {})[kernel] = digest
    return found


@pytest.fixture(scope="module")
def native(run_program):
    return answers(run_program("known_answers", PROCESSORS["native"]))


@pytest.fixture(scope="module")
def jobs(run_program):
    """The jobs of known_answers.c by name: layout, p, first position, lens and strides."""
    printed = run_program("known_answers", PROCESSORS["native"], "jobs").decode()
    return {job["name"]: job for job in map(json.loads, printed.splitlines())}


def kept(job):
    """Return the model's decisions for a job's elements, True for kept ones."""
    positions = sum(stride * index for stride, index in zip(job["strides"], np.indices(job["lens"]), strict=True))
    drawn = reference.keep(KEY, job["first"], int(positions.max()) + 1, job["p"])
    return drawn[positions].ravel()


def assert_same(found, native, isas):
    assert set(found) == set(isas)
    expected = native["portable"]
    for isa, kernels in found.items():
        assert kernels == expected, isa


def test_the_program_runs_every_kernel_and_every_layout(native, jobs):
    assert {job["layout"] for job in jobs.values()} == {"copy", "run", "rows", "shared rows", "repeated", "gathered"}
    n_of_shape = {"copy": 1, "run": N_OPERATIONS}
    n_of_jobs = sum(n_of_shape.get(job["layout"], N_MASKED) for job in jobs.values())
    n_kernels = N_OPERATIONS + N_MASKED + 2  # on ranges, from keep words, and the two with repeats
    # Each with a dtype also runs with streaming stores; raw blocks, and the keep bytes of jobs except copies, do not.
    expected = 2 * len(DTYPES) * (n_kernels + n_of_jobs) + 2 + len(jobs) - 1
    expected += 2 + len(WIDTHS) * len(jobs)  # draws and pixels; select by keep words and in jobs except copies
    expected += 2 * 3 * 3 * 3  # steps: dtypes, rules, kinds of gradients, arrays
    expected += 3  # squares with the channels first and last, and dropout by the latter
    for isa, kernels in native.items():
        assert len(kernels) == expected, isa


def test_the_programs_answers_are_the_models(native):
    raw = np.frombuffer(reference.raw_bytes(KEY, 2**32 - 1, 2), np.uint8)
    kept = reference.keep(KEY, 70, 3 * 4096 + 7, 0.3)
    draws = reference.draws(KEY, 70, np.arange(3 * 4096 + 7) * 37 % 997 / 996.0)
    i = np.arange((3 * 4096 + 7) // 3 * 3, dtype=np.uint64)
    image = (i * np.uint64(0x9E3779B97F4A7C15)).astype("u1")
    fills = (i % 3 * np.uint64(0xD1342543DE82EF95) + np.uint64(1)).astype("u1")
    pixels = np.where(np.repeat(reference.keep(KEY, 70, len(i) // 3, 0.3), 3), image, fills)
    for kernels in native.values():
        assert kernels["fill_raw"] == fnv1a(raw)
        assert kernels["fill_keep"] == fnv1a(kept)
        assert kernels["fill_draws"] == fnv1a(draws)
        assert kernels["pixels"] == fnv1a(pixels)


def test_streaming_words_and_jobs_of_one_run_change_nothing(native):
    for kernels in native.values():
        streaming = {name: digest for name, digest in kernels.items() if name.endswith("_streaming")}
        assert len(streaming) == sum(name.endswith(tuple(DTYPES)) for name in kernels)
        assert streaming == {name: kernels[name.removesuffix("_streaming")] for name in streaming}
        from_words = {name: digest for name, digest in kernels.items() if "_words_" in name}
        assert from_words == {name: kernels[name.replace("_words_", "_")] for name in from_words}
        of_run = {name: digest for name, digest in kernels.items() if name.startswith("job_run_")}
        assert len(from_words) == 2 * N_MASKED * len(DTYPES)
        assert len(of_run) == 2 * N_OPERATIONS * len(DTYPES) + 1 + len(WIDTHS)
        assert of_run == {name: kernels[name.removeprefix("job_run_")] for name in of_run}


def test_what_jobs_keep_and_apply_is_the_models(native, jobs):
    for name, job in jobs.items():
        n_elems = math.prod(job["lens"])
        eighths = np.arange(n_elems) % 61 - 30
        is_kept = kept(job)
        digests = {f"job_{name}_fill_keep": fnv1a(is_kept)}
        for dtype, numpy_dtype in DTYPES.items():
            x = (eighths / 8).astype(numpy_dtype)
            result = x if job["layout"] == "copy" else reference.apply(x, is_kept, 1.4287109375)
            digests[f"job_{name}_apply_mask_{dtype}"] = fnv1a(result)
        for width in WIDTHS:
            i, unsigned = np.arange(n_elems, dtype=np.uint64), f"<u{width}"
            x = (i * np.uint64(0x9E3779B97F4A7C15)).astype(unsigned)
            fills = (i[:100] * np.uint64(0xD1342543DE82EF95) + np.uint64(1)).astype(unsigned)
            digests[f"job_{name}_select_{width}"] = fnv1a(np.where(is_kept, x, np.resize(fills, n_elems)))
        if job["layout"] == "copy":
            digests = {answer: digest for answer, digest in digests.items() if "apply_mask" in answer}
        for isa, kernels in native.items():
            assert digests == {answer: kernels[answer] for answer in digests}, isa


def test_squares_are_those_of_the_model(native):
    dropped = ~reference.keep(KEY, 70, 2 * 3 * 33 * 49, 0.01).reshape(2, 3, 33, 49)
    first = reference.keep_outside_squares(dropped, 5)
    last = np.moveaxis(first, 1, -1)
    expected = {}
    for name, is_kept in (("squares_first", first), ("squares_last", last)):
        n_words = is_kept.size // 64
        bits = np.packbits(is_kept.ravel()[: 64 * n_words], bitorder="little")
        expected[name] = fnv1a(bits.view("<u8"))
    is_kept = last.ravel()[70:]
    x = ((np.arange(is_kept.size) % 61 - 30) / 8).astype(np.float32)
    expected["apply_squares_last"] = fnv1a(reference.apply(x, is_kept, 1.4287109375))
    for isa, kernels in native.items():
        assert expected == {name: kernels[name] for name in expected}, isa


def steps_of_the_model(dtype):
    """Yield name and digest of each of known_answers.c's steps, by the formulas in NumPy."""
    n_elems, number = 3 * 4096 + 7, np.dtype(dtype).type
    i = np.arange(n_elems)
    kept = reference.keep(KEY, 70, n_elems, 0.3)
    given = ((i % 53 - 26) / 8).astype(dtype)
    is_kept = kept[:5, None] & kept[None, : n_elems // 5]
    grads = {"whole": given, "kept": np.zeros(n_elems, dtype), "lazy": np.zeros(n_elems, dtype)}
    for mode, scale in (("kept", 1.4287109375), ("lazy", 1.0)):
        grads[mode][is_kept.reshape(-1)] = given[: is_kept.sum()] * number(scale)
    for rule, (mode, grad) in itertools.product(("momentum", "nesterov", "adam"), grads.items()):
        param, first, second = ((i % n - m).astype(dtype) / 8 for n, m in ((61, 30), (47, 23), (17, 0)))
        g = grad + param * number(0.01)
        new_first = first * number(0.9) + g * number(0.1)
        direction, new_second, start = new_first, second, param
        if rule == "adam":
            new_second = second * number(0.999) + g * g * number(0.001)
            direction = new_first / (np.sqrt(new_second) + number(1e-8))
        elif rule == "nesterov":
            start = param + g * number(0.1)
        new_param = start + direction * number(-0.03)
        changed = {"param": (new_param, param), "first": (new_first, first), "second": (new_second, second)}
        for name, (new, old) in changed.items():
            yield f"{rule}_{mode}_{name}", fnv1a(np.where(is_kept.reshape(-1), new, old) if mode == "lazy" else new)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_steps_of_optimizers_are_those_of_the_formulas(native, dtype):
    expected = {f"step_{dtype}_{name}": digest for name, digest in steps_of_the_model(DTYPES[dtype])}
    assert len(expected) == 27
    for isa, kernels in native.items():
        assert expected == {name: kernels[name] for name in expected}, isa


def test_every_isa_of_this_machine_gives_the_same_answers(native):
    assert_same(native, native, _kernels.supported_isas())


@pytest.mark.promise("bits-processors")
@pytest.mark.parametrize("name", EMULATED)
def test_other_processors_give_the_same_answers(run_program, native, name):
    assert_same(answers(run_program("known_answers", PROCESSORS[name])), native, PROCESSORS[name].isas)


def results(printed):
    """Yield (isa, digest of the bytes) for each result in the output of frozen_cases.c."""
    at = 0
    while at < len(printed):
        end = printed.index(b"\n", at) + 1
        isa, n_bytes = printed[at:end].split()
        at = end + int(n_bytes)
        yield isa.decode(), hashlib.sha256(printed[end:at]).hexdigest()


CASES = "".join(f"{case.line()}\n" for case in FROZEN).encode()


def assert_frozen(run_program, processor):
    found = results(run_program("frozen_cases", processor, stdin=CASES))
    isas = processor.isas
    expected = [(isa, digest) for digest in FROZEN.values() for isa in isas]
    for (case, isa), result, wanted in zip(itertools.product(FROZEN, isas), found, expected, strict=True):
        assert result == wanted, f"{case} on {isa}"


def assert_mode_is_kept(run_program, processor):
    printed = run_program("float_mode", processor).decode()
    # "changed": in the caller's mode the kernels' results differ, without which the program would show nothing.
    assert printed.splitlines() == [f"{isa} changed same restored" for isa in processor.isas]


def assert_threads_share(run_program, processor):
    printed = run_program("sanitizers/positions", processor).decode()
    assert printed.splitlines() == [f"{isa}: every position once, the bits of one thread" for isa in processor.isas]


@pytest.mark.promise("bits-processors")
@pytest.mark.parametrize("name", BY_PROCESSOR)
def test_every_frozen_digest_holds_on_every_processor(run_program, name):
    assert_frozen(run_program, PROCESSORS[name])


@pytest.mark.parametrize("name", BY_PROCESSOR)
def test_a_changed_floating_point_mode_is_left_and_entered_again(run_program, name):
    assert_mode_is_kept(run_program, PROCESSORS[name])


@pytest.mark.parametrize("name", BY_PROCESSOR)
def test_threads_take_every_position_once_and_share_jobs(run_program, name):
    assert_threads_share(run_program, PROCESSORS[name])


# ---- compiler flags -------------------------------------------------------------------------------------------------


@pytest.mark.promise("bits-processors")
@pytest.mark.parametrize(
    ("compiler", "refused", "accepted"),
    [
        ("i686-linux-gnu-gcc", ["", "-msse -mfpmath=sse", "-msse2", "-msse2 -mfpmath=sse,387"], "-msse2 -mfpmath=sse"),
        # clang computes double with x87 instructions on a Pentium III, which has SSE, but reports no excess precision.
        ("clang --target=i686-linux-gnu", ["-mno-sse", "-march=pentium3"], "-msse2"),
    ],
)
def test_the_core_is_not_compiled_with_x87_arithmetic(compiler, refused, accepted):
    def compile_check(flags):
        source = ROOT / "src/core/float_flags.h"
        command = [*compiler.split(), *flags.split(), "-std=c11", "-fsyntax-only", "-x", "c", source]
        compiled = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        return compiled.returncode, compiled.stderr

    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler.split()[0]} is not installed")
    assert compile_check(accepted)[0] == 0
    for flags in refused:
        code, said = compile_check(flags)
        assert code != 0, flags
        assert "cdropout must be compiled without x87 arithmetic" in said, flags


# Flags that change results, emulators, and what the programs say. The first leaves the check of macros out.
CONTRACTED = ("-O2", "-ffp-contract=fast")
CHANGED = {
    "x87": (("i686-linux-gnu-gcc", "-static", "-DCDROPOUT_FLOAT_FLAGS_H"), ("qemu-i386",), "x87 arithmetic"),
    "contraction": (("aarch64-linux-gnu-gcc", "-static", *CONTRACTED), ("qemu-aarch64",), "contraction"),
    "contraction-in-avx512": (("cc", *CONTRACTED), (), "contraction"),
}


@pytest.mark.ci
@pytest.mark.promise("bits-processors")
@pytest.mark.parametrize(
    "name",
    # The optimized core takes half a minute to compile.
    [pytest.param(name, marks=pytest.mark.deep) if name == "contraction-in-avx512" else name for name in CHANGED],
)
def test_flags_without_a_macro_that_change_results_are_found_at_run_time(run_program, name):
    compiler, emulator, words = CHANGED[name]
    if name == "contraction-in-avx512" and "avx512" not in _kernels.supported_isas():
        pytest.skip("of the instruction sets that kernels are compiled for, AVX-512 alone contracts")
    for program in ("known_answers", "frozen_cases"):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            run_program(program, Processor(compiler, emulator, ()), stdin=CASES)
        assert f"the core must be compiled without {words}" in caught.value.stderr.decode()


# ---- memory ---------------------------------------------------------------------------------------------------------

SANITIZERS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
ONE_TOO_FAR = """
#include <string.h>
static char bias[4096], out[4200];
int main(int n_arguments, char **arguments)
{
    memcpy(out, bias, 4096 + (size_t)n_arguments);
    return arguments == NULL;
}
"""


@pytest.mark.ci
@pytest.mark.promise("memory-bounds")
@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.deep)])
def test_the_programs_run_without_optimization_under_the_sanitizers(run_program, native, compiler, tmp_path):
    # Optimized, a read of a static array past its end may be left out or hit another array.
    if reason := reason_to_skip(compiler, *SANITIZERS):
        pytest.skip(reason)
    source = tmp_path / "one_too_far.c"
    source.write_text(ONE_TOO_FAR)
    subprocess.run([compiler, *SANITIZERS, source, "-o", tmp_path / "one_too_far"], check=True, timeout=60)
    control = subprocess.run([tmp_path / "one_too_far"], check=False, capture_output=True, timeout=60)
    assert b"AddressSanitizer: global-buffer-overflow" in control.stderr

    processor = Processor((compiler, *SANITIZERS), (), _kernels.supported_isas())
    assert_same(answers(run_program("known_answers", processor)), native, processor.isas)
    assert_frozen(run_program, processor)
    assert_mode_is_kept(run_program, processor)
    assert_threads_share(run_program, processor)


def test_a_case_whose_bias_has_no_room_in_the_program_is_refused(run_program):
    case = next(case for case in FROZEN if "bias" in case.operation)
    *fields, n_columns = case.line().split()
    assert n_columns == "200"
    stdin = " ".join([*fields, "15001"]).encode()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_program("frozen_cases", PROCESSORS["native"], stdin=stdin)
    assert b"is no case for this program" in caught.value.stderr


IN_BOUNDS = (
    r"\d{5,} calls, \d{5,} of them streaming as well: nothing outside an array, the same bits everywhere\n"
    r"\d{4,} jobs, \d{3,} of them streaming, and (?P<with_records>\d+) with records "
    r"\((\d+ [a-z ]+(, )?){13}\), \d{4,} refused: "
    r"nothing outside an array, the bits of single elements\n"
)


def assert_in_bounds(printed, processor):
    found = re.fullmatch(IN_BOUNDS, printed)
    assert found is not None
    assert (int(found["with_records"]) > 0) == ("avx2" in processor.isas)


@pytest.mark.promise("memory-bounds")
def test_no_kernel_and_no_job_touches_a_guard_page_or_a_canary(run_program):
    assert_in_bounds(run_program("guard_pages", PROCESSORS["native"], "touching").decode(), PROCESSORS["native"])


@pytest.mark.deep
@pytest.mark.parametrize("name", PROCESSORS)
def test_none_touches_a_guard_page_at_any_distance_or_on_another_processor(run_program, name):
    distances = "all" if name == "native" else "touching"  # emulation takes many times as long
    printed = run_program("guard_pages", PROCESSORS[name], distances).decode()
    print(f"{name}, {distances}: {printed}")
    assert_in_bounds(printed, PROCESSORS[name])


@pytest.mark.parametrize("isa", PROCESSORS["native"].isas)
def test_a_kernel_that_goes_one_element_too_far_is_caught(run_program, isa):
    printed = run_program("guard_pages", PROCESSORS["native"], "one-too-many", isa, check=False).decode()
    assert re.match(f"{isa}: apply_mask_f32 reached outside its arrays: 2 positions", printed)


@pytest.mark.parametrize("isa", PROCESSORS["native"].isas)
def test_a_job_that_goes_one_element_too_far_is_caught(run_program, isa):
    printed = run_program("guard_pages", PROCESSORS["native"], "one-too-many-jobs", isa, check=False).decode()
    assert re.match(rf"{isa}( streaming)?: a job as a whole reached outside its arrays", printed)


@pytest.mark.parametrize("isa", PROCESSORS["native"].isas)
def test_a_job_that_moves_one_row_too_many_is_caught(run_program, isa):
    printed = run_program("guard_pages", PROCESSORS["native"], "one-too-many-rows", isa, check=False).decode()
    assert re.match(
        rf"{isa}( streaming)?: a job as a whole (reached outside its arrays|wrote behind its output): (ga|sca)t",
        printed,
    )


@pytest.mark.parametrize("isa", PROCESSORS["native"].isas)
def test_a_step_on_one_element_or_row_too_many_is_caught(run_program, isa):
    printed = run_program("guard_pages", PROCESSORS["native"], "one-too-many-steps", isa, check=False).decode()
    assert re.match(
        rf"{isa}: a job as a whole (reached outside its arrays|wrote behind its output): step of [a-z]+, \d+ elements",
        printed,
    )
