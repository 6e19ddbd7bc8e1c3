"""The release's workflow and conda-forge's recipe."""

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cdropout as cd

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipe/recipe.yaml"

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not RECIPE.exists(), reason="the tests were taken out of the checkout"),
]

# As conda-forge's pinning has them.
VARIANTS = {
    "python": ["3.11.* *_cpython", "3.12.* *_cpython", "3.13.* *_cp313", "3.14.* *_cp314"],
    "c_stdlib": ["sysroot"],
    "c_compiler": ["vs2022"],
}
PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_recipe_renders_to_a_package_for_each_python(platform):
    rattler_build = pytest.importorskip("rattler_build")
    recipe = rattler_build.Stage0Recipe.from_file(RECIPE)
    builder = "linux-64" if platform == "linux-aarch64" else platform
    of_system = {"target_platform": platform, "host_platform": platform, "build_platform": builder}
    for_platform = rattler_build.PlatformConfig(**of_system)
    variants = dict(VARIANTS)
    if not platform.startswith("win"):
        del variants["c_compiler"]
    rendered = recipe.render(rattler_build.VariantConfig(variants), rattler_build.RenderConfig(for_platform))
    recipes = [variant.recipe.to_dict() for variant in rendered]
    assert len(recipes) == len(VARIANTS["python"])
    for made in recipes:
        assert made["package"] == {"name": "cdropout", "version": cd.__version__}
        build = str(made["requirements"]["build"])
        assert ("clang" in build.replace("clang_", "")) == platform.startswith("win")
        assert ("cross-python" in build) == ("aarch64" in platform)
        script = str(made["build"]["script"])
        assert "-m pip install" in script
        assert ("CDROPOUT_OPENMP=1" in script) == platform.startswith("linux")
        assert ("CC=clang-cl" in script) == platform.startswith("win")


def test_the_recipe_for_a_release_has_its_version_checksum_and_maintainers(tmp_path):
    sdist = tmp_path / "cdropout-12.3.4.tar.gz"
    sdist.write_bytes(b"the bytes of an sdist")
    command = [sys.executable, RECIPE.with_name("for_release.py"), sdist, "first-account", "second-account"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    given = RECIPE.read_text().splitlines()
    changed = [line for line in printed.splitlines() if line not in given]
    assert changed == [
        '  version: "12.3.4"',
        f'  sha256: "{hashlib.sha256(sdist.read_bytes()).hexdigest()}"',
        "    - first-account",
        "    - second-account",
    ]
    left_out = [line for line in given if line not in printed.splitlines()]
    assert [line for line in left_out if not line.startswith("#")] == [
        f'  version: "{cd.__version__}"',
        f'  sha256: "{"0" * 64}"',
        "    - cdropout-developers",
    ]
    command[2] = tmp_path / "another-1.tar.gz"
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "sdist must be named cdropout-VERSION.tar.gz, got another-1.tar.gz" in refused.stderr


def test_the_recipe_has_the_requirements_of_the_project():
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["build-system"]["requires"]
    text = RECIPE.read_text()
    host = text[text.index("  host:") : text.index("  run:")]
    for package in needed:
        name, _, version = package.partition(">=")
        assert f"- {name.lower()}" in host
        assert f"- {name.lower()} >={version}" in host or name == "numpy"  # conda-forge pins NumPy itself


@pytest.mark.parametrize(
    ("system", "processors", "n_wheels"),
    [("linux", "x86_64,aarch64", 20), ("windows", "AMD64,ARM64", 10), ("macos", "x86_64,arm64", 10)],
)
def test_the_workflow_builds_wheels_for_every_python_system_and_processor(system, processors, n_wheels):
    pytest.importorskip("cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", system]
    command += ["--archs", processors, str(ROOT)]
    wheels = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert len(wheels) == n_wheels
    assert {wheel.partition("-")[0] for wheel in wheels} == {"cp311", "cp312", "cp313", "cp314", "cp314t"}
    workflow = (ROOT / ".github/workflows/wheels.yml").read_text()
    for processor in processors.split(","):
        assert f"system: {system}, runs-on: " in workflow
        assert f"arch: {processor} }}" in workflow
