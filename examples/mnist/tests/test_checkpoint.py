"""Checkpoints: a run that is stopped at any moment and resumed ends as one that never was, bit for bit."""

import dataclasses
import errno
import math
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train as script
from cdropout.digits import checkpoint, files, program
from cdropout.digits.checkpoint import (
    FORMAT,
    RUN_FIELDS,
    CheckpointError,
    Checkpoints,
    digest_dataset,
    read_checkpoint,
    write_checkpoint,
)
from cdropout.digits.divergence import DivergenceError
from cdropout.digits.training import DROPOUTS, Config, train
from cdropout.networks import Adam
from train import main

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, links, devices and permissions of POSIX")

KINDS = sorted(DROPOUTS)
# Three steps an epoch, the last of them with a shorter batch.
CONFIG = Config(epochs=2, batch=128, hidden=24, relu=True, l2=1e-4, seed=7)
N_STEPS = 6

pytestmark = [
    pytest.mark.thread_unsafe(reason="writes files that a fixture gives to every thread"),
    pytest.mark.usefixtures("one_blas_thread"),
]


class StoppedError(Exception):
    """Stands in for a kill."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.fixture
def stop_after(few, path, monkeypatch):
    """Train until so many checkpoints have been written, one after each step."""

    def run(n_writings, config, *, resume=False, **options):
        written = []

        def write_and_count(*args):
            write_checkpoint(*args)
            written.append(args)
            if len(written) == n_writings:
                raise StoppedError

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_checkpoint", write_and_count)
            with pytest.raises(StoppedError):
                train(config, few, checkpoints=Checkpoints(path, every=1, resume=resume), **options)

    return run


@pytest.fixture
def saved(few, path):
    """The contents of the checkpoint of a whole run, which is at `path`."""
    train(CONFIG, few, checkpoints=Checkpoints(path))
    return read_checkpoint(path)


def bits_of(result):
    """All that a run computes, as bytes."""
    params = [param.tobytes() for param in result.network.params]
    return params, result.losses.tobytes(), result.test, result.evaluations


def arrays_of(path):
    """The arrays of a checkpoint that do not tell times, as bytes."""
    return {name: array.tobytes() for name, array in read_checkpoint(path)[1].items() if not name.endswith("seconds")}


# ---- stopped and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_run_is_the_run_that_never_stopped(kind, few, path, stop_after):
    config = dataclasses.replace(CONFIG, dropout=kind)
    expected = bits_of(train(config, few))
    for n_steps in (1, 3, 5, N_STEPS):
        path.unlink(missing_ok=True)
        stop_after(n_steps, config)
        assert read_checkpoint(path)[0]["n_steps"] == n_steps
        assert bits_of(train(config, few, checkpoints=Checkpoints(path, every=2, resume=True))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_run_stopped_after_every_step_is_the_run_that_never_stopped(kind, few, path, stop_after):
    config = dataclasses.replace(CONFIG, dropout=kind)
    for _ in range(N_STEPS):
        stop_after(1, config, resume=True)
    resumed = train(config, few, checkpoints=Checkpoints(path, every=1, resume=True))
    assert bits_of(resumed) == bits_of(train(config, few))


@pytest.mark.parametrize(("content", "resume"), [(None, False), (None, True), (b"not a checkpoint", False)])
def test_run_that_begins_anew_is_the_run_without_checkpoints_and_leaves_one(content, resume, few, path):
    if content is not None:
        path.write_bytes(content)
    kept = train(CONFIG, few, checkpoints=Checkpoints(path, every=1, resume=resume))
    assert bits_of(kept) == bits_of(train(CONFIG, few))
    assert read_checkpoint(path)[0]["n_steps"] == N_STEPS


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (6, [6]), (50, [6])])
def test_checkpoint_is_written_every_so_many_steps_and_at_the_end(every, expected, few, path, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda path, run, arrays: written.append(run["n_steps"]))
    train(CONFIG, few, checkpoints=Checkpoints(path, every=every))
    assert written == expected


def test_evaluations_and_times_of_the_steps_before_are_kept(few, path, stop_after):
    expected = train(CONFIG, few, evaluations_per_epoch=3)
    stop_after(4, CONFIG, evaluations_per_epoch=3)
    before = read_checkpoint(path)[1]
    resumed = train(CONFIG, few, evaluations_per_epoch=3, checkpoints=Checkpoints(path, resume=True))
    assert bits_of(resumed) == bits_of(expected)
    assert [evaluation.n_steps for evaluation in resumed.evaluations] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(resumed.step_seconds[:4], before["step_seconds"][:4])
    np.testing.assert_array_equal(resumed.dropout_seconds[:4], before["dropout_seconds"][:4])
    assert np.all(resumed.step_seconds > 0)


def test_resuming_a_finished_run_makes_no_step(few, path):
    first = train(CONFIG, few, checkpoints=Checkpoints(path))
    again = train(CONFIG, few, checkpoints=Checkpoints(path, resume=True))
    assert bits_of(again) == bits_of(first)
    np.testing.assert_array_equal(again.step_seconds, first.step_seconds)


# ---- killed ---------------------------------------------------------------------------------------------------------

# 1250 steps that each take less time than the writing of a checkpoint after it: a kill is likely to come in a writing.
KILLED = "--batch 16 --hidden 16 --relu --quiet --checkpoint-every 1"


def start_program(path, *arguments):
    return subprocess.Popen(
        [sys.executable, script.__file__, *KILLED.split(), "--checkpoint", str(path), *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_checkpoint(process, path, inode=None):
    """Wait until a program has written one that is not the file of that inode."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_ino == inode:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def end(process):
    """Wait for a program that must end well, and return what it printed."""
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, b"")
    return out


