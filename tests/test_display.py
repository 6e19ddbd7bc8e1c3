"""The HTML of values in notebooks, and pictures of masks."""

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import writes_what_is_shared

import cdropout as cd
from cdropout.display import HTML_COLUMNS, HTML_ROWS, corner

SHAPES_AND_AXES = [
    ((), ()),
    ((100,), ()),
    ((100,), (0,)),
    ((30, 50), ()),
    ((30, 50), (0,)),
    ((30, 50), (1,)),
    ((30, 50), (0, 1)),
    ((4, 5, 6, 70), ()),
    ((4, 5, 6, 70), (2, 3)),
    ((4, 5, 6, 70), (0,)),
    ((4, 5, 6, 70), (1, 3)),
]


@pytest.mark.parametrize(("shape", "axes"), SHAPES_AND_AXES)
def test_the_corner_is_what_keep_has_there(shape, axes):
    mask = cd.draw_mask(shape, 0.4, rng=cd.Stream(5), shared_axes=axes)
    whole = mask.keep().reshape((1,) * (2 - len(shape)) + shape)
    for leading in np.ndindex(*shape[:-2]):
        np.testing.assert_array_equal(corner(mask, leading, 20, 40), whole[leading][:20, :40])


@pytest.mark.parametrize("index", [np.s_[17:60], np.s_[17:60, 5:]])
def test_the_corner_of_a_part_is_the_parts(index):
    part = cd.draw_mask((90, 50), 0.4, rng=5)[index]
    np.testing.assert_array_equal(corner(part, (), 10, 20), part.keep()[:10, :20])


def dropped_cells(html):
    """Return the (row, column) pairs that a mask's HTML draws as dropped."""
    return {(int(row), int(column)) for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", html)}


def svg_of(html):
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def test_a_masks_html_has_its_fields_and_its_corner():
    mask = cd.draw_mask((1000, 2000), 0.3, rng=1, shared_axes=1)
    html = mask._repr_html_()
    for text in ("(1000, 2000)", "0.3", "(1,)", f"{mask.key:#034x}", "drawn: 16 x 64 of 1,000 x 2,000"):
        assert text in html
    dropped = np.argwhere(~mask.keep()[:HTML_ROWS, :HTML_COLUMNS])
    assert dropped_cells(html) == {tuple(cell) for cell in dropped.tolist()}
    assert svg_of(html).get("viewBox") == "0 0 64 16"


def test_html_of_a_small_mask_draws_all_and_says_nothing_of_a_part():
    mask = cd.draw_mask((3, 5), 0.5, rng=1)
    html = mask._repr_html_()
    assert len(dropped_cells(html)) == np.count_nonzero(~mask.keep()) > 0
    assert "drawn" not in html


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 4)])
def test_an_empty_mask_has_html_without_a_picture(shape):
    html = cd.draw_mask(shape, 0.5, rng=1)._repr_html_()
    assert "<svg" not in html
    assert str(shape) in html


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**30), (3, 2**20, 2**30)])
def test_a_mask_larger_than_any_memory_shows_its_corner(shape):
    mask = cd.draw_mask(shape, 0.5, rng=1)
    assert 0 < len(dropped_cells(mask._repr_html_())) < HTML_ROWS * HTML_COLUMNS


def test_html_of_streams_and_noise_has_their_fields():
    stream = cd.Stream(123_456_789).spawn(3)[2]
    stream.spawn(4)
    cd.draw_mask(10, 0.5, rng=stream)
    html = stream._repr_html_()
    for text in (f"{stream.key:#034x}", "123456789", "[2]", "4,096", "<code>4</code>"):
        assert text in html
    noise = cd.draw_noise((3, 4), 0.25, rng=stream)
    html = noise._repr_html_()
    for text in (f"{noise.key:#034x}", "(3, 4)", "0.25", "4096"):
        assert text in html


@pytest.mark.parametrize("make", [lambda: cd.draw_mask((3, 4), 0.5), lambda: cd.Stream(1), lambda: cd.draw_noise(3, 1)])
def test_html_is_well_formed(make):
    ElementTree.fromstring(f"<div>{make()._repr_html_()}</div>")


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ax():
    """Axes of a figure without a window."""
    figure = pytest.importorskip("matplotlib.figure")
    return figure.Figure().subplots()


