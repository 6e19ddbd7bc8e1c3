"""Builds the modules that embed cdropout, against the cdropout that this Python imports.

CDROPOUT_TEST_HEADERS names another folder of headers; then the module in C alone is built.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

import cdropout

OTHER_HEADERS = os.environ.get("CDROPOUT_TEST_HEADERS")
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-missing-field-initializers"]
HEADERS = [OTHER_HEADERS or cdropout.get_include()]

c_module = Extension(
    "embedded_c", ["embedded_c.c"], include_dirs=HEADERS, extra_compile_args=["-O2", "-std=c11", *STRICT]
)
cpp_module = Extension(
    "embedded_cpp", ["embedded_cpp.cpp"], include_dirs=HEADERS, extra_compile_args=["-O2", "-std=c++17", *STRICT]
)
# By cimport: neither headers nor anything else is needed.
cython_module = cythonize([Extension("embedded_cython", ["embedded_cython.pyx"], extra_compile_args=["-O2"])])

setup(
    name="embedded",
    py_modules=[],
    ext_modules=[c_module] if OTHER_HEADERS else [c_module, cpp_module, *cython_module],
)