@needs_posix
@pytest.mark.promise("resumed-training")
def test_killed_program_resumes_to_the_same_bits(tmp_path):
    uninterrupted, path = tmp_path / "uninterrupted.npz", tmp_path / "killed.npz"
    undisturbed = start_program(uninterrupted, "--checkpoint-every", "1000")
    rng, n_steps = random.Random(1), [0]
    for _ in range(3):
        inode = path.stat().st_ino if path.exists() else None
        # From the second on, a kill also hits a run that was itself resumed.
        process = start_program(path, "--resume")
        wait_for_checkpoint(process, path, inode)
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the program ended before it was killed"
        n_steps.append(read_checkpoint(path)[0]["n_steps"])
        assert n_steps[-1] > n_steps[-2]
    resumed = start_program(path, "--resume", "--checkpoint-every", "1000")
    assert n_steps[-1] < 1250
    out, undisturbed_out = end(resumed), end(undisturbed)
    assert arrays_of(path) == arrays_of(uninterrupted)
    assert out.splitlines()[:2] == undisturbed_out.splitlines()[:2]
    assert sorted(tmp_path.iterdir()) == [path, uninterrupted]


@pytest.mark.promise("resumed-training")
@pytest.mark.deep
def test_20_runs_killed_at_random_moments_resume_to_the_bits_of_runs_that_were_not(tmp_path):
    rng, seconds_of, told = random.Random(3), {}, []
    while len(told) < 20:
        kind = KINDS[len(told) % len(KINDS)]
        uninterrupted, path = tmp_path / f"{kind}.npz", tmp_path / "killed.npz"
        if kind not in seconds_of:
            process = start_program(uninterrupted, "--dropout", kind)
            wait_for_checkpoint(process, uninterrupted)
            began = time.monotonic()
            end(process)
            seconds_of[kind] = time.monotonic() - began
        path.unlink(missing_ok=True)
        process = start_program(path, "--dropout", kind)
        wait_for_checkpoint(process, path)
        moment = rng.uniform(0, seconds_of[kind])
        time.sleep(moment)
        process.kill()
        process.communicate()
        n_steps = read_checkpoint(path)[0]["n_steps"]
        if n_steps == 1250:
            continue  # it was faster
        end(start_program(path, "--dropout", kind, "--resume", "--checkpoint-every", "1000"))
        assert arrays_of(path) == arrays_of(uninterrupted)
        told.append(f"{kind}: killed {moment:.2f} s into training, with a checkpoint of {n_steps} of 1250 steps")
        print(told[-1], flush=True)


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_failure_before_renaming_leaves_the_old_checkpoint_whole(name, path, monkeypatch):
    write_checkpoint(path, {"old": True}, {"x": np.arange(3)})
    old = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(CheckpointError, match=r"run.npz: must be writable, got No space left on device"):
        write_checkpoint(path, {"old": False}, {"x": np.arange(4)})
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("refuses", ["folders", "all"])
def test_file_systems_that_cannot_synchronize_take_checkpoints(code, refuses, path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor):
        if refuses == "all" or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_checkpoint(path, {"format": FORMAT, **dict.fromkeys(RUN_FIELDS - {"format"})}, {"x": np.arange(4)})
    assert read_checkpoint(path)[1]["x"].tolist() == [0, 1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_read_takes_checkpoints(path, monkeypatch):
    os_open = os.open

    def refuse(name, *arguments, **keywords):
        if Path(name) == path.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return os_open(name, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refuse)
    write_checkpoint(path, {}, {"x": np.arange(4)})
    assert path.exists()


@needs_posix
def test_a_disk_that_fails_for_a_folder_is_an_error(path, monkeypatch):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="must be writable, got Input/output error"):
        write_checkpoint(path, {}, {"x": np.arange(4)})


