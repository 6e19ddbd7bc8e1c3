"""The documentation site builds without a warning, and its reference has every public name."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

import cdropout as cd

pages = pytest.importorskip("pages", reason="markdown-it-py is not installed")
ROOT = Path(__file__).parents[1]
EXTENSIONS = ("furo", "myst_parser", "numpydoc", "sphinx", "sphinx_copybutton")
PAGES = {
    *("index", "getting_started", "layers", "family", "compact", "tables", "augmentation", "networks"),
    *("pytorch", "jax", "keras"),
    *("frameworks", "reproducibility"),
    *("loops", "c_api", "scaling_out", "design", "performance", "api/index"),
}
PACKAGE = Path(cd.__file__).parent
# Modules that `import cdropout` does not import; their names are public if they do not begin with "_".
MODULES = (
    *("compact", "sklearn", "torch", "jax", "thinc", "keras"),
    *(f"compat/{name}" for name in ("deepnet", "from_scratch", "nnfs", "numpy_ml")),
)

missing = [name for name in EXTENSIONS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not (ROOT / "docs/conf.py").exists(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(bool(missing), reason=f"not installed, of the extra docs: {', '.join(missing)}"),
]


# Sphinx without these packages, as on a machine that lacks them: autodoc imports some installed packages despite its
# mocks, so that the site may build only if PyTorch is installed.
WITHOUT_OTHER_PACKAGES = """
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent)
from sphinx.cmd.build import main

sys.exit(main(sys.argv[1:]))
"""


def mocked_packages():
    """Return the packages that autodoc mocks by docs/conf.py."""
    for node in ast.parse((ROOT / "docs/conf.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "autodoc_mock_imports":
            return ast.literal_eval(node.value)
    raise AssertionError("docs/conf.py sets no autodoc_mock_imports")


def build_site(folder, *sphinx):
    """Build the site with warnings as errors, by Python with the arguments of sphinx; return its folder."""
    command = [sys.executable, "-P", *sphinx, "-W", "--keep-going", "-q", "-d", str(folder / "doctrees")]
    run = pages.run([*command, str(ROOT / "docs"), str(folder / "html")], folder, 120)
    assert run.returncode == 0, run.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as if none of the mocked packages was installed."""
    program = WITHOUT_OTHER_PACKAGES.format(packages=mocked_packages())
    return build_site(tmp_path_factory.mktemp("site"), "-c", program)


@pytest.mark.deep
def test_the_site_builds_with_the_packages_that_are_installed_here(tmp_path):
    assert (build_site(tmp_path, "-m", "sphinx") / "index.html").exists()


@pytest.fixture(scope="module")
def documented(site):
    """All names with an entry in the reference."""
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
def test_every_public_name_of_a_separate_module_has_an_entry(documented, module):
    path = PACKAGE / module / "__init__.py" if (PACKAGE / module).is_dir() else PACKAGE / f"{module}.py"
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(f"cdropout.{module}."):
            names |= {each.name for each in node.names}
    assert names
    assert {f"cdropout.{module.replace('/', '.')}.{name}" for name in names} - documented == set()


def test_code_names_in_docstrings_became_links(site):
    text = (site / "api/functions.html").read_text()
    assert 'href="#cdropout.draw_mask"' in text
    assert 'href="values.html#cdropout.Mask.apply"' in (site / "api/layers.html").read_text()
