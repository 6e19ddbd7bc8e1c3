"""CONTRIBUTING's recipes, followed literally in a copy of the tree, which is built and tested."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compilers import reason_to_skip

ROOT = Path(__file__).parents[1]
FOLDERS = ("cdropout", "src", "tests", "benchmarks", "docs")
FILES = ("setup.py", "pyproject.toml", "README.md", "CONTRIBUTING.md", "LICENSE")
BUILT_WITH = ("Cython", "numpy", "setuptools")

missing = [name for name in BUILT_WITH if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(not (ROOT / "src/core").is_dir(), reason="the tests were taken out of the checkout"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(reason_to_skip("cc") is not None, reason="needs a C compiler"),
]

# Each recipe: for each file, the text before which text is added, and the added text. "" is the end of the file.
FUSED_OPERATION = {  # the `tree` fixture adds its row in the catalog
    "cdropout/functions/fused.py": [
        (
            "",
            '''

def relu_dropout_add(
    x: npt.ArrayLike, residual: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None
) -> npt.NDArray[Any]:
    """Return dropout(relu(x)) + residual."""
    return fuse("relu_dropout_add", x, None, residual, p, rng, out)
''',
        )
    ],
    "cdropout/layers/fused.py": [
        (
            "",
            '''

class ReLUDropoutAdd(DropoutAdd):
    """ReLU, dropout and the sum with a residual."""

    _operation = "relu_dropout_add"
''',
        )
    ],
    "cdropout/functions/__init__.py": [
        ("    relu_dropout_backward,\n)", "    relu_dropout_add,\n"),
        ('    "relu_dropout_backward",\n', '    "relu_dropout_add",\n'),
    ],
    "cdropout/layers/__init__.py": [
        ("from cdropout.layers.gaussian import", "from cdropout.layers.fused import ReLUDropoutAdd\n"),
        ('    "SpatialDropout1D",\n', '    "ReLUDropoutAdd",\n'),
    ],
    "tests/test_fused.py": [
        (
            "}\nOPERATIONS = tuple(UNFUSED)",
            '    "relu_dropout_add": lambda x, bias, residual, p: cd.dropout(np.maximum(x, 0), p, rng=5) + residual,\n',
        ),
    ],
}

# An alias of bfloat16 for NumPy's int16, whose bits are read as those of bfloat16.
DTYPE = {  # the `tree` fixture adds its row
    "src/core/kernels/all_dtypes.inc.h": [
        (
            "",
            """
#define bits16_load bf16_load
#define bits16_store bf16_store
#define bits16_stream bf16_stream
#define DTYPE bits16
#define COMPUTED f32
#define COPIED bf16
#include "dtype_kernels.inc.h"
""",
        )
    ],
}

LAYER = {
    "cdropout/functions/shared_axes.py": [
        (
            "",
            '''

def row_dropout(x: npt.ArrayLike, p: float = 0.5, *, rng: Rng | None = None, out: Any = None) -> npt.NDArray[Any]:
    """Drop whole rows: one decision for all elements along the last axis."""
    return dropout(x, p, rng=rng, out=out, shared_axes=-1)
''',
        )
    ],
    "cdropout/layers/shared_axes.py": [
        (
            "",
            '''

class RowDropout(_AxesOfShape):
    """`Dropout` of whole rows."""

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return (n_dims - 1,)
''',
        )
    ],
    "cdropout/functions/__init__.py": [
        ("    locked_dropout,\n)", "    row_dropout,\n"),
        ('    "zoneout",\n', '    "row_dropout",\n'),
    ],
    "cdropout/layers/__init__.py": [
        ("    SpatialDropout1D,\n", "    RowDropout,\n"),
        ('    "Zoneout",\n', '    "RowDropout",\n'),
    ],
    "tests/test_family.py": [
        ("LAYERS = {", 'SHARED["RowDropout"] = (cd.RowDropout, cd.row_dropout, (40, 30), (1,))\n'),
    ],
}


def copy_tree(folder):
    """Copy the files that are built and tested, without the results of a build."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_build"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)


def follow(folder, recipe):
    """Add a recipe's texts to the files."""
    for name, additions in recipe.items():
        path = folder / name
        text = path.read_text()
        for before, added in additions:
            assert text.count(before) == 1 or before == "", f"{name} must have {before!r} once"
            text = text.replace(before, added + before) if before else text + added
        path.write_text(text)