LEFT_BY_THE_KILLED = (".run.npz.0123456789abcdef.partial", ".run.npz.fedcba9876543210.partial", ".run.npz.lock")


def test_kill_in_writing_or_before_renaming_leaves_the_old_checkpoint_whole(few, path):
    """The temporary files of killed runs, of any length, are never read, and the next run removes them."""
    expected = train(CONFIG, few, checkpoints=Checkpoints(path))
    whole = path.read_bytes()
    for n_bytes in (0, 10, len(whole) // 2, len(whole)):
        for name in LEFT_BY_THE_KILLED:
            path.with_name(name).write_bytes(whole[:n_bytes])
        write_checkpoint(path, *read_checkpoint(path))
        assert path.read_bytes() == whole
        assert bits_of(train(CONFIG, few, checkpoints=Checkpoints(path, resume=True))) == bits_of(expected)
        assert list(path.parent.iterdir()) == [path]
        assert path.read_bytes() == whole


def test_checking_the_path_cleans_up_and_leaves_the_checkpoint_alone(path):
    path.write_bytes(b"a checkpoint")
    path.with_name(LEFT_BY_THE_KILLED[0]).write_bytes(b"what a killed run left")
    other = path.with_name(".run.npz.backup.partial")
    other.write_bytes(b"a file of the user")
    checkpoint.check_checkpoint_path(path)
    found = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert found == {path: b"a checkpoint", other: b"a file of the user"}


@needs_posix
def test_file_behind_a_symbolic_link_is_replaced_and_the_link_stays(path, tmp_path):
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    write_checkpoint(link, {}, {})
    assert link.is_symlink()
    assert path.is_file()


@needs_posix
def test_contents_are_on_the_disk_before_the_name_and_the_name_before_the_end(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(Path(f"/proc/self/fd/{fd}").resolve()), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("replace"), replace(old, new)))
    write_checkpoint(path, {}, {"x": np.zeros(100_000)})
    partial, *others = calls
    assert partial.parent == path.parent.resolve()
    assert files.partials_of(path).fullmatch(partial.name)
    assert others == ["replace", path.parent.resolve()]


