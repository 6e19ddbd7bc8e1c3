"""`python -m cdropout`."""

import contextlib
import io
import json
import os
import signal
import site
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import reference
from compilers import reason_to_skip

import cdropout as cd
from cdropout import __main__ as command_line
from cdropout import _kernels, environment, machine, optional
from cdropout.advice import instruction_sets


def test_without_a_command_it_says_what_runs_here(run_python):
    shown = run_python("-m", "cdropout").stdout.decode()
    assert cd.__version__ in shown
    assert _kernels.active_isa() in shown
    assert ("OpenMP" if _kernels.has_openmp() else "threads") in shown
    assert "the best that this machine supports" in shown or "CDROPOUT_ISA" in os.environ


def test_a_forced_isa_is_named_as_forced(run_python):
    shown = run_python("-m", "cdropout", env={"CDROPOUT_ISA": "portable"}).stdout.decode()
    assert "portable (forced by CDROPOUT_ISA;" in shown


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("asked", "1 (serial build: CDROPOUT_OPENMP was 0)"),
        ("compiler", "1 (serial build: the compiler had no OpenMP)"),
        ("link", "1 (serial build, although the compiler had OpenMP: the build's test library did not link)"),
        ("run", "1 (serial build, although the compiler had OpenMP: the build's test library did not run)"),
        ("unknown", "1 (serial build)"),
    ],
)
def test_a_serial_build_says_so_and_why(monkeypatch, reason, text):
    monkeypatch.setattr(_kernels, "has_openmp", lambda: False)
    monkeypatch.setattr(_kernels, "why_serial", lambda: reason)
    facts = environment.facts()
    assert facts["threads"]["openmp"] is None
    assert facts["threads"]["serial_because"] == reason
    assert f"threads          {text}\n" in environment.describe(facts)


def test_json_has_the_facts_that_the_text_has(run_python):
    env = {"CDROPOUT_ISA": "portable", "OMP_NUM_THREADS": "3"}
    facts = json.loads(run_python("-m", "cdropout", "--json", env=env).stdout)
    assert facts["cdropout"] == cd.__version__
    assert facts["instruction_set"] == {
        "active": "portable",
        "forced_by": "CDROPOUT_ISA",
        "available": list(_kernels.supported_isas()),
        "built": list(_kernels.known_isas()),
        "of_processor": None if os.name == "nt" else instruction_sets(),
    }
    assert facts["cache_bytes"] == {f"L{level}": n_bytes for level, n_bytes in machine.cache_bytes().items()}
    assert facts["packages"] == optional.installed_versions()
    shown = run_python("-m", "cdropout", env=env).stdout.decode()
    assert shown.replace(os.linesep, "\n") == environment.describe(facts) + "\n"


@pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP")
def test_the_openmp_library_is_named_with_what_it_allows(run_python):
    env = {"OMP_NUM_THREADS": "3"}
    threads = json.loads(run_python("-m", "cdropout", "--json", env=env).stdout)["threads"]
    if threads["openmp"]["library"] is None:
        pytest.skip("this system does not tell which library has a function")
    assert threads["openmp"]["max_threads"] == 3
    assert threads["openmp"]["OMP_NUM_THREADS"] == "3"
    assert os.path.basename(threads["openmp"]["path"]) == threads["openmp"]["library"]
    assert any(name in threads["openmp"]["library"] for name in ("gomp", "omp", "iomp"))
    assert threads["limit"] == (3 if threads["quota"] is None else max(1, min(3, int(threads["quota"]))))
    shown = run_python("-m", "cdropout", env=env).stdout.decode()
    assert f"{threads['openmp']['library']} allows 3 by OMP_NUM_THREADS=3" in shown


@pytest.mark.parametrize(("quota", "text"), [(None, "no CPU quota"), (1.5, "a quota of 1.5 CPUs")])
def test_a_quota_is_named(monkeypatch, quota, text):
    monkeypatch.setattr(machine.CpuQuota, "n_cpus", lambda self: quota)
    facts = environment.facts()
    assert facts["threads"]["quota"] == quota
    if _kernels.has_openmp():
        assert text in environment.describe(facts)


def test_a_machine_that_says_nothing_of_its_caches_is_described(monkeypatch):
    monkeypatch.setattr(_kernels, "cache_bytes", dict)
    assert "not known" in environment.describe(environment.facts())


