"""Dropout of pixels, rectangles, columns and tokens."""

import numpy as np
import pytest
import reference

import cdropout as cd
from cdropout import _kernels

KEY = cd.Stream(5).key
DTYPES = ("bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64")


def image_of(shape, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


def words(start, n):
    """Return words of 64 bits of the stream's raw output from a block's first position on."""
    n_blocks = -(-n // 1024)
    return np.frombuffer(reference.raw_bytes(KEY, start // 4096, n_blocks), "<u8")[:n].tolist()


def below(word, n):
    return (word >> 32) * n >> 32


# ---- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise("augmentation")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((40, 50), "last", None),
        ((40, 50, 3), "last", 2),
        ((2, 40, 50, 4), "last", 3),
        ((3, 40, 50), "first", 0),
        ((2, 3, 40, 50), "first", 1),
    ],
)
def test_pixels_are_dropped_in_all_channels_or_in_each(dtype, shape, channels, axis):
    image = image_of(shape, dtype)
    n_channels = 1 if axis is None else shape[axis]
    fills = np.arange(n_channels) % 2
    filled = fills if axis is None else fills.reshape([n_channels if i == axis else 1 for i in range(len(shape))])
    for per_channel in (False, True):
        axes = () if per_channel or axis is None else (axis,)
        kept = reference.keep_of_shape(KEY, 0, shape, 0.3, axes)
        stream = cd.Stream(5)
        result, mask = cd.pixel_dropout(
            image, 0.3, per_channel=per_channel, fill=fills, channels=channels, rng=stream, return_mask=True
        )
        assert result.dtype == image.dtype
        assert np.array_equal(result, reference.select(image, kept, filled))
        assert np.array_equal(mask.keep(), kept)
        assert stream.position == -(-kept.size // (n_channels if axes else 1) // 4096) * 4096
        in_place = image.copy()
        again = cd.pixel_dropout(in_place, 0.3, per_channel=per_channel, fill=1, channels=channels, rng=5, out=in_place)
        assert again is in_place
        assert np.array_equal(in_place, reference.select(image, kept, 1))


# ---- rectangles -----------------------------------------------------------------------------------------------------


def model_of_holes(image_words, numbers, heights, widths, size):
    n_holes = numbers[0] + below(image_words[0], numbers[1] - numbers[0] + 1)
    for hole in range(n_holes):
        of_hole = image_words[1 + 4 * hole : 5 + 4 * hole]
        height = heights[0] + below(of_hole[0], heights[1] - heights[0] + 1)
        width = widths[0] + below(of_hole[1], widths[1] - widths[0] + 1)
        top, left = below(of_hole[2], size[0] - height + 1), below(of_hole[3], size[1] - width + 1)
        yield slice(top, top + height), slice(left, left + width)


@pytest.mark.promise("augmentation")
@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (5, 40, 60, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_rectangles_are_those_of_the_words(shape, dtype):
    image = image_of(shape, dtype)
    n_images = 5 if len(shape) == 4 else 1
    ranges = {"num_holes_range": (0, 6), "hole_height_range": (0.1, 0.5), "hole_width_range": (3, 20)}
    stream = cd.Stream(5)
    result, kept = cd.coarse_dropout(image, **ranges, fill=7, rng=stream, return_mask=True)
    assert stream.position == 4096
    expected, expected_kept = image.copy(), np.ones((n_images, 40, 60), bool)
    drawn = np.array(words(0, n_images * 25), object).reshape(n_images, 25)
    for each, decisions, own in zip(expected.reshape(n_images, 40, 60, -1), expected_kept, drawn, strict=True):
        for hole in model_of_holes(list(own), (0, 6), (4, 20), (3, 20), (40, 60)):
            each[hole] = 7
            decisions[hole] = False
    assert np.array_equal(result, expected)
    assert np.array_equal(kept, expected_kept.reshape(kept.shape))
    assert not expected_kept.all()
    if len(shape) > 2:
        first = np.moveaxis(image, -1, -3)
        others = cd.coarse_dropout(first, **ranges, fill=[7] * 3, channels="first", rng=5)
        assert np.array_equal(np.moveaxis(others, -3, -1), expected)
    assert cd.coarse_dropout(image, **ranges, fill=7, rng=5, out=image) is image
    assert np.array_equal(image, expected)


def test_rectangles_have_every_number_size_and_place():
    image = np.zeros((2000, 6, 5), np.uint8)[..., None]
    stream = cd.Stream(1)
    _, kept = cd.coarse_dropout(
        image, num_holes_range=(1, 1), hole_height_range=(1, 3), hole_width_range=(2, 2), rng=stream, return_mask=True
    )
    sizes = (~kept).sum((1, 2))
    assert set(sizes.tolist()) == {2, 4, 6}
    assert np.all(np.abs(np.bincount(sizes)[[2, 4, 6]] - 2000 / 3) < 5 * np.sqrt(2000 * 2 / 9))  # 5 standard deviations
    assert (~kept).any(0).all()


def test_a_fill_that_is_a_part_of_the_output_is_read_before_it_is_written():
    holes = {"num_holes_range": (1, 1), "hole_height_range": (4, 4), "hole_width_range": (4, 4), "rng": 1}
    out = np.full((4, 4, 3), 7, np.uint8)
    assert (cd.coarse_dropout(np.zeros_like(out), **holes, fill=out[0, 0], out=out) == 7).all()


def test_fills_are_converted_whatever_the_callers_error_state():
    image, stream = np.ones((8, 8), np.float16), cd.Stream(1)
    with np.errstate(all="raise"):
        result = cd.coarse_dropout(
            image, num_holes_range=(1, 1), hole_height_range=(8, 8), hole_width_range=(8, 8), fill=1e-9, rng=stream
        )
    assert not result.any()
    assert stream.position == 4096


def test_rectangles_of_no_images_and_of_float16_ranges():
    result, kept = cd.coarse_dropout(np.ones((0, 5, 5, 3)), rng=1, return_mask=True)
    assert result.shape == (0, 5, 5, 3)
    assert kept.shape == (0, 5, 5)
    image, half = np.ones((2, 1 << 18), np.uint8), np.float16(0.5)  # half of this width is above float16's largest
    same = cd.coarse_dropout(image, hole_width_range=(0.5, 0.5), rng=1)
    with np.errstate(all="raise"):
        assert np.array_equal(cd.coarse_dropout(image, hole_width_range=(half, half), rng=1), same)


# ---- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.promise("augmentation")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_row", [False, True])
def test_columns_take_fill_values_or_those_of_other_rows(dtype, per_row):
    table = image_of((70, 30), dtype)
    kept = reference.keep_of_shape(KEY, 0, table.shape, 0.4, () if per_row else (0,))
    fills = np.arange(30) % 2
    result, mask = cd.column_dropout(table, 0.4, fill=fills, per_row=per_row, rng=5, return_mask=True)
    assert np.array_equal(result, reference.select(table, kept, fills))
    assert np.array_equal(mask.keep(), kept)
    moves = [1 + below(word, 69) for word in words(4096, 30)]
    moved = np.stack([np.roll(column, move) for column, move in zip(table.T, moves, strict=True)], axis=1)
    stream = cd.Stream(5)
    assert np.array_equal(
        cd.column_dropout(table, 0.4, replace="swap", per_row=per_row, rng=stream), np.where(kept, table, moved)
    )
    assert stream.position == 2 * 4096
    cd.column_dropout(table, 0.4, replace="swap", per_row=per_row, rng=5, out=table)
    assert np.array_equal(table, np.where(kept, np.where(kept, table, 0), moved))
    assert cd.column_dropout(table[:1], 1.0, replace="swap", rng=1).tolist() == table[:1].tolist()


# ---- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise("augmentation")
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16"])
def test_tokens_follow_the_rule_of_bert(dtype):
    tokens = np.random.default_rng(0).integers(0, 1000, (64, 100)).astype(dtype)
    special = [0, 101, 102]
    stream = cd.Stream(5)
    result, selected = cd.token_dropout(
        tokens, 0.5, 103, keep_special=special, replace_random=(200, 1000), rng=stream, return_mask=True
    )
    kept = reference.keep_of_shape(KEY, 0, tokens.shape, 0.5)
    assert np.array_equal(selected, ~kept & ~np.isin(tokens, special))
    assert stream.position == 8192 + 7 * 4096
    expected = tokens.copy()
    for i, word in enumerate(words(8192, tokens.size)):
        if selected.flat[i] and word >> 32 < 4 * 2**32 // 5:
            expected.flat[i] = 103
        elif selected.flat[i] and word >> 32 < 9 * 2**32 // 10:
            expected.flat[i] = 200 + ((word & 0xFFFFFFFF) * 800 >> 32)
    assert np.array_equal(result, expected)
    is_masked = result[selected] == 103
    assert abs(is_masked.mean() - 0.8) < 5 * np.sqrt(0.16 / selected.sum())  # 5 standard deviations
    as_bools = cd.token_dropout(
        tokens, 0.5, 103, keep_special=np.isin(tokens, special), replace_random=(200, 1000), rng=5
    )
    assert np.array_equal(as_bools, expected)
    out = np.empty_like(tokens.T).T
    assert cd.token_dropout(tokens, 0.5, 103, keep_special=special, replace_random=(200, 1000), rng=5, out=out) is out
    assert np.array_equal(out, expected)
    cd.token_dropout(tokens, 0.5, 103, keep_special=special, replace_random=(200, 1000), rng=5, out=tokens)
    assert np.array_equal(tokens, expected)


def test_tokens_without_random_ones_all_become_the_mask_token():
    tokens = np.arange(5000)
    kept = reference.keep_of_shape(KEY, 0, (5000,), 0.15)
    assert np.array_equal(cd.token_dropout(tokens, 0.15, 103, rng=5), np.where(kept, tokens, 103))
    result, selected = cd.token_dropout(tokens, 0.15, 103, keep_special=[7], rng=5, return_mask=True)
    assert np.array_equal(selected, ~kept & (tokens != 7))
    assert np.array_equal(result, np.where(selected, 103, tokens))
    assert cd.token_dropout(np.zeros((0, 4), int), 0.5, 1, replace_random=9, rng=1).shape == (0, 4)


def test_random_tokens_cover_numbers_of_any_dtype():
    for dtype, first in (("uint64", 2**63 - 5), ("uint64", 2**64 - 10), ("int64", -(2**63)), ("int8", -5), (">i4", -9)):
        tokens = np.full(5000, 100, dtype)
        result = cd.token_dropout(tokens, 1.0, 99, replace_random=(first, first + 10), rng=5)
        expected = [
            99 if word >> 32 < 4 * 2**32 // 5
            else first + ((word & 0xFFFFFFFF) * 10 >> 32) if word >> 32 < 9 * 2**32 // 10
            else 100
            for word in words(8192, 5000)
        ]  # fmt: skip
        assert result.tolist() == expected


def test_special_tokens_are_compared_as_integers():
    tokens = np.array([2**63, 2**63 + 1, 2**53 + 1], np.uint64)
    assert cd.token_dropout(tokens, 1.0, 0, keep_special=[2**53], rng=1).tolist() == [0, 0, 0]
    assert cd.token_dropout(tokens, 1.0, 0, keep_special=[2**53 + 1], rng=1).tolist() == [0, 0, 2**53 + 1]


class Refusing(np.ndarray):
    """An array whose class refuses results."""

    def __array_wrap__(self, *_):
        raise RuntimeError("refused")


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: cd.token_dropout(TOKENS.view(Refusing), 0.5, 1, rng=rng),
        lambda rng: cd.token_dropout(TOKENS.view(Refusing), 0.5, 1, keep_special=[1], rng=rng),
        lambda rng: cd.token_dropout(TOKENS.view(Refusing), 0.5, 1, replace_random=9, rng=rng),
        lambda rng: cd.column_dropout(TABLE.view(Refusing), 0.5, replace="swap", rng=rng),
        lambda rng: cd.coarse_dropout(IMAGE.view(Refusing), rng=rng),
    ],
)
def test_the_stream_moves_back_if_a_class_refuses_the_result(call):
    stream = cd.Stream(1)
    with pytest.raises(RuntimeError, match="refused"):
        call(stream)
    assert stream.position == 0


# ---- errors ---------------------------------------------------------------------------------------------------------

IMAGE, TABLE, TOKENS = np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.float32), np.arange(12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda rng: cd.pixel_dropout(IMAGE[0, 0], 0.5, rng=rng), ValueError, "image must have 2 dimensions, 3 with"),
        (lambda rng: cd.pixel_dropout(IMAGE, 1.5, rng=rng), ValueError, "p must be in [0, 1], got 1.5"),
        (
            lambda rng: cd.pixel_dropout(IMAGE, 0.5, per_channel="no", rng=rng),
            TypeError,
            "per_channel must be True or False, got 'no'",
        ),
        *(
            (
                lambda rng, function=function: function(IMAGE, return_mask="no", rng=rng),
                TypeError,
                "return_mask must be True or False, got 'no'",
            )
            for function in (cd.pixel_dropout, cd.coarse_dropout)
        ),
        (
            lambda rng: cd.pixel_dropout(IMAGE, 0.5, fill=256, rng=rng),
            ValueError,
            "fill must be values of uint8, got 256",
        ),
        (
            lambda rng: cd.pixel_dropout(IMAGE, 0.5, fill=[1, 2], rng=rng),
            ValueError,
            "fill must be a number, or one for",
        ),
        (
            lambda rng: cd.pixel_dropout(TABLE, 1.0, fill=[1, 2, 3, 4, 5, 6, 7, 8], rng=rng),
            ValueError,
            "fill must be a number, got 8 numbers",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, fill=np.arange(3).reshape(3, 1, 1), rng=rng),
            ValueError,
            "fill must be a number, or one for each of 3 channels, got an array of shape (3, 1, 1)",
        ),
        (
            lambda rng: cd.coarse_dropout(TABLE, fill=[1, 2], rng=rng),
            ValueError,
            "fill must be a number, got 2 numbers",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, fill=np.ma.array([1, 2, 3]), rng=rng),
            TypeError,
            "fill must not be a masked array, because masked values would be used",
        ),
        (
            lambda rng: cd.column_dropout(TABLE, 0.5, fill=np.ma.zeros(8), rng=rng),
            TypeError,
            "fill must not be a masked array, because masked values would be used",
        ),
        (
            lambda rng: cd.column_dropout(np.ma.array(TABLE), 0.5, replace="swap", rng=rng),
            TypeError,
            "table must not be a masked array, because masked values would be moved to other rows, got MaskedArray",
        ),
        (
            lambda rng: cd.column_dropout(TABLE, 0.5, replace="swap", fill=None, rng=rng),
            ValueError,
            "fill must be left out with replace='swap', got None",
        ),
        (
            lambda rng: cd.pixel_dropout(IMAGE, 0.5, channels=np.array(["last", "first"]), rng=rng),
            ValueError,
            "channels must be 'first' or",
        ),
        (
            lambda rng: cd.token_dropout(TOKENS, 0.5, 1, keep_special=np.ma.array([1, 2]), rng=rng),
            TypeError,
            "keep_special must not be a masked array",
        ),
        (
            lambda rng: cd.token_dropout(TOKENS.astype("u1"), 0.5, 1, keep_special=[0, 256], rng=rng),
            ValueError,
            "keep_special must be in [0, 255], got 256",
        ),
        (
            lambda rng: cd.token_dropout(TOKENS.astype("u8"), 0.5, 1, keep_special=[-1, 3], rng=rng),
            ValueError,
            f"keep_special must be in [0, {2**64 - 1}], got -1",
        ),
        (lambda rng: cd.pixel_dropout(IMAGE, 0.5, channels="no", rng=rng), ValueError, "channels must be 'first' or"),
        (
            lambda rng: cd.pixel_dropout(IMAGE * 1j, 0.5, rng=rng),
            TypeError,
            "image must be an array of float16, bfloat",
        ),
        (
            lambda rng: cd.pixel_dropout(IMAGE, 0.5, rng=rng, out=IMAGE[1:]),
            ValueError,
            "out must have the shape of image",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, num_holes_range=3, rng=rng),
            TypeError,
            "num_holes_range must be two num",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, num_holes_range=(2, 1), rng=rng),
            ValueError,
            "num_holes_range must be two",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, num_holes_range=(0, 0.5), rng=rng),
            TypeError,
            "num_holes_range must be an",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, hole_width_range=(-1, 2), rng=rng),
            ValueError,
            "hole_width_range must be",
        ),
        (
            lambda rng: cd.coarse_dropout(IMAGE, hole_height_range=("a", 2), rng=rng),
            TypeError,
            "hole_height_range must",
        ),
        *(
            (
                lambda rng, sizes=sizes: cd.coarse_dropout(IMAGE, hole_height_range=sizes, rng=rng),
                ValueError,
                f"hole_height_range must be fractions below 1, or pixels as integers, got {sizes}",
            )
            for sizes in ((0.5, 1.0), (0.0, 1.0), (0.1, 5), (2.5, 3.5))
        ),
        (lambda rng: cd.coarse_dropout(IMAGE, fill=-1, rng=rng), ValueError, "fill must be values of uint8, got -1"),
        (lambda rng: cd.coarse_dropout(IMAGE, out=TABLE, rng=rng), ValueError, "out must have the shape of image"),
        (lambda rng: cd.column_dropout(IMAGE, 0.5, rng=rng), ValueError, "table must have 2 dimensions, got 3"),
        (
            lambda rng: cd.column_dropout(TABLE, 0.5, replace="no", rng=rng),
            ValueError,
            "replace must be 'fill' or 'swap'",
        ),
        (
            lambda rng: cd.column_dropout(TABLE, 0.5, replace="swap", fill=1, rng=rng),
            ValueError,
            "fill must be left out",
        ),
        (lambda rng: cd.column_dropout(TABLE, 2, replace="swap", rng=rng), ValueError, "p must be in [0, 1], got 2"),
        (lambda rng: cd.token_dropout(TABLE, 0.5, 1, rng=rng), TypeError, "tokens must be an array of integers, got"),
        (lambda rng: cd.token_dropout(TOKENS, 0.5, 2**63, rng=rng), ValueError, "mask_token must be in"),
        (lambda rng: cd.token_dropout(TOKENS, 0.5, 1.0, rng=rng), TypeError, "mask_token must be an integer, got 1.0"),
        (
            lambda rng: cd.token_dropout(TOKENS, 0.5, 1, replace_random=0, rng=rng),
            ValueError,
            "replace_random must be in",
        ),
        (
            lambda rng: cd.token_dropout(TOKENS, 0.5, 1, replace_random=(7, 7), rng=rng),
            ValueError,
            "the end of replace_random, which begins at 7, must be in [8, ",
        ),
        *(
            (
                lambda rng, mask=mask: cd.token_dropout(TOKENS, 0.5, 1, keep_special=mask, rng=rng),
                ValueError,
                "keep_special must be token numbers in one dimension, or a bool array of the tokens' shape, got an",
            )
            for mask in ([0, 1] * 6, [1] * 12, np.zeros((3, 4), int))
        ),
        (
            lambda rng: cd.token_dropout(TOKENS, 0.5, 1, keep_special=[0.5], rng=rng),
            TypeError,
            "keep_special must be tok",
        ),
        (
            lambda rng: cd.token_dropout(TOKENS, 0.5, 1, keep_special=[True], rng=rng),
            ValueError,
            "keep_special must have the shape of tokens, (12,), got (1,)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name_before_anything_is_drawn(call, error, message):
    stream = cd.Stream(1)
    with pytest.raises(error) as caught:
        call(stream)
    assert str(caught.value).startswith(message), str(caught.value)
    assert stream.position == 0


def test_special_tokens_0_and_1_may_be_listed():
    tokens = np.arange(2)
    assert cd.token_dropout(tokens, 1.0, 7, keep_special=[0, 1], rng=1).tolist() == [0, 1]
    assert cd.token_dropout(tokens, 1.0, 7, keep_special=[0, 0], rng=1).tolist() == [0, 7]


def test_tokens_that_are_no_plain_array_or_have_too_few_words_are_refused():
    tokens, selected, rule = np.arange(10), np.array([3]), (2**63, 2**64 - 1, 7, 0, 5)
    _kernels.replace_by_rule(tokens, selected, np.zeros(10, np.uint64), rule)
    assert tokens.tolist() == [0, 1, 2, 7, 4, 5, 6, 7, 8, 9]
    for refused, words in ((tokens[::2], np.zeros(5, np.uint64)), (tokens, np.zeros(9, np.uint64))):
        with pytest.raises(ValueError, match="with as many elements as words"):
            _kernels.replace_by_rule(refused, selected, words, rule)
    for outside in ([3, 10], [-1, 3]):
        with pytest.raises(ValueError, match="tokens must stay unchanged during a call, got 10 elements"):
            _kernels.replace_by_rule(tokens, np.array(outside), np.zeros(10, np.uint64), rule)
    assert tokens.sum() == 49