# ---- several processes ----------------------------------------------------------------------------------------------


# The lock is one of an open file, not of a process, so that a test can hold that of another run.
another_run = checkpoint.lock_checkpoint


@needs_posix
@pytest.mark.parametrize("resume", [False, True])
def test_second_run_of_a_checkpoint_is_refused_before_it_writes(resume, path, few, monkeypatch, capsys):
    train(CONFIG, few, checkpoints=Checkpoints(path))
    before = path.read_bytes()
    link = path.with_name("link.npz")
    link.symlink_to(path)
    monkeypatch.setattr(program, "load_dataset", lambda folder, n_classes: few)
    for given in (path, link):
        with another_run(path):
            found = sorted(path.parent.iterdir())
            assert main(["--quiet", "--checkpoint", str(given), *(["--resume"] if resume else [])]) == 2
            assert sorted(path.parent.iterdir()) == found
        message = f"{given}: must be used by one run at a time, got a second while process {os.getpid()} on "
        assert capsys.readouterr().err.startswith(f"train.py: error: {message}")
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [link, path]


HOLDER = """
import os, sys
from pathlib import Path
from cdropout.digits.files import lock_for_run
with lock_for_run(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_lock_of_another_process_is_respected_and_ends_with_the_process_however_it_ends(path):
    for way in ("end", "kill"):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-P", "-c", HOLDER, str(path)], **pipes) as holder:
            pid = int(holder.stdout.readline())
            refused = rf"run\.npz: must be used by one run at a time, got a second while process {pid} on "
            for _ in range(2):
                with pytest.raises(CheckpointError, match=refused), another_run(path):
                    pass
            if way == "kill":
                holder.kill()
        # A killed process leaves the file of its lock, which the next run takes over and removes.
        assert [file.name for file in path.parent.iterdir()] == [".run.npz.lock"] * (way == "kill")
        with another_run(path):
            assert path.with_name(".run.npz.lock").exists()
        assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("n_refusals", [1, 5, 100])
def test_file_that_windows_does_not_replace_while_it_is_open_is_tried_again(n_refusals, path, monkeypatch):
    replace, refusals = os.replace, iter(range(n_refusals))

    def refuse(old, new):
        if next(refusals, None) is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(old, new)

    path.write_bytes(b"old")
    monkeypatch.setattr(files, "_IS_WINDOWS", True)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    if n_refusals < 100:
        files.write_file(path, b"new")
    else:
        with pytest.raises(files.OutputError, match="must be writable, got Permission denied"):
            files.write_file(path, b"new")
    assert path.read_bytes() == (b"new" if n_refusals < 100 else b"old")
    assert list(path.parent.iterdir()) == [path]


@needs_posix
def test_second_program_is_refused_and_the_kernel_frees_the_checkpoint_of_a_killed_one(path):
    first = start_program(path)
    wait_for_checkpoint(first, path)
    # Otherwise it may be over before the second has imported its modules.
    first.send_signal(signal.SIGSTOP)
    second = start_program(path, "--resume")
    out, err = second.communicate(timeout=120)
    assert (second.returncode, out) == (2, b"")
    assert f"{path}: must be used by one run at a time, got a second while process {first.pid} on ".encode() in err
    assert err.count(b"\n") == 1
    first.kill()
    first.communicate()
    n_steps = read_checkpoint(path)[0]["n_steps"]
    end(start_program(path, "--resume", "--checkpoint-every", "1000"))
    assert n_steps < read_checkpoint(path)[0]["n_steps"] == 1250
    assert list(path.parent.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from cdropout.digits.files import open_replacement
number = int(sys.argv[2])
while True:
    with open_replacement(Path(sys.argv[1])) as file:
        np.savez(file, x=np.full(100_000, number))
"""