def test_the_processor_has_a_name_where_the_system_gives_one(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fast One\n\nmodel name\t: A Fast One\n")
    assert environment.processor(tmp_path / "cpuinfo") == "A Fast One"
    assert environment.processor(tmp_path / "nothing")


def test_packages_are_looked_for_without_being_imported(run_python):
    code = (
        "import sys; from cdropout import environment; environment.describe(environment.facts()); "
        "from cdropout.optional import PURPOSES; print(*[name for name in PURPOSES if name in sys.modules])"
    )
    assert run_python("-c", code).stdout.split() == []


def test_a_folder_that_has_a_packages_name_is_not_taken_for_it(monkeypatch, tmp_path):
    (tmp_path / "dask_like").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(optional, "PURPOSES", {"dask_like": "a test", "numpy": "a test", "module_alone": "a test"})
    (tmp_path / "module_alone.py").touch()
    versions = optional.installed_versions()
    assert versions == {"dask_like": None, "numpy": np.__version__, "module_alone": "of unknown version"}


def test_every_integration_is_looked_for():
    text = {path.stem: path.read_text() for path in Path(cd.__file__).parent.glob("*.py")}
    text |= {
        folder.name: "".join(map(Path.read_text, folder.glob("*.py"))) for folder in Path(cd.__file__).parent.iterdir()
    }
    foreign = {name for name, code in text.items() if f"\nimport {name}\n" in code or f"\nfrom {name}." in code}
    assert {"torch", "thinc", "keras"} <= foreign <= set(optional.PURPOSES)


def test_a_source_folder_that_is_not_compiled_says_so(run_python, tmp_path):
    (tmp_path / "cdropout").mkdir()
    for path in Path(cd.__file__).parent.glob("*.py"):
        (tmp_path / "cdropout" / path.name).write_text(path.read_text())
    # As in a checkout: the folder comes before what is installed. Without site (-S), which would add the finder of an
    # editable install: it gives every cdropout the compiled modules.
    path = [str(tmp_path), *site.getsitepackages()]
    run = run_python("-S", "-m", "cdropout", check=False, env={"PYTHONPATH": os.pathsep.join(path)})
    assert run.returncode == 1
    message = f"ImportError: cdropout must be compiled, and what is in {tmp_path / 'cdropout'} is not: "
    assert message in run.stderr.decode()


@pytest.mark.parametrize("n_bytes", [0, 1, 8191, 8192, 600_001])
def test_stream_writes_exactly_the_raw_stream(run_python, n_bytes):
    written = run_python("-m", "cdropout", "stream", "--seed", "5", "--bytes", str(n_bytes)).stdout
    expected = reference.raw_bytes(reference.key_of_seed(5), 0, n_bytes // 8192 + 1)
    assert written == expected[:n_bytes]


# TestU01's functions that tests/testu01.c calls: SmallCrush writes the 100,000 words that it takes, Rabbit BITS / 32.
TESTU01 = """
#include <stdio.h>
typedef unsigned int unif01_Gen(void);
static unif01_Gen *unif01_CreateExternGenBits(char *name, unif01_Gen *generator) { return name ? generator : NULL; }
static void unif01_DeleteExternGenBits(unif01_Gen *generator) { (void)generator; }
static void bbattery_Rabbit(unif01_Gen *generator, double n_bits)
{
    for (unsigned int word; n_bits >= 32.0; n_bits -= 32.0) {
        word = generator();
        fwrite(&word, sizeof word, 1, stdout);
    }
}
static void bbattery_SmallCrush(unif01_Gen *generator) { bbattery_Rabbit(generator, 3200000.0); }
"""


@pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler")
def test_testu01_is_given_the_raw_stream(tmp_path):
    (tmp_path / "TestU01.h").write_text(TESTU01)
    source = Path(__file__).with_name("testu01.c")
    build = ["cc", "-std=c11", "-Wall", "-Werror", "-I", tmp_path, source, "-o", tmp_path / "testu01"]
    subprocess.run(build, check=True, timeout=60)
    stream, n_bytes = reference.raw_bytes(reference.key_of_seed(1), 0, 70), 500_000
    given = {"input": stream, "capture_output": True, "timeout": 60, "check": False}
    assert subprocess.run([tmp_path / "testu01", "800000"], **given).stdout == stream[:n_bytes]
    for arguments, said in ((["8000000"], b"standard input has ended"), ([], b"usage"), (["x"], b"usage")):
        refused = subprocess.run([tmp_path / "testu01", *arguments], **given)
        assert refused.returncode == 2
        assert said in refused.stderr


ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "examples" / "mnist" / "train.py")
STREAM = ["-m", "cdropout", "stream", "--seed", "1"]
PROGRAMS = {
    "facts": ["-m", "cdropout"],
    "unbuffered": ["-u", "-m", "cdropout", "--json"],
    "help": ["-m", "cdropout", "--help"],
    "version": ["-m", "cdropout", "--version"],
    "stream": [*STREAM, "--bytes", "300000"],
    "benchmarks": ["-m", "benchmarks", "--help"],
    "train": [TRAIN, "--help"],
    "bench": ["-m", "cdropout", "bench", "--seconds", "0.1"],
    "demo": ["-m", "cdropout", "demo", "--seconds", "0.1"],
    "train command": ["-m", "cdropout", "train", "--quiet", "--epochs", "1", "--hidden", "8", "--batch", "1000"],
}
MESSAGE = "error: standard output must be writable, got No space left on device\n"

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")


@pytest.fixture
def start(tmp_path):
    """Start one of PROGRAMS with a standard output, as users do: with a buffer unless `-u` says otherwise."""
    started = []

    def start(name, stdout, **options):
        if name == "bench":
            pytest.importorskip("rich")
            pytest.importorskip("threadpoolctl")
        if name in ("benchmarks", "train"):
            if name == "benchmarks":
                pytest.importorskip("tqdm")
            if not (ROOT / "examples").exists():
                pytest.skip("the tests were taken out of the checkout")
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        folder = ROOT if name == "benchmarks" else tmp_path
        command = [sys.executable, *PROGRAMS[name]]
        options = {"stdout": stdout, "stderr": subprocess.PIPE, "cwd": folder, "env": env, **options}
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


@needs_posix
@pytest.mark.parametrize("name", PROGRAMS)
def test_closed_reader_ends_every_program_quietly(start, name):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(name, writer)
    os.close(writer)
    assert process.communicate(timeout=60) == (None, b"")
    assert process.returncode == 0


@needs_posix
@pytest.mark.parametrize("name", ["facts", "stream"])
def test_closed_reader_of_both_streams_ends_a_program(start, name):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(name, writer, stderr=writer)
    os.close(writer)
    assert process.wait(timeout=60) == 0


@needs_posix
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("train", "bench", "demo", "train command")])
def test_slow_reader_of_a_non_blocking_pipe_receives_everything(start, name):
    """Standard output is non-blocking below ssh, node and some terminals: they share its open file."""
    with start(name, subprocess.PIPE) as process:
        expected, _ = process.communicate(timeout=60)
    assert expected
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filler = b"x" * 4096
    n_before = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            n_before += os.write(writer, filler)
    process = start(name, writer)
    os.close(writer)
    time.sleep(0.5)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read(n_before) == b"x" * n_before
        assert pipe.read() == expected
    assert process.communicate(timeout=60) == (None, b"")
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/full")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.deep) if name == "bench" else name for name in PROGRAMS]
)
def test_full_device_is_an_error_without_a_traceback(start, name):
    with open("/dev/full", "wb") as full:
        process = start(name, full)
    _, message = process.communicate(timeout=60)
    assert message.decode().endswith(MESSAGE)
    assert message.count(b"\n") == 1
    assert process.returncode == 1


