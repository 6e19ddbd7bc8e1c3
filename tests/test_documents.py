"""The pages' examples work as they are shown: Python is run, commands are run or checked, links have targets.

- Python blocks of a page run in order, in one namespace, in a separate process and folder. A block with prompts
  (`>>>`) must print the output that it shows; the other blocks assert what they claim.
- Commands in `sh` and `console` blocks are run if they are quick (`QUICK`). For the others, and for those within lines
  of text, files must exist, options must be in the `--help` of the program, and extras in pyproject.toml.
- Blocks in other languages are listed, with the reason why they are not run (`NOT_RUN`).
- A page whose blocks make more than one program has a separate test, which runs all of it (`OWN_TESTS`).
"""

import doctest
import functools
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

pages = pytest.importorskip("pages", reason="markdown-it-py is not installed")
ROOT = pages.ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the tests were taken out of the checkout")

NOT_RUN = {
    "": "listings, formulas, folder trees and records of the command that made a page",
    "{eval-rst}": "the reference: building the site runs it",
    "{include}": "a part of the site: building the site runs it",
    "{toctree}": "a part of the site: building the site runs it",
}
SHELL = ("sh", "console")

# Commands that take no time and write nothing outside the folder they run in.
QUICK = (
    r"python -m cdropout( --json| --version)?",
    r"python -m cdropout stream --seed \d+ --bytes \d{1,7} > \w+\.bin",
)

# Programs of other projects, whose arguments are not checked.
FOREIGN = {
    ".": "activates an environment",
    "./choice": "what the compiler made in the same line",
    "dieharder": "takes hours; Debian has it",
    "RNG_test": "PractRand's program, which no package index has",
    "./testu01": "what the compiler made in the line before; no package index has TestU01",
    "sphinx-build": "tests/test_site.py runs it",
}

# Page -> its separate test, whose text must name the page.
OWN_TESTS = {"docs/c_api.md": "test_c_api.py", "docs/scaling_out.md": "test_data_parallel.py"}

PAGES = pages.all_pages()


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def own_test(page):
    """Return the separate test that runs a page's blocks, None if there is none."""
    test = ROOT / "tests" / OWN_TESTS.get(name_of(page), "no such test")
    return test if test.exists() else None


RUN_HERE = [page for page in PAGES if own_test(page) is None]


def test_a_page_with_a_separate_test_is_read_by_it():
    assert OWN_TESTS.keys() <= set(map(name_of, PAGES))
    for page in filter(own_test, PAGES):
        assert name_of(page) in own_test(page).read_text()


def languages(page):
    return {block.language for block in pages.blocks_of(page)}


@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
def test_every_block_is_run_or_listed_with_a_reason(page):
    for block in pages.blocks_of(page):
        assert block.language in ("python", *SHELL) or block.language in NOT_RUN, (
            f"{block}: a block of language {block.language!r} must be run, or listed in NOT_RUN with the reason"
        )


# ---- Python ---------------------------------------------------------------------------------------------------------

# The pages whose code needs the packages that .ci/run installs.
OF_FRAMEWORKS = ("docs/augmentation.md", "docs/frameworks.md", "docs/jax.md", "docs/keras.md", "docs/pytorch.md")
WITH_PYTHON = [
    pytest.param(page, marks=pytest.mark.ci if name_of(page) in OF_FRAMEWORKS else (), id=name_of(page))
    for page in RUN_HERE
    if "python" in languages(page)
]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_order(page, tmp_path):
    # The tested library is first on the path: the page's folder has none, and a checkout's has no compiled core.
    command = [sys.executable, "-P", str(ROOT / "tests/pages.py"), str(page), "skipped.json"]
    run = pages.run(command, tmp_path, 300, MPLBACKEND="agg")
    assert run.returncode == 0, run.stderr
    if skipped := json.loads((tmp_path / "skipped.json").read_text()):
        pytest.skip("all but: " + "; ".join(skipped))


def test_the_pages_that_newcomers_read_have_python_in_them():
    names = {name_of(page) for page in PAGES if "python" in languages(page)}
    docs = ("getting_started", "layers", "pytorch", "networks", "reproducibility", "loops", "c_api", "scaling_out")
    assert {"README.md", *(f"docs/{name}.md" for name in docs)} <= names


# ---- commands -------------------------------------------------------------------------------------------------------


def is_quick(line):
    return any(re.fullmatch(pattern, line) for pattern in QUICK)


LINES = [
    pytest.param(line, output, id=f"{block}: {line}")
    for page in RUN_HERE
    for block in pages.blocks_of(page)
    if block.language in SHELL
    for line, output in pages.command_lines(block)
]
INLINE = [
    pytest.param(token.content, id=f"{name_of(page)}: {token.content}")
    for page in RUN_HERE
    for token in pages.inline_tokens(page, "code_inline")
    if re.match(r"(?:[A-Z_]+=\S* )*(?:python|pip|pytest|cc) ", token.content)
]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(("line", "output"), [param for param in LINES if is_quick(param.values[0])])
def test_quick_commands_print_what_the_page_shows(line, output, tmp_path):
    command = ["bash", "-euo", "pipefail", "-c", f'python() {{ "$THIS_PYTHON" "$@"; }}\n{line}']
    run = pages.run(command, tmp_path, 60, THIS_PYTHON=sys.executable)
    assert run.returncode == 0, run.stderr
    if output:
        assert doctest.OutputChecker().check_output(output, run.stdout, doctest.ELLIPSIS), run.stdout


@pytest.mark.parametrize(
    "line", [pytest.param(p.values[0], id=p.id) for p in LINES if not is_quick(p.values[0])] + INLINE
)
def test_commands_name_what_exists(line):
    for command in pages.simple_commands(line):
        check_command(command)


