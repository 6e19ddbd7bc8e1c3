"""docs/promises.md: every promise and every defect that others had names a test that exists; those called deep are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/promises.md"
FOLDERS = (ROOT / "tests", ROOT / "examples/mnist/tests")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the tests were taken out of the checkout")


def rows():
    """The cells of every row of the page's tables, but for their heads."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] not in ("test", "---")]


def names_in(nodes):
    return {node.attr for each in nodes for node in ast.walk(each) if isinstance(node, ast.Attribute)}


def deepness_of(path):
    """The tests of a file, and whether each is deep."""
    module = ast.parse(path.read_text())
    assignments = [node for node in module.body if isinstance(node, ast.Assign)]
    marks = [node.value for node in assignments if ast.unparse(node.targets[0]) == "pytestmark"]
    return {
        node.name: "deep" in names_in([*node.decorator_list, *marks])
        for node in module.body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_row_names_tests_that_exist_and_says_which_are_deep():
    n_named = 0
    for row in rows():
        for part in row[-1].split(", "):
            named = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`( \(deep\))?", part)
            assert named, row
            tests = deepness_of(next(folder / named[1] for folder in FOLDERS if (folder / named[1]).exists()))
            assert named[2] in tests, part
            assert tests[named[2]] == bool(named[3]), part
            n_named += 1
    assert n_named > 60


def test_the_defects_are_all_there():
    text = PAGE.read_text()
    defects = [row for row in rows() if len(row) == 3]
    assert text.count("\n## Defects that others have had\n") == 1
    assert len(defects) == 11