@needs_posix
@pytest.mark.parametrize("name", ["facts", "version", "stream"])
def test_closed_standard_output_is_refused(start, name):
    process = start(name, None, preexec_fn=lambda: os.close(1))
    _, message = process.communicate(timeout=60)
    assert message.decode().endswith("error: standard output must be open, and it is closed\n")
    assert message.count(b"\n") == 1
    assert process.returncode == 2


@needs_posix
def test_closed_standard_error_changes_nothing(start):
    expected, _ = start("facts", subprocess.PIPE).communicate(timeout=60)
    process = start("facts", subprocess.PIPE, stderr=None, preexec_fn=lambda: os.close(2))
    assert process.communicate(timeout=60) == (expected, None)
    assert process.returncode == 0


@needs_posix
@pytest.mark.parametrize("disposition", ["default", "ignored", "blocked"])
def test_closed_reader_is_noticed_with_every_disposition_of_sigpipe(start, disposition):
    def prepare():
        if disposition == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        else:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL if disposition == "default" else signal.SIG_IGN)

    reader, writer = os.pipe()
    os.close(reader)
    process = start("stream", writer, preexec_fn=prepare, restore_signals=False)
    os.close(writer)
    assert process.communicate(timeout=60) == (None, b"")
    assert process.returncode == 0


@needs_posix
def test_interrupt_ends_a_program_that_waits_for_a_slow_reader(start):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = start("stream", writer)
    os.close(writer)
    assert os.read(reader, 1)  # it has begun to write, and the pipe takes less than all
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (None, b"python -m cdropout: interrupted\n")
    assert process.returncode == 130
    os.close(reader)