def check_command(words):
    """Fail if a simple command names anything that does not exist, or a program that cannot be checked."""
    program, *arguments = words
    if program in ("python", "python3"):
        check_python(arguments)
    elif program == "pip":
        assert arguments[0] == "install"
        check_requirements([word for word in arguments[1:] if not word.startswith("-")])
    elif program in ("pytest", "cc"):
        for word in arguments:
            assert "." not in word or word.startswith("-") or (ROOT / word.partition("::")[0]).exists(), word
    elif program.startswith(".ci/"):
        assert (ROOT / program).exists()
    else:
        assert program in FOREIGN, f"{program} must be checked, or listed in FOREIGN with the reason"


def check_python(arguments):
    if not arguments or not arguments[0].startswith("-m"):
        script = arguments[0]
        assert (ROOT / script).is_file(), script
        check_options((script,), arguments[1:])
    elif arguments[1] in ("benchmarks", "cdropout"):
        has_command = arguments[2:] and not arguments[2].startswith("-") and not arguments[2].isupper()
        called = ("-m", arguments[1], *arguments[2 : 2 + bool(has_command)])
        help_of(called)  # fails for a command that does not exist
        check_options(called, arguments[len(called) :])
    else:
        module = arguments[1].partition(".")[0]
        assert module in sys.stdlib_module_names or module in packages_of_extras(), f"python -m {module}"


def check_options(called, arguments):
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    if not options:
        return
    known = set(re.findall(r"--[a-z][a-z0-9-]*", help_of(called)))
    assert options <= known, f"{' '.join(called)} has no {', '.join(sorted(options - known))}"


@functools.cache
def help_of(called):
    # A checkout's source folder has no compiled core, and must not precede the installed package on the path.
    options = ["-P"] if called[:2] == ("-m", "cdropout") else []
    run = pages.run([sys.executable, *options, *called, "--help"], ROOT, 120)
    missing = re.search(r"No module named '(\w+)", run.stderr)
    if run.returncode != 0 and missing and missing[1] in pages.OPTIONAL_PACKAGES:
        pytest.skip(f"{' '.join(called)} needs {missing[1]}")
    assert run.returncode == 0, run.stderr
    return run.stdout


@functools.cache
def extras():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def packages_of_extras():
    return {re.match(r"[\w-]+", requirement)[0] for requirements in extras().values() for requirement in requirements}


def check_requirements(requirements):
    for requirement in requirements:
        ours = re.fullmatch(r"(?:\.|cdropout|path/to/cdropout)(?:\[([\w,]+)\])?", requirement)
        if ours:
            assert set(filter(None, (ours[1] or "").split(","))) <= extras().keys(), requirement
        else:
            assert re.match(r"[\w-]+", requirement)[0] in packages_of_extras() | {"numpy"}, requirement


# ---- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "LICENSE").exists(), reason="not all of the checkout is here")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_images_lead_to_files(page):
    links = [token.attrGet("href") for token in pages.inline_tokens(page, "link_open")]
    images = [token.attrGet("src") for token in pages.inline_tokens(page, "image")]
    for target in links + images:
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


# ---- the checks themselves ------------------------------------------------------------------------------------------


def write_page(folder, *blocks):
    page = folder / "page.md"
    page.write_text("\n\n".join(f"text\n\n```python\n{block}\n```" for block in blocks))
    return page


@pytest.fixture
def inside(monkeypatch, tmp_path):
    """A folder that serves as the root of the checkout."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    return tmp_path


def test_a_wrong_output_fails_with_the_line_of_the_page(inside):
    page = write_page(inside, "x = 1", ">>> x\n1\n>>> x + 1\n3")
    with pytest.raises(AssertionError, match=rf"{re.escape(str(page))}:12: x \+ 1\nmust print\n3\nand printed\n2"):
        pages.run_page(page)


def test_an_error_fails_with_the_line_of_the_page(inside):
    page = write_page(inside, "x = 1", "y = 2\nassert x == y")
    with pytest.raises(AssertionError) as caught:
        pages.run_page(page)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 11)


def test_what_a_missing_package_is_needed_for_is_skipped_and_the_rest_is_run(inside, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    page = write_page(
        inside, "import ray\nx = ray.get()", "z = 3", "y = x + 1", ">>> y\n4", "x = 1", "assert x + z == 4"
    )
    assert pages.run_page(page) == [f"page.md:{line} needs ray" for line in (4, 17, 23)]


def test_a_missing_package_that_is_not_optional_fails(inside):
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        pages.run_page(write_page(inside, "import no_such_package"))


@pytest.mark.parametrize(
    "line",
    [
        "python examples/no_such_file.py",
        "python examples/masks.py --no-such-option 3",
        "python -m benchmarks no-such-question",
        "python -m benchmarks floor --no-such-option 3",
        "python -m cdropout bench --no-such-option",
        "python -m no_such_module",
        'pip install ".[no_such_extra]"',
        "pip install no-such-requirement",
        "pytest tests/no_such_test.py",
        "no-such-program --help",
    ],
)
def test_a_command_that_names_what_is_not_there_is_found(line):
    with pytest.raises(AssertionError):
        test_commands_name_what_exists(line)


def test_command_lines_are_split_as_a_shell_does():
    line = "A=1 python -m x --seed 1 > raw.bin && cat 'a b' | wc -l"
    assert pages.simple_commands(line) == [["python", "-m", "x", "--seed", "1"], ["cat", "a b"], ["wc", "-l"]]
    block = pages.Block(Path("page.md"), 1, "console", "$ one \\\n  two\nout\n$ three\n")
    assert pages.command_lines(block) == [("one    two", "out\n"), ("three", "")]
