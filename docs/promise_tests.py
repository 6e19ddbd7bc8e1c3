"""List the tests of each promise on the documentation site.

This Sphinx extension edits the tables of promises.md and family.md. The last cell of a row holds the row's keys, and
`@pytest.mark.promise("key")` marks the tests of a key. On the site, each key unfolds into the names of its tests. The
test files are parsed and not imported, so that the site builds without pytest.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "tests", ROOT / "examples/mnist/tests")
PAGES = ("promises", "family")
LAST_CELL = re.compile(r"(?<=\| )(?:`[a-z0-9-]+`(?:, )?)+(?= \|$)", re.MULTILINE)
KEY = re.compile(r"`([a-z0-9-]+)`")


def keys_of(text):
    """Return the keys in the tables of a page."""
    return {key for cell in LAST_CELL.findall(text) for key in KEY.findall(cell)}


def files_in(folders):
    """Return the paths of the test files, in order."""
    return [path for folder in folders for path in sorted(folder.glob("test_*.py"))]


def marked_tests(folders=FOLDERS):
    """Return a dict from each key to its tests, in Markdown. A mark in a module's `pytestmark` marks all its tests."""
    found = {}
    for path in files_in(folders):
        module = ast.parse(path.read_text())
        assigned = {ast.unparse(node.targets[0]): node.value for node in module.body if isinstance(node, ast.Assign)}
        of_module = assigned.get("pytestmark", ast.List([]))
        for test in module.body:
            if not isinstance(test, ast.FunctionDef):
                continue
            marks = [*test.decorator_list, *getattr(of_module, "elts", [of_module])]
            deep = " (deep)" if "pytest.mark.deep" in map(ast.unparse, marks) else ""
            for mark in marks:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    for key in map(ast.literal_eval, mark.args):
                        found.setdefault(key, []).append(f"`{path.name}::{test.name}`{deep}")
    return found


def with_tests(text, tests):
    """Return the text of a page, with the tests of each key folded below the key."""

    def unfolded(key):
        return f"<details><summary>{key[0]}</summary>{'<br>'.join(tests[key[1]])}</details>"

    return LAST_CELL.sub(lambda cell: "".join(map(unfolded, KEY.finditer(cell[0]))), text)


def _on_source_read(app, docname, source):
    if docname in PAGES:
        for path in files_in(FOLDERS):
            app.env.note_dependency(path)
        source[0] = with_tests(source[0], marked_tests())


def setup(app):
    """Register the extension with Sphinx."""
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True}
