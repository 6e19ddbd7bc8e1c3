"""Windows under Wine, and macOS as far as a cross compiler goes."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compilers import reason_to_skip
from conftest import switches_settings

import cdropout as cd
from cdropout import _kernels

ROOT = Path(__file__).parents[1]

pytestmark = [
    switches_settings,
    pytest.mark.skipif(not (ROOT / "src/core").is_dir(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(sys.platform == "win32", reason="tests that start Windows"),
]


# ---- what the system tells ------------------------------------------------------------------------------------------

SYSTEM_CALLS = [ROOT / "tests/system_calls.c", ROOT / "src/system/win32.c"]
WITH_TEAM = "-DCDROPOUT_SERIAL_REASON=SYSTEM_THREADS"
TWO_THREADS = {"OMP_NUM_THREADS": "2"}


def compile_for(target, source, *arguments):
    command = ["python-zig", "cc", *(("-target", target) if target else ("-mcpu=baseline",))]
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", WITH_TEAM]
    subprocess.run([*command, *flags, *source, *arguments], check=True, timeout=900)


@pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler")
def test_a_team_of_this_system_calls_every_index_once(tmp_path):
    program = tmp_path / "system_calls"
    subprocess.run(["cc", "-std=c11", "-pthread", *SYSTEM_CALLS, "-o", program], check=True, timeout=60)
    assert subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout.endswith("once\n")


# ControlFlags, the rate as 10000 for all processors or as two halves (minimum, maximum), processors; CPUs or 0.
QUOTAS = {
    "no rate is enabled": (0x0, 5000, 4, 0),
    "a weight": (0x1 | 0x2, 5, 4, 0),
    "a rate without a hard cap": (0x1, 5000, 4, 0),
    "half of four": (0x1 | 0x4, 5000, 4, 2),
    "a hundredth of one": (0x1 | 0x4, 100, 1, 0.01),
    "a hard cap at all processors": (0x1 | 0x4, 10000, 64, 0),
    "a maximum of a quarter above a minimum of a tenth": (0x1 | 0x10, 2500 << 16 | 1000, 64, 16),
    "a maximum of all processors": (0x1 | 0x10, 10000 << 16 | 1000, 64, 0),
    "a hard cap that is not enabled": (0x4, 5000, 4, 0),
}
QUOTA_PROGRAM = """
#include <stdio.h>
#include "{header}"
int main(void)
{{
    unsigned flags, rate, n_processors;
    while (scanf("%u %u %u", &flags, &rate, &n_processors) == 3)
        printf("%.17g\\n", cpu_quota_of_rate(flags, rate, n_processors));
}}
"""


@pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler")
def test_the_quota_of_a_job_object_is_its_hard_cap_as_a_number_of_processors(tmp_path):
    (tmp_path / "quota.c").write_text(QUOTA_PROGRAM.format(header=ROOT / "src/system/win32.h"))
    program = tmp_path / "quota"
    subprocess.run(["cc", "-std=c11", tmp_path / "quota.c", "-o", program], check=True, timeout=60)
    given = "\n".join(f"{flags} {rate} {n}" for flags, rate, n, _ in QUOTAS.values())
    done = subprocess.run([program], input=given, check=True, capture_output=True, text=True, timeout=60)
    found = dict(zip(QUOTAS, map(float, done.stdout.split()), strict=True))
    assert found == {case: quota for case, (*_, quota) in QUOTAS.items()}


# ---- macOS's threads here -------------------------------------------------------------------------------------------

# The compiler's wrapper tells the sources what setup.py tells them on macOS.
WITH_LIBDISPATCH = """#!/bin/sh
exec clang "$@" -DCDROPOUT_LIBDISPATCH -UCDROPOUT_SERIAL_REASON {team}
"""
IN_TEAM = """
import cdropout
from cdropout import _kernels, environment
assert cdropout.__file__.startswith({folder!r})
assert _kernels.has_system_threads() and not _kernels.has_openmp()
assert environment.facts()["threads"]["limit"] == {n_threads}
"""


@pytest.mark.deep
@pytest.mark.promise("bits-processors")
def test_a_build_with_libdispatch_has_the_known_answers_and_the_frozen_digests(run_python, tmp_path):
    if reason := reason_to_skip("clang", "-ldispatch", "-include", "dispatch/dispatch.h"):
        pytest.skip(f"needs clang and libdispatch: {reason}")
    compiler, site = tmp_path / "clang-with-libdispatch", tmp_path / "site"
    compiler.write_text(WITH_LIBDISPATCH.format(team=WITH_TEAM))
    compiler.chmod(0o755)
    shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(".git", "build", "dist", "*.so"))
    variables = {"CC": str(compiler), "LDFLAGS": "-ldispatch", "CDROPOUT_OPENMP": "0"}
    install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--target", str(site)]
    run_python(*install, str(tmp_path / "tree"), env=variables, timeout=1200)
    copied = tmp_path / "tests"
    shutil.copytree(ROOT / "tests", copied)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for n_threads in (1, 2):
        env = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": str(n_threads)}
        run_python("-c", IN_TEAM.format(folder=str(site), n_threads=n_threads), env=env)
        files = [str(copied / f"test_{name}.py") for name in ("frozen_stream", "stream_specification", "kernels")]
        done = run_python("-m", "pytest", "-q", "-n", "0", *files, env=env, check=False, timeout=600)
        print(n_threads, done.stdout.decode()[-200:])
        assert done.returncode == 0, done.stdout.decode()
    # Three arrays of several ranges each, of this build and of this library.
    (line_here, line_there) = (
        run_python("-c", FACTS, env=env).stdout.decode() for env in ({}, {"PYTHONPATH": str(site), **TWO_THREADS})
    )
    assert facts_in(line_there)["digests"] == facts_in(line_here)["digests"]


MAGIC = {
    "aarch64-macos": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01",  # Mach-O of 64 bits, and the processor's number
    "x86_64-macos": b"\xcf\xfa\xed\xfe\x07\x00\x00\x01",
    "aarch64-windows-gnu": b"\x64\xaa",
    "x86_64-windows-gnu": b"\x64\x86",
}


@pytest.mark.ci
@pytest.mark.parametrize("target", MAGIC)
def test_the_calls_of_the_system_compile_for_other_systems(target, tmp_path):
    if reason := reason_to_skip("python-zig", "cc"):
        pytest.skip(reason)
    for source in (*SYSTEM_CALLS, ROOT / "src/core/dispatch.c"):
        compile_for(target, [source], "-c", "-o", tmp_path / "compiled.o")
        assert (tmp_path / "compiled.o").read_bytes().startswith(MAGIC[target])


@pytest.mark.deep
@pytest.mark.parametrize("target", ["aarch64-macos", "x86_64-macos", "aarch64-windows-gnu"])
def test_the_core_compiles_and_links_for_other_systems(target, tmp_path):
    if reason := reason_to_skip("python-zig", "cc"):
        pytest.skip(reason)
    sources = [*sorted((ROOT / "src/core").rglob("*.c")), ROOT / "tests/known_answers.c"]
    compile_for(target, sources, "-o", tmp_path / "known_answers")
    assert (tmp_path / "known_answers").stat().st_size > 1 << 18


# ---- Windows under Wine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wine():
    """Python for Windows with this library, built by zig."""
    path = ROOT / "tests/windows/under_wine.py"
    specification = importlib.util.spec_from_file_location("under_wine", path)
    under_wine = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(under_wine)
    wine = under_wine.Wine(ROOT / "build/windows")
    if reason := wine.reason_to_skip():
        pytest.skip(reason)
    try:
        wine.fetch()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages for Windows cannot be fetched: {error.stderr[-200:]!r}")
    wine.install(wine.build_wheel())
    return wine


FACTS = """
import hashlib, json, sys
import numpy as np
import cdropout as cd
from cdropout import _kernels, environment