@needs_posix
@pytest.mark.parametrize("rounds", [1, pytest.param(12, marks=pytest.mark.deep)])
def test_file_is_whole_at_every_moment_with_two_writers_that_are_killed(rounds, path):
    """The writers share no lock; the reader also cleans up, as a run does that begins now."""
    env = {**os.environ, "PYTHONPATH": str(Path(script.__file__).parent)}
    rng = random.Random(5)
    for _ in range(rounds):
        path.unlink(missing_ok=True)
        commands = [[sys.executable, "-P", "-c", WRITER, str(path), str(number)] for number in (1, 2)]
        writers = [subprocess.Popen(command, env=env) for command in commands]
        seen, n_read, deadline = set(), 0, time.monotonic() + 120
        try:
            while n_read < 100 or seen != {1, 2}:
                assert time.monotonic() < deadline
                assert [writer.poll() for writer in writers] == [None, None]
                if not path.exists():
                    time.sleep(0.01)
                    continue
                with np.load(path) as archive:
                    x = archive["x"]
                assert (x == x[0]).all()
                assert len(x) == 100_000
                seen.add(int(x[0]))
                n_read += 1
                files.remove_partials(path)
        finally:
            for writer in writers:
                time.sleep(rng.uniform(0, 0.01))
                writer.kill()
                writer.wait()
        with np.load(path) as archive:
            assert len(archive["x"]) == 100_000
        files.remove_partials(path)
        assert list(path.parent.iterdir()) == [path]


def test_file_of_a_living_writer_is_not_removed(path):
    with files.open_replacement(path) as file:
        file.write(b"first half, ")
        checkpoint.check_checkpoint_path(path)
        with another_run(path):
            write_checkpoint(path, {}, {})
        file.write(b"second half")
    assert path.read_bytes() == b"first half, second half"


@needs_posix
def test_without_locks_files_are_whole_and_two_runs_are_not_kept_apart(few, path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    expected = bits_of(train(CONFIG, few, checkpoints=Checkpoints(path)))
    partial = path.with_name(LEFT_BY_THE_KILLED[0])
    partial.write_bytes(b"of a killed writer or of a living one")
    with another_run(path):
        assert bits_of(train(CONFIG, few, checkpoints=Checkpoints(path, resume=True))) == expected
    assert sorted(path.parent.iterdir()) == [partial, path]


@needs_posix
def test_replaced_file_keeps_its_permissions_and_a_device_stays_one(path):
    path.write_bytes(b"old")
    path.chmod(0o640)
    files.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    files.check_writable(Path("/dev/null"))
    files.write_file(Path("/dev/null"), b"new")
    assert Path("/dev/null").is_char_device()


def test_checking_an_output_never_removes_the_file_of_another_run(path, monkeypatch):
    """Another run may finish between any two steps of the check."""
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **options: (path.write_bytes(b"of another"), unlink(self)))
    files.check_writable(path)
    assert path.read_bytes() == b"of another"
    assert list(path.parent.iterdir()) == [path]


# ---- interrupted and diverged ---------------------------------------------------------------------------------------


@needs_posix
def test_interrupt_ends_the_program_with_status_130_and_a_whole_checkpoint(path):
    uninterrupted = path.with_name("uninterrupted.npz")
    undisturbed = start_program(uninterrupted, "--checkpoint-every", "1000")
    process = start_program(path)
    wait_for_checkpoint(process, path)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"train.py: interrupted\n")
    assert process.returncode == 130
    assert 0 < read_checkpoint(path)[0]["n_steps"] < 1250
    end(start_program(path, "--resume", "--checkpoint-every", "1000"))
    end(undisturbed)
    assert arrays_of(path) == arrays_of(uninterrupted)
    assert sorted(path.parent.iterdir()) == [path, uninterrupted]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_diverged_run_keeps_the_last_good_checkpoint(every, few, path, monkeypatch):
    """The weights after step 3 are finite, and make a loss that is not: the last good checkpoint is that of step 2."""
    good = train(CONFIG, few, checkpoints=Checkpoints(path, every))
    path.unlink()
    step = Adam.step

    def step_too_far(self):
        step(self)
        if self.n_steps == 3:
            for param, *_ in self._rows:
                param *= 1e30

    monkeypatch.setattr(Adam, "step", step_too_far)
    message = r"loss must be finite, got (nan|inf) at step [34] with a step size of 0\.001"
    with pytest.raises(DivergenceError, match=message):
        train(CONFIG, few, checkpoints=Checkpoints(path, every))
    if every == 4:
        assert list(path.parent.iterdir()) == []
        return
    assert read_checkpoint(path)[0]["n_steps"] == 2
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.setattr(Adam, "step", step)
    assert bits_of(train(CONFIG, few, checkpoints=Checkpoints(path, every, resume=True))) == bits_of(good)


