"""docs/family.md has a complete table, with all layers of the library, and names what exists."""

import re
from pathlib import Path

import pytest

import cdropout as cd

PAGE = Path(__file__).parents[1] / "docs/family.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the tests were taken out of the checkout")


def rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_row_has_as_many_cells_as_the_head():
    assert {len(row) for row in rows()} == {10}


def test_what_is_named_exists_and_what_exists_is_named():
    column = " ".join(row[1] for row in rows())
    names = set(re.findall(r"\b[A-Za-z_]\w*", column))
    assert set(re.findall(r"`(\w+)[`(.]", column)) <= set(dir(cd))
    layers = {name for name in cd.__all__ if name[0].isupper() and hasattr(getattr(cd, name), "forward")}
    spelled_out = {"Dropout2d", "Dropout3d", "SpatialDropout2D", "SpatialDropout3D"}
    fused = {"ReLUDropout", "BiasReLUDropout", "DropoutAdd", "BiasDropoutAdd"}
    assert layers - spelled_out - fused <= names