x = np.random.default_rng(0).standard_normal(3_000_001)
digests = []
for isa in _kernels.supported_isas():
    _kernels.use_isa(isa)
    for dtype in (np.float16, np.float32, np.float64):
        a = x.astype(dtype)
        for y in (cd.dropout(a, 0.3, rng=1), cd.dropout_add(a, a, 0.3, rng=1), cd.gaussian_noise(a, 0.3, rng=1)):
            digests.append(hashlib.sha256(y.tobytes()).hexdigest())
_kernels.use_isa(None)
facts = environment.facts()
print("FACTS" + json.dumps({
    "platform": sys.platform,
    "digests": digests,
    "isas": facts["instruction_set"],
    "threads": facts["threads"],
    "caches": facts["cache_bytes"],
    "text": environment.describe(facts),
}))
"""


def facts_in(printed):
    (line,) = re.findall("^FACTS(.*)$", printed, re.M)
    return json.loads(line)


@pytest.mark.deep
@pytest.mark.promise("bits-processors")
def test_windows_has_the_kernels_and_the_bits_of_this_system(wine, run_python, tmp_path):
    folder = tmp_path / "with spaces, ä"
    folder.mkdir()
    (folder / "facts.py").write_text(FACTS, encoding="utf-8")
    on_windows = facts_in(wine.run("facts.py", cwd=folder, timeout=300).stdout)
    here = facts_in(run_python(str(folder / "facts.py")).stdout.decode())
    for found in (on_windows, here):
        found["isas"].pop("of_processor")  # from a file that Windows does not have
    assert on_windows["platform"] == "win32"
    assert on_windows["digests"] == here["digests"]
    assert on_windows["isas"] == here["isas"]
    assert on_windows["threads"]["serial_because"] is None
    assert on_windows["threads"]["limit"] == len(range(on_windows["threads"]["cpus"]))
    assert on_windows["caches"]
    assert "threads of the operating system" in on_windows["text"]


@pytest.mark.deep
def test_kernels_masks_streams_and_layers_pass_on_windows(wine, tmp_path):
    done = wine.run_tests(*wine.SHORT, timeout=600)
    print(done.stdout)
    assert done.returncode == 0
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 900
    assert not re.search(r"\d+ (failed|error)", done.stdout)


SPAWN = """
import multiprocessing
import sys
import numpy as np
import cdropout as cd