def drawn_picture(ax):
    (image,) = ax.get_images()
    return image.get_array()


@writes_what_is_shared
@pytest.mark.parametrize(("shape", "axes"), SHAPES_AND_AXES[1:7])
def test_a_plot_shows_what_is_kept(ax, shape, axes):
    mask = cd.draw_mask(shape, 0.4, rng=1, shared_axes=axes)
    assert mask.plot(ax) is ax
    np.testing.assert_array_equal(drawn_picture(ax), np.atleast_2d(mask.keep()))
    assert ax.get_title() == f"p = 0.4, shape {shape}, dark: dropped"
    assert ax.get_xlabel() == f"axis {len(shape) - 1}"
    assert ax.get_ylabel() == ("axis 0" if len(shape) == 2 else "")


@writes_what_is_shared
def test_a_plot_of_a_huge_mask_shows_a_corner_and_says_so(ax):
    mask = cd.draw_mask((2**20, 2**30), 0.5, rng=1)
    mask.plot(ax, limit=100)
    np.testing.assert_array_equal(drawn_picture(ax), corner(mask, (), 100, 100))
    assert "drawn: 100 x 100 of 1,048,576 x 1,073,741,824" in ax.get_title()


@writes_what_is_shared
def test_slices_of_more_dimensions_stand_side_by_side(ax):
    mask = cd.draw_mask((2, 3, 5, 7), 0.4, rng=1)
    mask.plot(ax)
    picture, keep = drawn_picture(ax), mask.keep().reshape(6, 5, 7)
    assert picture.shape == (2 * 5 + 1, 3 * 7 + 2)
    for number in range(6):
        top, left = number // 3 * 6, number % 3 * 8
        np.testing.assert_array_equal(picture[top : top + 5, left : left + 7], keep[number])
    assert np.ma.getmaskarray(np.ma.masked_invalid(picture))[5].all()
    assert "drawn" not in ax.get_title()


@writes_what_is_shared
def test_of_many_slices_sixteen_are_drawn(ax):
    cd.draw_mask((128, 64, 28, 28), 0.4, rng=1).plot(ax)
    assert drawn_picture(ax).shape == (4 * 28 + 3, 4 * 28 + 3)
    assert "drawn: 16 of 8,192 slices" in ax.get_title()


@writes_what_is_shared
@pytest.mark.parametrize("limit", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("shape", [(1000,), (40, 60), (9, 40, 60), (3, 9, 40, 60)])
def test_no_side_of_a_picture_is_longer_than_the_limit(ax, shape, limit):
    cd.draw_mask(shape, 0.4, rng=1).plot(ax, limit=limit)
    assert max(drawn_picture(ax).shape) <= limit


@writes_what_is_shared
def test_a_scalar_and_an_empty_mask_can_be_drawn(ax):
    cd.draw_mask((), 0.4, rng=1).plot(ax)
    assert drawn_picture(ax).shape == (1, 1)
    ax.clear()
    cd.draw_mask((0, 4), 0.4, rng=1).plot(ax)
    assert not ax.get_images()
    assert "(0, 4)" in ax.get_title()


def test_without_axes_a_new_figure_is_made():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    try:
        ax = cd.draw_mask((3, 4), 0.4, rng=1).plot()
        assert drawn_picture(ax).shape == (3, 4)
        assert pyplot.get_fignums() == [ax.figure.number]
    finally:
        pyplot.close("all")


@writes_what_is_shared
@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_limit_that_is_no_number_of_elements_is_named(ax, limit, error):
    with pytest.raises(error, match="limit must be"):
        cd.draw_mask((3, 4), 0.4, rng=1).plot(ax, limit=limit)
    assert not ax.get_images()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape('Mask.plot needs matplotlib: pip install "cdropout[plot]"')):
        cd.draw_mask((3, 4), 0.4, rng=1).plot()


@writes_what_is_shared
def test_a_picture_takes_no_position_of_a_stream(ax):
    stream = cd.Stream(1)
    mask = cd.draw_mask((3, 4), 0.4, rng=stream)
    position = stream.position
    mask.plot(ax)
    mask._repr_html_()
    stream._repr_html_()
    assert stream.position == position
