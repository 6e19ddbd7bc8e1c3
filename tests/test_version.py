"""The version is defined once, in cdropout/__init__.py, and everything else reads it there."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import cdropout as cd

ROOT = Path(__file__).parents[1]
in_checkout = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the tests were taken out of the checkout"
)


def test_what_is_installed_says_the_same():
    try:
        installed = version("cdropout")
    except PackageNotFoundError:
        pytest.skip("cdropout runs from its source folder and is not installed")
    assert installed == cd.__version__


@in_checkout
def test_the_build_reads_it_from_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"]
    assert "version" in settings["project"]["dynamic"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cdropout.__version__"}


@in_checkout
def test_the_changelog_begins_with_it():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == cd.__version__
