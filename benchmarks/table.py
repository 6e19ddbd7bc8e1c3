"""Print figures as a table."""

import re
from collections.abc import Iterable
from typing import Any


class Table:
    """Columns with titles.

    Parameters
    ----------
    *columns : tuple of str and str
        The title of a column and the format of its cells, such as "8.2f" or "<34". A column is as wide as its format
        says, or as its title.

    """

    def __init__(self, *columns: tuple[str, str]) -> None:
        self.columns = []
        for title, form in columns:
            align, width, kind = re.fullmatch(r"([<>]?)(\d*)(.*)", form).groups()  # type: ignore[union-attr]
            self.columns.append((title, f"{align or '>'}{max(int(width or 0), len(title))}", kind))

    def header(self) -> str:
        """Return the line of the titles."""
        return " ".join(f"{title:{place}}" for title, place, _ in self.columns).rstrip()

    def row(self, *cells: Any) -> str:
        """Return a line of cells; a cell of None is blank, and a string takes only the width of its column."""
        texts = []
        for cell, (_, place, kind) in zip(cells, self.columns, strict=True):
            text = "" if cell is None else cell if isinstance(cell, str) else format(cell, kind)
            texts.append(f"{text:{place}}")
        return " ".join(texts).rstrip()

    def text(self, rows: Iterable[tuple[Any, ...]]) -> str:
        """Return the table of all rows."""
        return "\n".join([self.header(), *(self.row(*row) for row in rows)])

    def show(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Print the table, each row as soon as it is measured."""
        print(self.header())
        for row in rows:
            print(self.row(*row), flush=True)
