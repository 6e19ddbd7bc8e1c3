"""The folder of headers, for building extension modules that call cdropout."""

import os


def get_include() -> str:
    """Return the folder of `cdropout.h`, for the `include_dirs` of an extension module in C or C++.

    Returns
    -------
    str
        An absolute path. Cython's `from cdropout.api cimport ...` does not need it.

    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
