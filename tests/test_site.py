"""The documentation site builds without a warning, and its reference has every public name."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import cdropout as cd

ROOT = Path(__file__).parents[1]
EXTENSIONS = ("furo", "myst_parser", "numpydoc", "sphinx", "sphinx_copybutton")
PAGES = {
    *("index", "getting_started", "layers", "family", "networks", "pytorch", "frameworks", "reproducibility"),
    *("loops", "embedding", "scaling_out", "design", "performance", "api/index"),
}
PACKAGE = Path(cd.__file__).parent
# Modules that nobody imports but who asks for them; all their names are public that do not begin with "_".
MODULES = ("torch", "thinc", "keras", *(f"compat/{name}" for name in ("deepnet", "from_scratch", "nnfs", "numpy_ml")))

missing = [name for name in EXTENSIONS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "docs/conf.py").exists(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(bool(missing), reason=f"not installed, of the extra docs: {', '.join(missing)}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "doctrees")]
    run = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def documented(site):
    """All names that the reference has an entry for."""
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    return {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}


def test_the_site_has_its_pages(site):
    assert {name for name in PAGES if not (site / f"{name}.html").exists()} == set()
    assert cd.__version__ in (site / "index.html").read_text()


def test_every_public_name_has_an_entry(documented):
    names = {*cd.__all__, "eval"} - {"__version__"}
    assert {name for name in names if f"cdropout.{name}" not in documented} == set()


def test_the_methods_of_values_and_layers_have_entries(documented):
    methods = {
        "Mask": ("apply", "keep", "scaled", "plot", "__getitem__"),
        "Noise": ("add", "multiply"),
        "Stream": ("spawn", "state", "key", "position"),
        "Dropout": ("forward", "backward", "train", "eval", "state", "p", "rng"),
        "DropConnect": ("forward", "backward"),
    }
    expected = {f"cdropout.{name}.{method}" for name, of_it in methods.items() for method in of_it}
    assert expected - documented == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_module_of_its_own_has_an_entry(documented, module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names = {f"cdropout.{module.replace('/', '.')}.{node.name}" for node in definitions if node.name[0] != "_"}
    assert names
    assert names - documented == set()


def test_code_names_in_docstrings_became_links(site):
    text = (site / "api/functions.html").read_text()
    assert 'href="#cdropout.draw_mask"' in text
    assert 'href="values.html#cdropout.Mask.apply"' in (site / "api/layers.html").read_text()
