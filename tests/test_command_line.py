"""`python -m cdropout`."""

import os
import subprocess
import sys

import pytest
import reference

import cdropout as cd
from cdropout import __main__ as command_line
from cdropout import _kernels


def test_without_a_command_it_says_what_runs_here(run_python):
    shown = run_python("-m", "cdropout").stdout.decode()
    assert cd.__version__ in shown
    assert _kernels.active_isa() in shown
    assert "OpenMP" in shown
    assert "the best that this machine supports" in shown or "CDROPOUT_ISA" in os.environ


def test_a_forced_isa_is_named_as_forced(run_python):
    shown = run_python("-m", "cdropout", env={"CDROPOUT_ISA": "portable"}).stdout.decode()
    assert "portable (forced by CDROPOUT_ISA;" in shown


def test_a_serial_build_says_so(monkeypatch):
    monkeypatch.setattr(_kernels, "has_openmp", lambda: False)
    assert "serial build: the compiler had no OpenMP" in command_line.describe()


@pytest.mark.parametrize("n_bytes", [0, 1, 8191, 8192, 600_001])
def test_stream_writes_exactly_the_raw_stream(run_python, n_bytes):
    written = run_python("-m", "cdropout", "stream", "--seed", "5", "--bytes", str(n_bytes)).stdout
    expected = reference.raw_bytes(reference.key_of_seed(5), 0, n_bytes // 8192 + 1)
    assert written == expected[:n_bytes]


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
        (("stream", "--seed", "x"), "invalid count value: 'x'"),
        (("stream", "--seed", "1", "--bytes", "-5"), "must be 0 or greater, got -5"),
        (("juggle",), "invalid choice: 'juggle'"),
    ],
)
def test_bad_arguments_end_with_status_2_and_a_message(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command_line.main(list(arguments))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
