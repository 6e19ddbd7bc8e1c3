"""The progress of a fit on standard error: tqdm's bar, or a line for each epoch where tqdm is not installed."""

import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """Show epochs, with their training loss and validation score.

    Parameters
    ----------
    verbose : bool or int
        Whether to show anything.
    n_epochs, n_done : int
        The most epochs of the fit, and those made before it was resumed.

    """

    def __init__(self, verbose: bool | int, n_epochs: int, n_done: int) -> None:
        self._is_shown = bool(verbose)
        self._bar: Any = None
        if self._is_shown:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped]
            except ImportError:
                return
            self._bar = tqdm(total=n_epochs, initial=n_done, unit="epoch", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def epoch(self, n_iter: int, loss: float, score: float | None) -> None:
        """Count an epoch."""
        text = f"loss {loss:.6g}" + ("" if score is None else f", validation score {score:.6g}")
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif self._is_shown:
            print(f"Iteration {n_iter}, {text}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Show a line of text."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._is_shown:
            print(text, file=sys.stderr)