@pytest.mark.parametrize("name", ["first_sum", "second_sum"])
def test_state_that_is_not_finite_is_never_saved(name, few, path, monkeypatch):
    step = Adam.step

    def spoil(self):
        step(self)
        if self.n_steps == N_STEPS:
            getattr(self, f"{name}s")[1][2] = np.inf

    monkeypatch.setattr(Adam, "step", spoil)
    message = rf"{name}_1 must be finite, got inf after step {N_STEPS} with a step size of 0\.001"
    with pytest.raises(DivergenceError, match=message):
        train(CONFIG, few, checkpoints=Checkpoints(path, every=4))
    assert read_checkpoint(path)[0]["n_steps"] == 4
    with pytest.raises(DivergenceError, match=message):
        train(CONFIG, few)


# ---- refused --------------------------------------------------------------------------------------------------------


OTHER_VALUES = {"p": 0.25, "epochs": 3, "batch": 64, "lr": 0.1, "l2": 0.0, "hidden": 25, "relu": False, "seed": 8}


@pytest.mark.parametrize(("name", "value"), [("dropout", "feature"), *OTHER_VALUES.items()])
def test_checkpoint_of_another_configuration_is_refused(name, value, few, path, saved):
    old = path.read_bytes()
    config = dataclasses.replace(CONFIG, **{name: value})
    assert (
        refusal_of(path, few, config) == f"argument --{name} must be {getattr(CONFIG, name)} as in {path}, got {value}"
    )
    assert path.read_bytes() == old


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("of", ["images", "labels"])
def test_checkpoint_of_other_data_is_refused(part, of, few, path, saved):
    changed = getattr(getattr(few, part), of).copy()
    changed.flat[-1] ^= 1
    part_of = dataclasses.replace(getattr(few, part), **{of: changed})
    other = dataclasses.replace(few, **{part: part_of})
    message = f"argument --data must be the data of {path}, of SHA-256 {digest_dataset(few)[:16]}, got "
    assert refusal_of(path, other) == message + digest_dataset(other)[:16]


def write_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint\n"),
    "array": write_array,
    "npz": lambda path: np.savez(path, x=np.zeros(3)),
    "objects": lambda path: np.savez(path, run=np.array([{"format": checkpoint.FORMAT}], object)),
    "no JSON": lambda path: np.savez(path, run=np.array("not JSON")),
    "other JSON": lambda path: np.savez(path, run=np.array("[1, 2]")),
    "other format": lambda path: write_checkpoint(path, {"format": "another"}, {}),
    "only the format": lambda path: write_checkpoint(path, {"format": checkpoint.FORMAT}, {}),
}


