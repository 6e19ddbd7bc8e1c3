"""Arrays of more than 2^32 elements, in memory: no index wraps."""

import math
from pathlib import Path

import numpy as np
import pytest
import reference

import cdropout as cd

KEY = cd.Stream(2024).key
P = 0.1
N_PATTERN = 1 << 24  # number of elements that the input repeats, none of them zero
N_BYTES_NEEDED = 10 << 30


def available_bytes():
    """Return the bytes of memory available without swapping; None if the system does not report them."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


def pieces_of(mask):
    """Yield, for each piece of an array in C order, a small mask with the same decisions."""
    row = math.prod(mask.shape[1:])
    if mask.shared_axes == (0,):
        for _ in range(mask.shape[0]):
            yield from pieces_of(cd.Mask(mask.key, mask.start, mask.p, row))
    else:
        n_rows = N_PATTERN // row
        for low in range(0, mask.shape[0], n_rows):
            yield mask[low : low + n_rows]


def assert_matches_the_model(y, pattern, first, n_elems):
    """Compare elements first .. first + n_elems - 1 of a flat array with the model's."""
    kept = reference.keep(KEY, first, n_elems, P)
    x = np.resize(pattern, n_elems + first % N_PATTERN)[first % N_PATTERN :]
    assert y[first : first + n_elems].tobytes() == reference.apply(x, kept, 1 / (1 - P)).tobytes()


@pytest.mark.promise("backward-mask")
@pytest.mark.deep
@pytest.mark.parametrize(
    ("shape", "shared_axes"),
    [((2**32 + 17,), ()), ((2, 2**31 + 9), (0,)), ((2**16 + 1, 2**16), (1,))],
    ids=["flat", "rows", "runs"],
)
def test_more_than_2_to_the_32_elements_in_place(shape, shared_axes):
    """8 GiB of float16, each element compared with the result of a small mask for its piece, and with the model near
    2^31, 2^32 and the end; drops within 5 standard deviations of p.
    """
    available = available_bytes()
    if available is not None and available < N_BYTES_NEEDED:
        pytest.skip(f"needs {N_BYTES_NEEDED >> 30} GiB of memory, and {available / 2**30:.1f} are free")
    chance = np.random.default_rng(3)
    pattern = chance.uniform(1, 2, N_PATTERN).astype(np.float16)
    x = np.empty(math.prod(shape), np.float16)
    for low in range(0, x.size, N_PATTERN):
        x[low : low + N_PATTERN] = pattern[: x.size - low]
    mask = cd.Mask(KEY, 0, P, shape, shared_axes)
    y = x.reshape(shape)
    assert mask.apply(y, out=y) is y
    at = n_kept = 0
    for piece in pieces_of(mask):
        n_elems = math.prod(piece.shape)
        values = np.roll(pattern, -(at % N_PATTERN))[:n_elems].reshape(piece.shape)
        found = x[at : at + n_elems]
        assert found.tobytes() == piece.apply(values).tobytes(), at
        n_kept += np.count_nonzero(found)
        at += n_elems
    assert at == x.size
    # A decision that a shared axis repeats counts once.
    n_decisions, n_each = (x.size, 1) if not shared_axes else (x.size // shape[shared_axes[0]], shape[shared_axes[0]])
    z = (x.size - n_kept) / n_each - n_decisions * P
    assert abs(z) < 5 * math.sqrt(n_decisions * P * (1 - P))
    if not shared_axes:
        for first in (2**31 - 4096 - 5, 2**32 - 4096 - 5, x.size - 5000):
            assert_matches_the_model(x, pattern, first, min(2 * 4096 + 10, x.size - first))
