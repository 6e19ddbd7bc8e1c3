"""What a call allocates."""

import tracemalloc

import numpy as np

import cdropout as cd

MIB = 1 << 20


def peak_of(call):
    """The peak of traced memory (NumPy reports its arrays there) above where it stood, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def resident_peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def test_the_measure_sees_an_array():
    assert peak_of(lambda: np.empty(MIB, np.uint8)) >= MIB


def test_applying_a_mask_to_64_million_floats_allocates_nothing_that_grows():
    x = np.ones(1 << 26, np.float32)
    mask = cd.draw_mask(x.shape, 0.1, rng=1)
    assert peak_of(lambda: mask.apply(x, out=x)) < 4096
    assert peak_of(lambda: cd.dropout(x, 0.1, rng=cd.Stream(1), out=x)) < 32_768
    try:
        before = resident_peak()
    except OSError:
        return
    # The C core and OpenMP do not report to tracemalloc; the process's peak would show them.
    mask.apply(x, out=x)
    assert resident_peak() - before < MIB


def test_other_layouts_are_processed_in_bounded_memory():
    large = np.ones((2048, 4096), np.float32)
    mask = cd.draw_mask(large.T.shape, 0.1, rng=1)
    assert peak_of(lambda: mask.apply(large.T, out=large.T)) < 8 * MIB < large.nbytes


def test_a_feature_mask_is_never_expanded_to_the_shape():
    large = np.ones((4096, 1024), np.float32)
    for axes in (0, 1):
        mask = cd.draw_mask(large.shape, 0.1, rng=1, shared_axes=axes)
        assert peak_of(lambda mask=mask: mask.apply(large, out=large)) < 16_384
