"""Packages that cdropout works with and does not need: which are installed, and what to say where one is missing."""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

# What each is for. None is imported to find out whether it is there.
PURPOSES = {
    "torch": "cdropout.torch",
    "thinc": "cdropout.thinc",
    "spacy": "cdropout.thinc",
    "keras": "cdropout.keras",
    "dask": "cdropout.dask",
    "ml_dtypes": "bfloat16 arrays",
    "matplotlib": "Mask.plot",
    "rich": "python -m cdropout bench",
    "threadpoolctl": "python -m cdropout bench",
    "tqdm": "mc_predict(progress=True)",
}


def installed_versions() -> dict[str, str | None]:
    """Return the version of each package in `PURPOSES`, None where it is not installed; nothing is imported."""
    return {name: _version(name) for name in PURPOSES}


def _version(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # without an origin it is a folder that happens to have the name
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def require(name: str, *, extra: str, purpose: str) -> Any:
    """Import and return a module; ImportError, naming who needs it and which extra brings it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:  # something that the package itself needs
            raise
        raise ImportError(f'{purpose} needs {package}: pip install "cdropout[{extra}]"') from error
