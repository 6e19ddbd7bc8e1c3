"""The documentation site: `sphinx-build -W docs docs/_build/html`."""

import sys
from pathlib import Path

from sphinx.ext.autodoc.mock import _MockObject

import cdropout

sys.path.insert(0, str(Path(__file__).parent))  # for the extension promise_tests

project = "cdropout"
author = "The cdropout developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = cdropout.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "promise_tests",
]
exclude_patterns = ["_build"]

# ---- pages ----------------------------------------------------------------------------------------------------------

myst_heading_anchors = 3
highlight_language = "none"  # indented blocks are formulas and listings; code says in which language it is
smartquotes = False

# ---- reference ------------------------------------------------------------------------------------------------------

default_role = "py:obj"  # what docstrings have in single backticks: a link where it is a name of ours, else code
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what arguments are
# Never the packages themselves: the site is the same, and as quickly made, wherever they are or are not installed.
autodoc_mock_imports = [
    "albumentations",
    "dask",
    "equinox",
    "flax",
    "jax",
    "joblib",
    "keras",
    "sklearn",
    "thinc",
    "threadpoolctl",
    "torch",
]
_MockObject.__setitem__ = lambda mock, key, value: None  # cdropout.jax enters rules into tables of JAX's
numpydoc_show_class_members = False  # every entry says which of them it shows
toc_object_entries_show_parents = "hide"


def plain_defaults(app, what, name, obj, options, signature, returns):  # noqa: D103 - Sphinx's hook
    # What compiled functions have as a default shows as its repr.
    return (signature or "").replace("<class 'numpy.float32'>", "numpy.float32") or None, returns


def setup(app):  # noqa: D103 - Sphinx's name
    app.connect("autodoc-process-signature", plain_defaults)


# ---- looks ----------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"cdropout {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