def refusal_of(path, few, config=CONFIG):
    with pytest.raises(CheckpointError) as error:
        train(config, few, checkpoints=Checkpoints(path, resume=True))
    return str(error.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_refused(name, few, path):
    FOREIGN[name](path)
    message = refusal_of(path, few)
    assert message.startswith(f"{path}: must be a whole training checkpoint, got ")
    assert "\n" not in message


def test_truncated_file_is_refused_at_every_length(few, path, saved):
    whole = path.read_bytes()
    for n_bytes in [*range(0, len(whole), len(whole) // 50), len(whole) - 1]:
        path.write_bytes(whole[:n_bytes])
        assert refusal_of(path, few).startswith(f"{path}: must be a whole training checkpoint, got ")


def test_damaged_byte_is_refused_or_does_no_harm(few, path):
    expected = bits_of(train(CONFIG, few, checkpoints=Checkpoints(path)))
    whole = path.read_bytes()
    rng, n_refused = random.Random(2), 0
    for _ in range(100):
        i = rng.randrange(len(whole))
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << rng.randrange(8))]) + whole[i + 1 :])
        try:
            # Bytes that nothing depends on, such as the archive's dates, may change.
            assert bits_of(train(CONFIG, few, checkpoints=Checkpoints(path, resume=True))) == expected
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: must be a whole training checkpoint, got ")  # noqa: PT017
            n_refused += 1
    assert n_refused > 80


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"n_steps": -1}, "n_steps -1"),
        ({"n_steps": 2.5}, "n_steps 2.5"),
        ({"rng": {}}, "state must be a dict with the keys"),
        ({"rng": None}, "state must be a dict with the keys"),
        ({"config": {}}, "other arguments: none"),
        ({"config": None}, "config None"),
        ({"data": None}, "data None"),
        ({"n_steps": N_STEPS + 1}, "n_steps 7"),
        ({"evaluations": None}, "evaluations None"),
        ({"more": 1}, "the fields format, config, data, rng, n_steps, evaluations, more"),
    ],
)
def test_changed_contents_are_refused(change, found, few, path, saved):
    run, arrays = saved
    write_checkpoint(path, run | change, arrays)
    assert found in refusal_of(path, few)


FOREIGN_VALUES = [None, True, -1, 0.5, 2**200, math.nan, math.inf, -math.inf, "text", "", [], [None], {}, {"x": 1}]
# Values that a run can have: the losses of one whose weights have overflowed, and any number in has_uint32, where NumPy
# reads each except 0 as 1.
POSSIBLE = {"loss": (0.5, math.nan, math.inf), "evaluations": ([],), "has_uint32": (-1,)}
POSSIBLE |= dict.fromkeys(("macro_f1", "accuracy"), (0.5,))


def mutants_of(value, name=""):
    """Yield (where, mutant): a JSON value with one part of another type or out of range, missing, or one too many."""
    for foreign in FOREIGN_VALUES:
        if repr(foreign) != repr(value) and foreign not in POSSIBLE.get(name, ()):
            yield f"as {foreign!r}", foreign
    if isinstance(value, dict):
        yield "and more", {**value, "more": 1}
        for key, part in value.items():
            yield f"without {key}", {other: value[other] for other in value if other != key}
            for where, mutant in mutants_of(part, key):
                yield f"{key} {where}", {**value, key: mutant}
    if isinstance(value, list):
        yield "and more", [*value, None]
        for i, part in enumerate(value):
            for where, mutant in mutants_of(part):
                yield f"{i} {where}", [*value[:i], mutant, *value[i + 1 :]]


@pytest.mark.parametrize(
    ("kind", "step"),
    [("elementwise", 5), *(pytest.param(kind, 1, marks=pytest.mark.deep) for kind in ("elementwise", "numpy"))],
)
def test_every_field_that_is_edited_by_hand_is_refused(kind, step, few, path):
    config = dataclasses.replace(CONFIG, dropout=kind)
    train(config, few, evaluations_per_epoch=1, checkpoints=Checkpoints(path))
    run, arrays = read_checkpoint(path)
    assert len(run["evaluations"]) == 2
    mutants, taken = list(mutants_of(run)), []
    for where, mutant in mutants[::step]:
        write_checkpoint(path, mutant, arrays)
        try:
            train(config, few, checkpoints=Checkpoints(path, resume=True))
            taken.append(where)
        except CheckpointError as error:
            message = str(error)
            assert message.startswith((f"{path}: must be a whole training checkpoint, got ", "argument --"))
            assert "\n" not in message
    assert len(mutants) > 500
    assert taken == []


