"""Run command-line programs: their output reaches slow readers, and their failures are sentences with a status.

`python -m cdropout`, `python -m benchmarks` and the programs in `examples/` end with
`sys.exit(run_command(main, PROG))`.
"""

import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any

# The status that shells report for a program that SIGINT, signal 2, has ended: 128 + 2.
INTERRUPTED = 130


class CommandError(Exception):
    """Report a failure of a command: `run_command` prints the message and returns status 1."""


def run_command(main: Callable[[], int], prog: str) -> int:
    """Call the main function of a program, and return the exit status of the program.

    Replaces standard output and standard error by streams that wait for a non-blocking pipe or terminal until it has
    taken everything. They stay for the interpreter's flush at exit, so this must be the last call of a program.

    Parameters
    ----------
    main : callable
        Returns the exit status. It may raise SystemExit, as argparse does.
    prog : str
        The name of the program in messages.

    Returns
    -------
    int
        The status of `main`. If the reader closes standard output, the program ends without a message, and the status
        is 0 unless `main` had ended with another. With a message on standard error: 1 for a `CommandError`, for a
        MemoryError, and for a standard output that cannot be written, such as a file on a full disk; 2 for a standard
        output that is closed from the start, where `main` is not called; 130 for an interrupt. Messages that standard
        error does not take are dropped.

    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    _replace_stream("stderr", drops_errors=True)
    if sys.stdout is None:
        return _fail(prog, "standard output must be open, and it is closed", 2)
    _fill_closed_descriptors()
    output = _replace_stream("stdout")
    status = 0
    try:
        try:
            status = main()
        except SystemExit as exit_:
            # rich ends the program with status 1 where the reader has closed the pipe.
            if output is None or output.error is None:
                status = _status_of(exit_)
        except CommandError as error:
            status = _fail(prog, str(error), 1)
        except MemoryError as error:
            status = _fail(prog, f"memory must suffice, got {str(error) or 'too little'}", 1)
        except KeyboardInterrupt:
            status = _fail(prog, "interrupted", INTERRUPTED)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # In the flush, which waits for a slow reader; the writer now discards what is left.
        status = _fail(prog, "interrupted", INTERRUPTED)
    except OSError as error:
        if output is None or error is not output.error:
            raise
    # argparse ignores errors of writing, so the exception alone does not tell.
    if output is not None and isinstance(output.error, OSError) and not isinstance(output.error, ConnectionError):
        reason = output.error.strerror or output.error
        return _fail(prog, f"standard output must be writable, got {reason}", 1)
    return status


class _PatientWriter(io.RawIOBase):
    """Write everything to a file, which may be non-blocking.

    After an error it takes and discards all that is written: a buffer in front of it may still be full, and the flush
    of this buffer at exit must not raise the error again.

    Attributes
    ----------
    error : BaseException or None
        The first error of writing, or the interrupt that ended it.

    """

    def __init__(self, raw: io.FileIO, *, drops_errors: bool) -> None:
        self.error: BaseException | None = None
        self._raw = raw
        self._drops_errors = drops_errors

    def write(self, data: Any, /) -> int:
        """Write all bytes, and return their number."""
        view = memoryview(data).cast("B")
        left = view if self.error is None else view[:0]
        try:
            while len(left):
                n_written = self._raw.write(left)
                if n_written is None:
                    select.select((), (self._raw,), ())
                else:
                    left = left[n_written:]
        except BaseException as error:
            self.error = error
            if not (self._drops_errors and isinstance(error, OSError)):
                raise
        return len(view)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._raw.fileno()

    def isatty(self) -> bool:
        """Tell whether the file is a terminal."""
        return self._raw.isatty()

    @property
    def name(self) -> Any:
        """The file's name."""
        return self._raw.name


def _replace_stream(name: str, *, drops_errors: bool = False) -> _PatientWriter | None:
    """Replace a text stream of `sys` by one on a _PatientWriter; without a file below it, as in a test, leave it."""
    old = getattr(sys, name)
    buffer = getattr(old, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer
    if not isinstance(old, io.TextIOWrapper) or not isinstance(raw, io.FileIO):
        return None
    writer = _PatientWriter(raw, drops_errors=drops_errors)
    new = io.TextIOWrapper(
        writer if buffer is raw else io.BufferedWriter(writer),
        encoding=old.encoding,
        errors=old.errors,
        newline=None if os.name == "nt" else "\n",
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )
    setattr(sys, name, new)
    return writer


def _fill_closed_descriptors() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the next file that is opened, for example a checkpoint, gets the descriptor of standard error, to which C
    libraries write their messages.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _status_of(exit_: SystemExit) -> int:
    if isinstance(exit_.code, str):
        print(exit_.code, file=sys.stderr)
        return 1
    return exit_.code or 0


def _fail(prog: str, message: str, status: int) -> int:
    print(f"{prog}: {message}" if status == INTERRUPTED else f"{prog}: error: {message}", file=sys.stderr)
    return status