def mean(seed):
    return float(cd.dropout(np.ones(100_000, np.float32), 0.5, rng=seed).mean(dtype=np.float64))

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(sys.stdout.encoding, pool.map(mean, [1, 2, 3]))
"""


@pytest.mark.deep
def test_processes_that_windows_spawns_give_the_same_masks_and_a_console_may_lack_utf_8(wine, tmp_path):
    (tmp_path / "spawn.py").write_text(SPAWN)
    done = wine.run("spawn.py", cwd=tmp_path, timeout=300, variables={"PYTHONIOENCODING": "cp437"})
    x = np.ones(100_000, np.float32)
    means = [float(cd.dropout(x, 0.5, rng=seed).mean(dtype=np.float64)) for seed in (1, 2, 3)]
    assert done.stdout.strip() == f"cp437 {means}"
    done = wine.run("-m", "cdropout", cwd=tmp_path, timeout=120, variables={"PYTHONIOENCODING": "cp437"})
    assert done.returncode == 0
    assert f"instruction set  {_kernels.active_isa()}" in done.stdout


# A job object as Windows' containers have it: half of the processors' time, and a hard cap.
IN_JOB = """
import ctypes, os
from cdropout import _kernels

class CpuRate(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint32), ("rate", ctypes.c_uint32)]

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
for function in (kernel32.CreateJobObjectW, kernel32.GetCurrentProcess):
    function.restype = ctypes.c_void_p
job = ctypes.c_void_p(kernel32.CreateJobObjectW(None, None))
rate = CpuRate(0x1 | 0x4, 5000)
if not kernel32.SetInformationJobObject(job, 15, ctypes.byref(rate), ctypes.sizeof(rate)):
    print("NONE", ctypes.get_last_error())
elif not kernel32.AssignProcessToJobObject(job, ctypes.c_void_p(kernel32.GetCurrentProcess())):
    print("OUTSIDE", ctypes.get_last_error())
else:
    print("QUOTA", _kernels.cpu_quota(), os.cpu_count())
"""


@pytest.mark.deep
def test_the_quota_of_a_job_object_counts_on_windows(wine, tmp_path):
    (tmp_path / "job.py").write_text(IN_JOB)
    said, *numbers = wine.run("job.py", cwd=tmp_path, timeout=120).stdout.split()
    if said == "NONE":
        pytest.skip(f"this Wine has no CPU rates of job objects: error {numbers}")
    assert said == "QUOTA"
    assert float(numbers[0]) == int(numbers[1]) / 2


@pytest.mark.deep
def test_the_pool_of_windows_calls_every_index_once(wine, tmp_path):
    compile_for("x86_64-windows-gnu", SYSTEM_CALLS, "-o", tmp_path / "system_calls.exe")
    for _ in range(5):
        assert wine.start(tmp_path / "system_calls.exe", cwd=tmp_path, timeout=60).stdout.endswith("every index once\n")