def add_row(folder, last, row):
    """Add a row at the end of a list of the catalog, with a backslash after the previous last row."""
    path = folder / "src/core/kernel_table.h"
    text = path.read_text()
    assert text.count(f"    {last}\n") == 1, f"a list of the catalog must end with {last}"
    path.write_text(text.replace(f"    {last}\n", f"    {last} \\\n    {row}\n"))


def add_instruction_set(folder):
    """Add a copy of the portable instruction set under another name, in front of it."""
    isa = folder / "src/core/isa"
    copied = (isa / "portable.c").read_text()
    renamed = copied.replace('"portable"', '"twin"').replace("kernels_portable", "kernels_twin")
    assert renamed.count("twin") == 2
    (isa / "twin.c").write_text(renamed)
    path = folder / "src/core/kernel_table.h"
    text = path.read_text()
    assert "    X(portable)\n" in text
    path.write_text(text.replace("    X(portable)\n", "    X(twin) \\\n    X(portable)\n"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree in which every recipe has been followed, built in place."""
    folder = tmp_path_factory.mktemp("recipes")
    copy_tree(folder)
    add_row(folder, "X(add_noise, 10, WITH_NOISE)", "X(relu_dropout_add, 11, WITH_RELU | WITH_RESIDUAL)")
    add_row(folder, 'X(bf16, 2, 16, "bfloat16")', 'X(bits16, 2, 16, "int16")')
    for recipe in (FUSED_OPERATION, DTYPE, LAYER):
        follow(folder, recipe)
    add_instruction_set(folder)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, check=True, timeout=600)
    return folder


def run_in(tree, *arguments):
    """Run Python in the tree, with the tree's library, and return its output."""
    run = subprocess.run(
        [sys.executable, *arguments], cwd=tree, capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


def test_the_tree_is_what_is_tested(tree):
    printed = run_in(tree, "-c", "import cdropout; print(cdropout.__file__); print(*cdropout._kernels.known_isas())")
    path, isas = printed.splitlines()
    assert Path(path).resolve().is_relative_to(tree.resolve())
    assert "twin" in isas.split()
    assert isas.split()[-1] == "portable"


def test_a_new_fused_operation_has_the_bits_of_the_unfused_sequence(tree):
    printed = run_in(tree, "-m", "pytest", "-q", "tests/test_fused.py", "-k", "relu_dropout_add", "-rA")
    assert "[relu_dropout_add-float32-twin]" in printed or "[twin-float32-relu_dropout_add]" in printed
    assert "failed" not in printed
    run_in(
        tree,
        "-c",
        """
import numpy as np, cdropout as cd
x, residual = np.random.default_rng(0).standard_normal((2, 1000), dtype=np.float32)
y = cd.ReLUDropoutAdd(0.3, rng=5).forward(x, residual)
assert np.array_equal(y, cd.dropout(np.maximum(x, 0), 0.3, rng=5) + residual)
""",
    )


def test_a_new_dtype_that_is_an_alias_has_the_bits_of_what_it_is_an_alias_of(tree):
    run_in(
        tree,
        "-c",
        """
import ml_dtypes, numpy as np, cdropout as cd
from cdropout import _kernels
x = np.random.default_rng(0).standard_normal(10_007).astype(ml_dtypes.bfloat16)
for isa in _kernels.supported_isas():
    _kernels.use_isa(isa)
    for limit in (0, 1 << 30):
        _kernels.set_limits(max_cached_bytes=limit)
        for name in ("dropout", "relu_dropout", "alpha_dropout", "gaussian_dropout"):
            expected = getattr(cd, name)(x, 0.3, rng=1).view(np.int16)
            found = getattr(cd, name)(x.view(np.int16), 0.3, rng=1)
            assert found.dtype == np.int16 and np.array_equal(found, expected), (isa, name)
""",
    )


def test_a_new_instruction_set_passes_the_reference_tests(tree):
    printed = run_in(tree, "-m", "pytest", "-q", "tests/test_kernels.py", "-k", "twin", "-rA")
    assert "test_every_isa_matches_the_reference[" in printed
    assert "test_every_kernel_that_ran_was_compiled_for_the_forced_isa[twin]" in printed


def test_a_new_layer_passes_the_tests_of_its_table(tree):
    printed = run_in(tree, "-m", "pytest", "-q", "tests/test_family.py", "-k", "RowDropout", "-rA")
    assert printed.count("PASSED") > 5
    assert "test_whole_slices_are_dropped_and_the_rest_is_scaled[RowDropout]" in printed
