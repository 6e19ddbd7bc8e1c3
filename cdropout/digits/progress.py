"""Show the progress of a training run on standard error: tqdm's bar, or a line of text where tqdm is not installed."""

import sys
from types import TracebackType
from typing import Any

_STEPS_PER_LINE = 10


def progress_bar(n_steps: int, n_done: int, *, shown: bool) -> Any:
    """Return a context manager with tqdm's methods `set_postfix_str` and `update`.

    Parameters
    ----------
    n_steps, n_done : int
        The number of steps of the run, and of those made before it was resumed.
    shown : bool
        Whether to show anything. Without tqdm, text is shown on terminals alone.

    """
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return _Line(n_steps, n_done, shown=shown and sys.stderr.isatty())
    return tqdm(total=n_steps, initial=n_done, unit="step", disable=not shown, file=sys.stderr)


class _Line:
    """Rewrite one line of text with the number of steps, and remove it at the end."""

    def __init__(self, n_steps: int, n_done: int, *, shown: bool) -> None:
        self._n_steps, self._n_done, self._shown = n_steps, n_done, shown
        self._postfix = ""
        self._width = 0

    def __enter__(self) -> "_Line":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show("")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set the text that follows the number of steps."""
        self._postfix = text

    def update(self) -> None:
        """Count a step."""
        self._n_done += 1
        if self._n_done % _STEPS_PER_LINE == 0 or self._n_done == self._n_steps:
            self._show(f"step {self._n_done} of {self._n_steps}, {self._postfix}")

    def _show(self, text: str) -> None:
        if self._shown:
            print(f"\r{text:<{self._width}}", end="" if text else "\r", file=sys.stderr, flush=True)
            self._width = len(text)