def test_descriptors_of_closed_streams_are_not_given_to_files(run_python, tmp_path):
    """A file opened later, for example a checkpoint, must not receive what C code writes to standard error."""
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "from cdropout.command import run_command\n"
        "def main():\n"
        "    with open('file', 'w') as file:\n"
        "        print(file.fileno())\n"
        "    return 0\n"
        "os.close(0), os.close(2)\n"
        "sys.stdin = sys.stderr = None\n"
        "sys.exit(run_command(main, 'program'))\n"
    )
    assert int(run_python("program.py").stdout) > 2


@pytest.mark.parametrize(
    ("statement", "status", "message"),
    [
        ("return 3", 3, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('a sentence')", 1, "a sentence\n"),
        ("raise CommandError('x must be 1, got 2')", 1, "prog: error: x must be 1, got 2\n"),
        ("raise MemoryError", 1, "prog: error: memory must suffice, got too little\n"),
        ("raise KeyboardInterrupt", 130, "prog: interrupted\n"),
    ],
)
def test_way_a_command_ends_is_its_status_and_message(run_python, statement, status, message):
    code = (
        "import sys\nfrom cdropout.command import CommandError, run_command\n"
        f"def main():\n    print('shown')\n    {statement}\nsys.exit(run_command(main, 'prog'))"
    )
    run = run_python("-c", code, check=False)
    said, shown = (output.decode().replace(os.linesep, "\n") for output in (run.stderr, run.stdout))
    assert (run.returncode, said, shown) == (status, message, "shown\n")


def test_fault_of_a_program_keeps_its_traceback(run_python):
    code = (
        "import os, sys\nfrom cdropout.command import run_command\n"
        "def main():\n    print('shown')\n    os.close(1)\n    raise OSError(1, 'a fault')\n"
        "sys.exit(run_command(main, 'prog'))"
    )
    run = run_python("-c", code, check=False)
    assert run.returncode != 0
    assert "PermissionError: [Errno 1] a fault" in run.stderr.decode()


def test_stream_is_written_to_an_output_without_a_descriptor(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    assert command_line.main(["stream", "--seed", "5", "--bytes", "10000"]) == 0
    assert out.buffer.getvalue() == reference.raw_bytes(reference.key_of_seed(5), 0, 2)[:10000]


@pytest.mark.parametrize(("out", "found"), [(io.StringIO(), "StringIO has no buffer"), (None, "it is closed")])
def test_stream_refuses_an_output_that_takes_no_bytes(monkeypatch, capsys, out, found):
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as caught:
        command_line.main(["stream", "--seed", "5", "--bytes", "10000"])
    assert caught.value.code == 2
    assert f"standard output must be open for bytes, and {found}" in capsys.readouterr().err


def test_stream_ends_quietly_when_the_reader_closes_the_pipe(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-m", "cdropout", "stream", "--seed", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with writer:
        first = writer.stdout.read(1_000_000)
        writer.stdout.close()
        assert writer.wait(timeout=30) == 0
        assert writer.stderr.read() == b""
    assert first[:8192] == reference.raw_bytes(reference.key_of_seed(1), 0, 1)


def test_stream_with_a_closed_standard_output_says_so(tmp_path):
    command = [sys.executable, "-m", "cdropout", "stream", "--seed", "1"]
    if sys.platform == "win32":
        pytest.skip("needs a POSIX shell")
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *command], cwd=tmp_path, stderr=subprocess.PIPE, check=False, timeout=60
    )
    assert closed.returncode == 2
    assert b"standard output must be open" in closed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stream",), "--seed"),
        (("stream", "--seed", "-1"), "must be 0 or greater, got -1"),
        (("stream", "--seed", str(2**128)), f"argument --seed: must be below 2**128, got {2**128}"),
        (("stream", "--seed", "x"), "invalid count value: 'x'"),
        (("stream", "--seed", "1", "--bytes", "-5"), "must be 0 or greater, got -5"),
        (("juggle",), "invalid choice: 'juggle'"),
        (("demo", "--seconds", "0"), "must be above 0 and finite, got 0"),
        (("train", "--p", "1.5"), "cdropout train: error: argument --p must be in [0, 1], got 1.5"),
        (("bench", "--p", "1"), "must be in (0, 1), got 1"),
        (("bench", "--p", "nan"), "must be in (0, 1), got nan"),
        (("bench", "--p", "half"), "invalid probability value: 'half'"),
        (("bench", "--seconds", "0"), "must be above 0 and finite, got 0"),
        (("bench", "--seconds", "inf"), "must be above 0 and finite, got inf"),
    ],
)
def test_bad_arguments_end_with_status_2_and_a_message(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command_line.main(list(arguments))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
