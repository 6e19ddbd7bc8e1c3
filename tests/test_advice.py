"""The advice of `python -m cdropout`: a sentence and a remedy for each fact that makes things worse, and no other."""

import importlib.util
import json
import re

import numpy as np
import pytest

from cdropout import _kernels, environment
from cdropout.advice import advice, instruction_sets

GOOD = {
    "numpy": "2.4.6",
    "instruction_set": {
        "active": "avx2",
        "forced_by": None,
        "available": ["avx2", "sse2", "portable"],
        "built": ["avx512", "avx2", "sse2", "portable"],
        "of_processor": ["avx2", "sse2"],
    },
    "threads": {
        "openmp": {"library": "libgomp.so.1", "path": "/usr/lib/libgomp-of-a-test.so.1"},
        "openmp_runtimes": ["/usr/lib/libgomp-of-a-test.so.1"],
        "serial_because": None,
    },
}


def with_changes(part, **changes):
    """The advice on GOOD with other values in one of its parts."""
    return advice({**GOOD, part: {**GOOD[part], **changes}})


def test_good_facts_need_no_advice():
    assert advice(GOOD) == []


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("asked", "because CDROPOUT_OPENMP was 0 in the build: build again without CDROPOUT_OPENMP."),
        ("compiler", "because the compiler had no OpenMP: install a wheel, or build with CDROPOUT_OPENMP=1 and gcc."),
        ("link", "OpenMP did not link: build with CDROPOUT_OPENMP=1, which shows the error."),
        ("run", "OpenMP did not run: build with CDROPOUT_OPENMP=1, which shows the error."),
        ("unknown", "because the build had no OpenMP: install a wheel, or build with CDROPOUT_OPENMP=1."),
    ],
)
def test_a_serial_build_is_named_with_its_reason(monkeypatch, reason, sentence):
    (said,) = with_changes("threads", openmp=None, serial_because=reason)
    assert said.startswith("Calls use one thread, ")
    assert said.endswith(sentence)
    monkeypatch.setattr(_kernels, "has_openmp", lambda: False)
    monkeypatch.setattr(_kernels, "why_serial", lambda: reason)
    facts = environment.facts()
    assert said in facts["advice"]
    assert f"{said}\n" in environment.describe(facts) + "\n"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"of_processor": ["avx512", "avx2", "sse2"], "built": ["avx2", "sse2", "portable"]},
            "The processor has avx512, and this build has no kernels for it: build with a newer gcc or clang.",
        ),
        (
            {"of_processor": ["avx512", "avx2", "sse2"]},
            "The processor has avx512, which this build does not detect: build it with gcc or clang.",
        ),
        (
            {"active": "portable", "available": ["portable"], "built": ["portable"], "of_processor": ["neon"]},
            "The processor has neon, and this build has no kernels for it: build with a newer gcc or clang.",
        ),
        (
            {"active": "sse2", "forced_by": "CDROPOUT_ISA"},
            "CDROPOUT_ISA forces sse2, and avx2 is faster: unset it.",
        ),
        ({"of_processor": None}, None),
        ({"of_processor": ["avx2"], "built": ["avx2", "portable"], "available": ["avx2", "portable"]}, None),
        ({"available": ["avx2"], "of_processor": ["avx2", "sse2"]}, None),  # a worse one is missing
        ({"forced_by": "CDROPOUT_ISA"}, None),  # the best by name
    ],
)
def test_an_instruction_set_that_is_not_used_is_named(changes, sentence):
    assert with_changes("instruction_set", **changes) == ([] if sentence is None else [sentence])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 f16c avx512f avx512bw avx512dq avx512vl", ["avx512", "avx2", "sse2"]),
        ("flags\t\t: fpu sse2 avx2 f16c avx512f", ["avx2", "sse2"]),
        ("flags\t\t: fpu sse2 avx2", ["sse2"]),  # AVX2 without F16C
        ("Features\t: fp asimd crc32", ["neon"]),
        ("isa\t\t: rv64imafdc", None),
    ],
)
def test_the_systems_list_names_the_instruction_sets(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\nbugs\t\t:\n")
    assert instruction_sets(tmp_path / "cpuinfo") == expected
    assert instruction_sets(tmp_path / "nothing") is None


def test_the_system_and_the_kernels_agree_on_this_machine():
    reported = instruction_sets()
    if reported is None:
        pytest.skip("this system reports no instruction sets")
    assert [name for name in reported if name in _kernels.known_isas()] == [
        name for name in _kernels.supported_isas() if name != "portable"
    ]


def test_other_openmp_runtimes_are_named():
    own, other = "/usr/lib/libgomp-of-a-test.so.1", "/env/sklearn.libs/libgomp-1234.so.1.0.0"
    (said,) = with_changes("threads", openmp_runtimes=[own, other])
    assert said.startswith(
        "The process has other OpenMP runtimes than cdropout's libgomp.so.1: libgomp-1234.so.1.0.0. "
    )
    assert "OMP_NUM_THREADS" in said
    for without in ({"openmp_runtimes": None}, {"openmp_runtimes": []}, {"openmp": None, "openmp_runtimes": [other]}):
        assert with_changes("threads", **without) == []


def test_runtimes_are_read_from_the_systems_list_of_files(tmp_path):
    (tmp_path / "maps").write_text(
        "7f0000000000-7f0000001000 r-xp 00000000 08:01 1    /usr/lib/libgomp.so.1.0.0\n"
        "7f0000001000-7f0000002000 r--p 00001000 08:01 1    /usr/lib/libgomp.so.1.0.0\n"
        "7f0000003000-7f0000004000 rw-p 00000000 00:00 0 \n"
        "7f0000005000-7f0000006000 r-xp 00000000 08:01 2    /opt/with space/libiomp5.so\n"
        "7f0000005000-7f0000006000 r-xp 00000000 08:01 2    /opt/libomp-7a1b.so\n"
        "7f0000007000-7f0000008000 r-xp 00000000 08:01 3    /usr/lib/libompi.so\n"
        "7f0000009000-7f000000a000 r-xp 00000000 00:00 0    [vdso]\n"
    )
    expected = ["/usr/lib/libgomp.so.1.0.0", "/opt/with space/libiomp5.so", "/opt/libomp-7a1b.so"]
    assert environment._openmp_runtimes(tmp_path / "maps") == expected
    assert environment._openmp_runtimes(tmp_path / "nothing") is None


@pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP")
def test_a_runtime_that_an_imported_module_brings_is_found(run_python):
    facts = json.loads(run_python("-m", "cdropout", "--json").stdout)
    if not facts["threads"]["openmp_runtimes"]:
        pytest.skip("this system does not list the files of a process")
    assert not [said for said in facts["advice"] if "runtimes" in said]
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn, whose wheel contains a runtime")
    shown = run_python("-m", "cdropout", "--import", "sklearn.metrics", "--json").stdout
    others = [path for path in json.loads(shown)["threads"]["openmp_runtimes"] if "scikit_learn" in path]
    if not others:
        pytest.skip("this scikit-learn contains no runtime")
    assert any("OpenMP runtimes" in said and "libgomp" in said for said in json.loads(shown)["advice"])


def test_a_module_that_cannot_be_imported_is_an_error(run_python):
    run = run_python("-m", "cdropout", "--import", "no_such_module", check=False)
    assert run.returncode == 2
    assert b"error: argument --import: No module named 'no_such_module'" in run.stderr


@pytest.mark.parametrize(("version", "is_old"), [("2.0.0", True), ("2.0.2", True), ("2.1.0", False), ("2.10.0", False)])
def test_an_old_numpy_is_named(monkeypatch, version, is_old):
    expected = [
        f'NumPy {version} cannot write to objects that share their memory by DLPack alone: pip install "numpy>=2.1".'
    ]
    assert advice({**GOOD, "numpy": version}) == expected * is_old
    monkeypatch.setattr(np, "__version__", version)
    facts = environment.facts()
    assert [said for said in facts["advice"] if said.startswith("NumPy")] == expected * is_old


def test_the_text_has_each_sentence_in_a_line():
    facts = {**environment.facts(), "advice": ["First.", "Second."]}
    assert re.search(r"\nadvice +First\.\n +Second\.$", environment.describe(facts))
    assert "\nadvice" not in environment.describe({**facts, "advice": []})
