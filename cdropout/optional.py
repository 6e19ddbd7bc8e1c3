"""Optional packages: their purposes, which of them are installed, and the error if one is missing."""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

# Package -> the part of this library that uses it.
PURPOSES = {
    "torch": "cdropout.torch",
    "jax": "cdropout.jax",
    "thinc": "cdropout.thinc",
    "spacy": "cdropout.thinc",
    "keras": "cdropout.keras",
    "dask": "cdropout.dask",
    "sklearn": "cdropout.sklearn",
    "albumentations": "cdropout.albumentations",
    "ml_dtypes": "bfloat16 arrays",
    "matplotlib": "Mask.plot",
    "rich": "python -m cdropout bench",
    "threadpoolctl": "python -m cdropout bench",
    "tqdm": "mc_predict(progress=True)",
}

# Packages whose distributions have another name.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def installed_versions() -> dict[str, str | None]:
    """Return the version of each package in `PURPOSES`, None if it is not installed, without importing any."""
    return {name: _version(name) for name in PURPOSES}


def _version(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # without an origin it is a folder of this name, not a package
        return None
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def require(name: str, *, extra: str, purpose: str) -> Any:
    """Import and return a module; if it is missing, ImportError names the purpose and the extra that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:  # a dependency of the package is missing
            raise
        raise ImportError(f'{purpose} needs {package}: pip install "cdropout[{extra}]"') from error
