"""Write files that other processes always see whole, and lock a file for one run.

A file is written under a temporary name in the same folder, one name for each writer, and then renamed. The writer
locks its temporary file: one that is not locked was left by a killed writer, and the next run removes it. The locks are
those of flock, on Windows of LockFile, which the kernel releases when a process dies. Where the system or the file
system has none, writers still replace files as a whole, but two runs are not kept apart, and temporary files of killed
writers stay. Windows neither renames nor removes an open file, so there files are closed, and their locks end, first;
and while another process has the old file open for a moment, such as a reader or a virus scanner, the renaming is tried
again.
"""

import errno
import io
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cdropout.command import CommandError

if sys.platform == "win32":
    import ctypes
    import msvcrt

    fcntl = None
else:
    import fcntl

_IS_WINDOWS = sys.platform == "win32"
_LOCKED_BYTE = (1 << 31) - 2  # on Windows, where locked bytes cannot be read: one behind all contents
_ERROR_LOCK_VIOLATION = 33

_TOKEN_BYTES = 8
_PAUSES = (0.001, 0.004, 0.015, 0.06, 0.25, 0.7)  # seconds


class OutputError(CommandError):
    """Report a file that cannot be written; the message names the file, the rule and the value."""


class LockedError(Exception):
    """Report that another run has locked a file; the message says which, as far as known."""


@contextmanager
def open_replacement(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` at the end of the block; after an exception, `path` is unchanged.

    At every moment, and after a kill or a loss of power, the path holds either the whole old file or the whole new one,
    for any number of writers and readers. Where the path is a symbolic link, its target is replaced. A device or a pipe
    is written directly. A new file has the permissions of the old one.

    Raises
    ------
    OSError
        Where the file cannot be written.

    """
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device
        return
    path = Path(os.path.realpath(path))
    file, temporary = _create_partial(path)
    try:
        with file:
            if path.exists():
                with suppress(OSError):  # some file systems have no permissions
                    os.chmod(temporary, path.stat().st_mode & 0o7777)
            yield file
            file.flush()
            # The contents must reach the disk before the name: file systems may write the two in any order.
            _sync(file.fileno())
            # Before the file is closed, which ends the lock: another run may remove an unlocked temporary file.
            if not _IS_WINDOWS:
                os.replace(temporary, path)
        if _IS_WINDOWS:
            _replace_when_closed(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as `open_replacement` does.

    Raises
    ------
    OutputError
        Where the file cannot be written; its former content is then unchanged.

    """
    try:
        with open_replacement(path) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"{path}: must be writable, got {error.strerror or error}") from error


def write_figure(figure: object, path: Path, *, dpi: int) -> None:
    """Replace an image file by a Matplotlib figure, in the format that the suffix names, PNG without a suffix.

    Raises
    ------
    OutputError
        As `write_file`.

    """
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:].lower() or "png", dpi=dpi)  # type: ignore[attr-defined]
    write_file(path, image.getvalue())


def check_writable(path: Path) -> None:
    """Check before a long run that a file can be replaced, without changing it; remove what killed writers left.

    Raises
    ------
    ValueError
        Naming path, rule and value.

    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path.is_file() or not path.exists():
            remove_partials(path)
            # Creating a file is the one test that is right for every folder, file system and user.
            file, temporary = _create_partial(Path(os.path.realpath(path)))
            with file:
                if not _IS_WINDOWS:
                    temporary.unlink()
            if _IS_WINDOWS:
                temporary.unlink()
    except OSError as error:
        raise ValueError(f"{path}: must be writable, got {error.strerror or error}") from None


@contextmanager
def lock_for_run(path: Path) -> Iterator[None]:
    """Keep other runs from `path` during the block, and remove what killed writers left.

    The lock is on a file `.NAME.lock` beside `path`, which is removed at the end of the block. A file that a killed run
    has left is not locked, and the next run takes it over.

    Raises
    ------
    LockedError
        Where another run holds the lock, in this process or another one.
    OSError
        Where the file of the lock cannot be written.

    """
    path = Path(os.path.realpath(path))
    lock_path = path.with_name(f".{path.name}.lock")
    while True:
        file = lock_path.open("a+b")
        if _lock(file) is False:
            with file:
                file.seek(0)
                raise LockedError(file.read(200).decode(errors="replace") or "a process that has just begun")
        if _is_at(file, lock_path):
            break
        file.close()  # the run that held this lock has removed the file
    try:
        with file:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            file.flush()
            remove_partials(path)
            try:
                yield
            finally:
                if not _IS_WINDOWS:
                    lock_path.unlink(missing_ok=True)
    finally:
        if _IS_WINDOWS:
            with suppress(OSError):  # another run may have opened it by now
                lock_path.unlink(missing_ok=True)


def partials_of(path: Path) -> re.Pattern[str]:
    """Return a pattern that matches the names of the temporary files of a path."""
    return re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial")


def remove_partials(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` have left, and none of a writer that lives."""
    path = Path(os.path.realpath(path))
    pattern = partials_of(path)
    for name in os.listdir(path.parent):
        if pattern.fullmatch(name):
            partial = path.with_name(name)
            # It may be gone by now, or be another user's.
            with suppress(OSError):
                with partial.open("r+b") as file:
                    is_left = _lock(file)
                    if is_left and not _IS_WINDOWS:
                        partial.unlink()
                if is_left and _IS_WINDOWS:
                    partial.unlink()


def _create_partial(path: Path) -> tuple[BinaryIO, Path]:
    """Create and lock a temporary file in the folder of `path`, so that renaming it is atomic."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.partial")
        file = temporary.open("xb")
        # `remove_partials` of another run may come between the creation and the lock.
        if _lock(file) is not False and _is_at(file, temporary):
            return file, temporary
        file.close()


def _replace_when_closed(temporary: Path, path: Path) -> None:
    """Rename a file; where another process has one of the two files open, try again for a second."""
    for seconds in _PAUSES:
        try:
            os.replace(temporary, path)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(temporary, path)


def _lock(file: BinaryIO) -> bool | None:
    """Lock a file until it is closed; False where it is locked elsewhere, and None where there are no locks."""
    if sys.platform == "win32":
        # msvcrt.locking fails without errno under Wine, so that a locked file cannot be told from one without locks.
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(file.fileno()))
        if kernel32.LockFile(handle, _LOCKED_BYTE, 0, 1, 0):
            return True
        return False if ctypes.get_last_error() == _ERROR_LOCK_VIOLATION else None
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the names of the files in a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # files may be created, but the folder cannot be read
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Wait until the disk has a file or folder. Some file systems cannot do this; then return at once.

    An error of the disk is raised.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
