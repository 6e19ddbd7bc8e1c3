"""Each promise of docs/promises.md and docs/family.md has a test, and each `promise` mark names a promise."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "docs/conf.py").exists(), reason="the tests were taken out of the checkout")


@pytest.fixture(scope="module")
def site():
    """The Sphinx extension that lists the tests of each promise."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs/promise_tests.py")))


@pytest.fixture(scope="module")
def text(site):
    """The text of all pages with promises."""
    return "".join((ROOT / f"docs/{page}.md").read_text() for page in site.PAGES)


def test_each_row_has_a_key(site, text):
    rows = re.findall(r"^\| (?!-).* \|$(?!\n\| -)", text, re.MULTILINE)  # without the heads
    assert len(rows) > 70
    assert [row for row in rows if not site.LAST_CELL.search(row)] == []


def test_each_promise_has_a_test_and_each_mark_names_a_promise(site, text):
    assert site.keys_of(text) == site.marked_tests().keys()


@pytest.fixture
def marked(site, tmp_path):
    """The tests by key of a module with a test of `known` and `unknown`, and a deep one of `known`."""
    marks = '@pytest.mark.promise("unknown")\ndef test_a(): ...\n@pytest.mark.deep\ndef test_b(): ...\n'
    (tmp_path / "test_module.py").write_text('pytestmark = [pytest.mark.promise("known")]\n' + marks)
    return site.marked_tests([tmp_path])


def test_unknown_and_untested_keys_are_found(site, marked):
    assert site.keys_of("| text | `known`, `untested` |\n") ^ marked.keys() == {"unknown", "untested"}


def test_the_site_lists_the_tests_of_a_key(site, marked):
    tests = "`test_module.py::test_a`<br>`test_module.py::test_b` (deep)"
    cell = f"<details><summary>`known`</summary>{tests}</details>"
    assert site.with_tests("| text | `known` |\n", marked) == f"| text | {cell} |\n"


def test_pytest_runs_the_tests_of_a_promise(site, run_python):
    options = ("--promise", "shared-stream", "--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT))
    run = run_python("-m", "pytest", *options, "-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests/test_stream.py"))
    found = re.findall(r"test_stream\.py::test_\w+", run.stdout.decode())
    assert [f"`{name}`" for name in found] == site.marked_tests()["shared-stream"]
