"""Normal noise: the model's bits on every instruction set, thread count and layout; its distribution; the value."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import switches_settings
from limits import by_every_path

import cdropout as cd

KEY = 0x0123456789ABCDEFFEDCBA9876543210
BLOCK = 4096
DTYPES = ("float32", "float64", "float16", "bfloat16")
RANGES = ((0, 1), (0, 64), (0, BLOCK), (0, 3 * BLOCK + 7), (5, 200), (BLOCK - 1, 2), (2**40 * BLOCK + 70, BLOCK))


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def numbers_of(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("start", "n_elems"), RANGES)
def test_noise_has_the_bits_of_the_model(isa, dtype, start, n_elems):
    x = numbers_of(n_elems, dtype)
    noise, normals = cd.Noise(KEY, start, 0.7, n_elems), reference.normals(KEY, start, n_elems)
    assert noise.add(x).tobytes() == reference.add_noise(x, normals, 0.7).tobytes()
    assert noise.multiply(x).tobytes() == reference.multiply_by_noise(x, normals, 0.7).tobytes()


@switches_settings
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_streaming_stores_and_layouts_change_no_bit(isa, dtype):
    x = numbers_of((150, 100), dtype)
    noise = cd.Noise(KEY, 99, 0.7, x.shape)
    expected = noise.multiply(x).tobytes()
    assert noise.multiply(np.asfortranarray(x)).tobytes() == expected
    assert noise.multiply(np.repeat(x, 2, axis=1)[:, ::2]).tobytes() == expected
    in_place = x.copy()
    assert noise.multiply(in_place, out=in_place) is in_place
    assert in_place.tobytes() == expected
    assert set(by_every_path(lambda: noise.multiply(x).tobytes())) == {expected}


def test_the_numbers_are_normal():
    # 2^22 numbers: each moment within 5 standard errors (1, sqrt(2), sqrt(15), sqrt(96) over sqrt(n)), and the share
    # beyond each of 9 points within 5 standard errors.
    n = cd.draw_noise(1 << 22, 1.0, rng=1).add(np.zeros(1 << 22))
    root = np.sqrt(n.size)
    for power, expected, spread in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(np.mean(n**power) - expected) < 5 * spread / root
    stats = pytest.importorskip("scipy.stats")
    for point in (-4, -3, -2, -1, 0, 1, 2, 3, 4):
        share = stats.norm.sf(point)
        assert abs(np.mean(n > point) - share) < 5 * np.sqrt(share * (1 - share)) / root
    assert np.abs(n).max() < 6.7
    for lag in (1, 16, 32, 64, BLOCK):
        assert abs(np.mean(n[lag:] * n[:-lag])) < 5 / root


def test_noise_and_mask_at_one_position_are_independent():
    n = cd.Noise(KEY, 0, 1.0, 1 << 20).add(np.zeros(1 << 20))
    kept = cd.Mask(KEY, 0, 0.5, 1 << 20).keep()
    assert abs(n[kept].mean() - n[~kept].mean()) < 5 * 2 / 2**10


def test_noise_is_a_value():
    noise = cd.draw_noise((3, 5), 0.5, rng=cd.Stream(1))
    assert noise == cd.Noise(noise.key, noise.start, 0.5, (3, 5))
    assert noise != cd.Noise(noise.key, noise.start, 0.25, (3, 5))
    assert noise != cd.Mask(noise.key, noise.start, 0.5, (3, 5))
    assert hash(noise) == hash(copy.copy(noise))
    assert copy.deepcopy(noise) is noise
    assert pickle.loads(pickle.dumps(noise)) == noise
    assert repr(noise) == f"Noise(key={noise.key:#034x}, start=0, std=0.5, shape=(3, 5))"


def test_drawing_moves_the_stream_by_whole_blocks():
    stream = cd.Stream(1)
    cd.draw_noise(5000, 1.0, rng=stream)
    assert stream.position == 2 * BLOCK


def test_empty_noise_is_nothing():
    stream = cd.Stream(1)
    stream.state = {**stream.state, "position": 2**64 - BLOCK}
    assert cd.gaussian_noise(np.ones(0, np.float32), 0.5, rng=stream).size == 0
    assert cd.draw_noise((0, 3), 1.0).add(np.zeros((0, 3))).shape == (0, 3)