def test_run_with_losses_that_are_no_numbers_goes_on(few, path):
    train(CONFIG, few, evaluations_per_epoch=1, checkpoints=Checkpoints(path))
    run, arrays = read_checkpoint(path)
    run["evaluations"][0]["train"]["loss"], run["evaluations"][0]["test"]["loss"] = math.nan, math.inf
    write_checkpoint(path, run, arrays)
    first, _ = train(CONFIG, few, checkpoints=Checkpoints(path, resume=True)).evaluations
    assert math.isnan(first.train.loss)
    assert first.test.loss == math.inf


def test_generator_of_numpy_refuses_the_state_of_another(few, path):
    config = dataclasses.replace(CONFIG, dropout="numpy")
    train(config, few, checkpoints=Checkpoints(path))
    run, arrays = read_checkpoint(path)
    for state in ({}, None, {"bit_generator": "MT19937"}, run["rng"] | {"state": {"state": -1, "inc": 2**200}}):
        write_checkpoint(path, run | {"rng": state}, arrays)
        assert "must be a whole training checkpoint" in refusal_of(path, few, config)


CHANGED_ARRAYS = {
    "shape": lambda arrays: {**arrays, "param_0": arrays["param_0"].T},
    "dtype": lambda arrays: {**arrays, "param_0": arrays["param_0"].astype(np.float64)},
    "missing": lambda arrays: {name: array for name, array in arrays.items() if name != "losses"},
    "more": lambda arrays: {**arrays, "more": np.zeros(1)},
}


@pytest.mark.parametrize("change", CHANGED_ARRAYS.values(), ids=CHANGED_ARRAYS)
def test_other_arrays_are_refused(change, few, path, saved):
    run, arrays = saved
    write_checkpoint(path, run, change(arrays))
    assert "must be a whole training checkpoint" in refusal_of(path, few)


def test_seed_of_any_size_goes_through_the_file(few, path):
    config = dataclasses.replace(CONFIG, seed=2**200 + 1)
    first = train(config, few, checkpoints=Checkpoints(path))
    assert bits_of(train(config, few, checkpoints=Checkpoints(path, resume=True))) == bits_of(first)
    assert read_checkpoint(path)[0]["config"]["seed"] == 2**200 + 1


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_line_reaches_the_checkpoints(path, few, monkeypatch):
    seen = []
    monkeypatch.setattr(program, "load_dataset", lambda folder, n_classes: few)
    monkeypatch.setattr(
        program, "train", lambda config, data, checkpoints, **options: seen.append(checkpoints) or train(config, data)
    )
    given = ["--hidden", "8", "--quiet", "--checkpoint", str(path)]
    assert main(given) == 0
    assert main([*given, "--resume", "--checkpoint-every", "7"]) == 0
    assert seen == [Checkpoints(path, 50, False), Checkpoints(path, 7, True)]


@pytest.mark.parametrize("content", [b"foreign", b"PK\x03\x04 cut off"])
def test_bad_checkpoint_ends_the_command_with_one_line_and_status_2(content, path, few, monkeypatch, capsys):
    monkeypatch.setattr(program, "load_dataset", lambda folder, n_classes: few)
    path.write_bytes(content)
    assert main(["--checkpoint", str(path), "--resume", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"train.py: error: {path}: must be a whole training checkpoint, got ")
    assert err.count("\n") == 1
    assert path.read_bytes() == content


@needs_posix
def test_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be readable, got Is a directory"):
        read_checkpoint(tmp_path)


@needs_posix
def test_path_that_cannot_be_looked_at_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be writable, got File name too long"):
        checkpoint.check_checkpoint_path(tmp_path / ("x" * 300))
