"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests were taken out of the checkout")
def test_every_python_example_runs_in_order():
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) >= 5
    namespace = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), namespace)
    assert (namespace["y"] == 0).any()
