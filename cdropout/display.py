"""HTML of masks, noise and streams for notebooks, and pictures of masks.

The values import this module when their HTML or picture is asked for. It does not import them, so that there is no
circle; its arguments are typed Any for that reason.
"""

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout.checks import check_integer
from cdropout.optional import require

# Size of a mask's corner in HTML; small, so that a page of many masks stays small.
HTML_ROWS, HTML_COLUMNS = 16, 64
CELL_PIXELS = 6
# Slices in one picture; more would be too small to be told apart.
MOST_TILES = 16
DROPPED_COLOUR, KEPT_COLOUR = "#1f3b5c", "#dfe6ee"

# ---- corners of masks -----------------------------------------------------------------------------------------------


def corner(mask: Any, leading: tuple[int, ...], n_rows: int, n_columns: int) -> npt.NDArray[np.bool_]:
    """Return the upper left corner of one slice of a mask along its last two axes: a bool array, True where kept.

    Only the corner is generated, whatever the mask's size. A mask of one dimension gives a row, one of none a cell.

    Parameters
    ----------
    mask : Mask
        A mask of any shape.
    leading : tuple of int
        Index of the slice along all axes except the last two.
    n_rows, n_columns : int
        Largest numbers of rows and columns returned.

    """
    index = (*(slice(i, i + 1) for i in leading), slice(n_rows), slice(n_columns))
    keep: npt.NDArray[np.bool_] = mask[index[len(index) - len(mask.shape) :]].keep()
    return keep.reshape((1, 1, *keep.shape)[-2:])


# ---- HTML -----------------------------------------------------------------------------------------------------------


def mask_html(mask: Any) -> str:
    """Return a mask's fields as a table, and its corner as a picture."""
    fields = [
        ("shape", mask.shape),
        ("p", mask.p),
        ("shared axes", mask.shared_axes or "none"),
        ("key", f"{mask.key:#034x}"),
        ("start", mask.start),
    ]
    leading = (0,) * max(0, len(mask.shape) - 2)
    if math.prod(mask.shape) == 0:
        return _table("Mask", fields)
    keep = corner(mask, leading, HTML_ROWS, HTML_COLUMNS)
    slice_shown = f"[{', '.join('0' for _ in leading)}, :, :]" if leading else ""
    drawn = ": ".join(filter(None, (slice_shown, _extent(keep.shape, mask.shape))))
    note = f"dark: dropped; drawn: {drawn}" if drawn else "dark: dropped"
    return f"{_table('Mask', fields)}{_svg(keep)}<div><small>{html.escape(note)}</small></div>"


def noise_html(noise: Any) -> str:
    """Return the fields of normal noise as a table."""
    return _table(
        "Noise",
        [("shape", noise.shape), ("std", noise.std), ("key", f"{noise.key:#034x}"), ("start", noise.start)],
    )


def stream_html(stream: Any) -> str:
    """Return a stream's key, position and seed as a table."""
    state = stream.state
    return _table(
        "Stream",
        [
            ("key", f"{stream.key:#034x}"),
            ("position", f"{stream.position:,}"),
            ("seed", state["entropy"]),
            ("spawn key", state["spawn_key"] or "none"),
            ("children", state["n_children_spawned"]),
        ],
    )


def _table(title: str, fields: Iterable[tuple[str, object]]) -> str:
    rows = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th>'
        f'<td style="text-align: left"><code>{html.escape(str(value))}</code></td></tr>'
        for name, value in fields
    )
    return f"<div><strong>cdropout.{title}</strong><table>{rows}</table></div>"


def _svg(keep: npt.NDArray[np.bool_]) -> str:
    """Return a picture of kept and dropped cells."""
    n_rows, n_columns = keep.shape
    dropped = "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(~keep).tolist())
    size = f'width="{n_columns * CELL_PIXELS}" height="{n_rows * CELL_PIXELS}" viewBox="0 0 {n_columns} {n_rows}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} shape-rendering="crispEdges" role="img">'
        f'<rect width="{n_columns}" height="{n_rows}" fill="{KEPT_COLOUR}"/>'
        f'<path d="{dropped}" fill="{DROPPED_COLOUR}"/></svg>'
    )


def _extent(drawn: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Return a text such as "16 x 64 of 100 x 200" if only a part of a slice is drawn, else an empty string."""
    whole, n_dims = (1, 1, *shape)[-2:], min(2, len(shape))
    if drawn == whole:
        return ""
    return " of ".join(" x ".join(f"{length:,}" for length in lengths[2 - n_dims :]) for lengths in (drawn, whole))


# ---- pictures -------------------------------------------------------------------------------------------------------


def plot_mask(mask: Any, ax: Any, limit: int) -> Any:
    """Draw a mask for `Mask.plot`."""
    limit = check_integer("limit", limit, 1)
    colors = require("matplotlib.colors", extra="plot", purpose="Mask.plot")
    if ax is None:
        _, ax = require("matplotlib.pyplot", extra="plot", purpose="Mask.plot").subplots()
    n_slices, n_dims = math.prod(mask.shape[:-2]), len(mask.shape)
    title = f"p = {mask.p:g}, shape {mask.shape}, dark: dropped"
    if math.prod(mask.shape) == 0:
        ax.set_title(title, fontsize="medium")
        return ax
    n_tiles = min(n_slices, MOST_TILES, ((limit + 1) // 2) ** 2)  # with a line between any two
    per_row = math.isqrt(n_tiles - 1) + 1
    side = max(1, (limit + 1) // per_row - 1) if n_tiles > 1 else limit
    tiles = [
        corner(mask, tuple(int(i) for i in np.unravel_index(number, mask.shape[:-2])) if n_dims > 2 else (), side, side)
        for number in range(n_tiles)
    ]
    slices_drawn = f"{n_tiles} of {n_slices:,} slices" if n_slices > n_tiles else ""
    drawn = ", ".join(filter(None, (slices_drawn, _extent(tiles[0].shape, mask.shape))))
    ax.set_title(f"{title}\ndrawn: {drawn}" if drawn else title, fontsize="medium")
    ax.imshow(
        _montage(tiles, per_row),
        cmap=colors.ListedColormap([DROPPED_COLOUR, KEPT_COLOUR]),
        vmin=0,
        vmax=1,
        aspect="auto" if n_dims < 2 else "equal",
        interpolation="nearest",
    )
    if n_tiles > 1:
        ax.set_axis_off()
        return ax
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.get_major_locator().set_params(integer=True)
    if n_dims > 0:
        ax.set_xlabel(f"axis {n_dims - 1}")
    if n_dims > 1:
        ax.set_ylabel(f"axis {n_dims - 2}")
    else:
        ax.set_yticks([])
    return ax


def _montage(tiles: list[npt.NDArray[np.bool_]], per_row: int) -> npt.NDArray[np.float32]:
    """Return tiles of one shape side by side, 1 where kept, with empty lines (NaN) between them."""
    height, width = tiles[0].shape
    n_rows = -(-len(tiles) // per_row)
    picture = np.full((n_rows * (height + 1) - 1, min(per_row, len(tiles)) * (width + 1) - 1), np.nan, np.float32)
    for number, tile in enumerate(tiles):
        top, left = number // per_row * (height + 1), number % per_row * (width + 1)
        picture[top : top + height, left : left + width] = tile
    return picture
