"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the tests were taken out of the checkout")


def run_examples(path):
    """Run a page's Python examples, one after the other; return how many there are, and the names they leave."""
    examples = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    namespace = {}
    for example in examples:
        exec(compile(example, str(path), "exec"), namespace)
    return len(examples), namespace


def test_every_python_example_runs_in_order():
    n_examples, namespace = run_examples(ROOT / "README.md")
    assert n_examples >= 5
    assert (namespace["y"] == 0).any()


def test_the_adapter_works_as_the_page_shows_it():
    n_examples, namespace = run_examples(ROOT / "docs/networks.md")
    assert n_examples == 1
    assert namespace["grads"] == []
