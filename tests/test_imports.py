"""No module imports itself through others: neither when it is imported nor when its functions are called."""

import ast
import graphlib
import re
from pathlib import Path
from types import MappingProxyType

import pytest

from benchmarks.command_line import QUESTIONS, module_name

ROOT = Path(__file__).parents[1]
# Folders from which Python finds modules: the checkout, and examples/ for its scripts.
SEARCHED = {ROOT: ("cdropout", "benchmarks"), ROOT / "examples": (".",)}
# The modules that each of these imports by calls of import_module whose argument is not a constant.
BY_NAME = {
    "cdropout": {"cdropout.bit_generator", "cdropout.c_api"},
    "cdropout.__main__": set(),  # those that the user names
    "cdropout.jax.key_implementation": set(),  # JAX's
    "cdropout.keras.switch": {f"cdropout.keras.on_{backend}" for backend in ("numpy", "torch", "jax")},
    "cdropout.optional": set(),  # other packages
    "cdropout.torch.shared_axes": set(),  # those of other packages, whose modules it replaces
    "benchmarks.command_line": {f"benchmarks.{module_name(question)}" for question in QUESTIONS},
    "benchmarks.c_api": set(),  # those that it builds
    "benchmarks.contenders.contender": set(),  # other packages
    "benchmarks.masks": {"cdropout.albumentations"},
}

pytestmark = pytest.mark.skipif(not (ROOT / "src").exists(), reason="the tests were taken out of the checkout")


def modules_below(folder, *within):
    """Return the name of each Python module in parts of a folder, and its text."""
    found = {}
    for file in sorted(file for part in within for file in (folder / part).rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if "tests" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text(encoding="utf-8")
    return found


def compiled_modules():
    """Return the name of each compiled module, and its imports of Python modules."""
    found = {}
    for file in sorted((ROOT / "src").glob("*.pyx")):
        text = file.read_text(encoding="utf-8")
        texts = [text, *((ROOT / "src" / name).read_text() for name in re.findall(r'^include "(.+)"', text, re.M))]
        imports = r"^ *((?:from cdropout[\w.]*|import cdropout[\w.]*)(?: import (?:\([^)]*\)|.*))?)$"
        found[f"cdropout.{file.stem}"] = "\n".join(re.findall(imports, "\n".join(texts), re.M))
    return found


def is_import_by_name(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module")


def names_imported(node, package):
    """Return the names of modules that a statement or call may import, the longest of each import first."""
    if isinstance(node, ast.Import):
        return [(alias.name,) for alias in node.names]
    if is_import_by_name(node) and isinstance(node.args[0], ast.Constant):
        return [(node.args[0].value,)]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
    source = ".".join([*parents, *([node.module] if node.module else [])])
    return [(f"{source}.{alias.name}", source) for alias in node.names]


def names_no_module(text):
    """Return whether a module imports others by names that are not constants."""
    calls = [node for node in ast.walk(ast.parse(text)) if is_import_by_name(node)]
    return not all(isinstance(call.args[0], ast.Constant) for call in calls)


def statements_of(tree):
    """Yield the parts of a module that run at some time: not the imports for type checkers alone."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def import_graph(modules, packages, by_name=MappingProxyType({})):
    """Return the modules that each one imports, at any time.

    That a module imports the packages in which it is does not count. Packages import modules of theirs to show them.
    """
    graph = {}
    for name, text in modules.items():
        package = name if name in packages else name.rpartition(".")[0]
        meant = [each for node in statements_of(ast.parse(text)) for each in names_imported(node, package)]
        found = {next((each for each in names if each in modules), None) for names in meant}
        graph[name] = ((found | by_name.get(name, set())) & modules.keys()) - {name}
    return graph


def cycle_of(graph):
    """Return the modules of one cycle, and the first again at the end; or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def test_no_module_imports_itself_through_others():
    modules = compiled_modules()
    for folder, parts in SEARCHED.items():
        modules |= modules_below(folder, *parts)
    packages = {name.rpartition(".")[0] for name in modules}
    graph = import_graph(modules, packages, BY_NAME)
    assert cycle_of(graph) == []
    assert {name for name, text in modules.items() if names_no_module(text)} == BY_NAME.keys()
    assert set().union(*BY_NAME.values()) <= modules.keys()
    # Some imports that the graph must contain: at top level, in functions, of packages, of and in compiled modules.
    assert graph["cdropout._kernels"] >= {"cdropout.machine", "cdropout.checks", "cdropout.display"}
    assert graph["cdropout.bit_generator"] >= {"cdropout._kernels", "cdropout.stream"}
    assert graph["cdropout"] >= {"cdropout.layers", "cdropout.mask", "cdropout._kernels"}
    assert graph["cdropout.torch.tensors"] >= {"cdropout.torch.between_graphs", "cdropout._kernels"}
    assert "digit_network" in graph["masks"]
    assert "cdropout" in graph["benchmarks.masks"]


@pytest.mark.parametrize(
    "statement",
    [
        *("import a.b", "from a import b", "from a.b import name", "from . import b", "from .b import name"),
        *("def call():\n    from a import b", "class C:\n    def call(self):\n        import a.b"),
        *("try:\n    from a import b\nexcept ImportError:\n    pass", "importlib.import_module('a.b')"),
    ],
)
def test_a_cycle_is_found(statement):
    modules = {"a": "", "a.b": "from a import c", "a.c": statement}
    graph = import_graph(modules, {"a"})
    assert graph == {"a": set(), "a.b": {"a.c"}, "a.c": {"a.b"}}
    cycle = cycle_of(graph)
    assert set(cycle) == {"a.b", "a.c"}
    assert cycle[0] == cycle[-1]


def test_imports_for_type_checkers_make_no_cycle():
    modules = {
        "a": "",
        "a.b": "from a import c",
        "a.c": "if TYPE_CHECKING:\n    from a import b\nelse:\n    import a.d",
    }
    graph = import_graph({**modules, "a.d": ""}, {"a"})
    assert graph["a.c"] == {"a.d"}
    assert cycle_of(graph) == []
