"""dieharder (R. G. Brown) on the raw stream, the first word of every block, and 8192 interleaved streams.

Debian's package `dieharder` has the program. It judges each p-value: FAILED below 1e-6 from either end, WEAK below
0.005. With -Y 1 it draws more until a WEAK test has passed or failed, so that a perfect generator fails here with
probability of about 1e-4 in all. Seeds are fixed.
"""

import shutil
import subprocess
import time
from typing import NamedTuple

import pytest
from randomness import INPUTS

SEED = 1
MAX_SECONDS = 3600  # for one test on one input

# The tests that dieharder -l calls good, with the ntuples of its option -a except the longest lags. It calls tests
# 5, 6 and 7 suspect, and advises against 14.
WITHOUT_NTUPLE = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 17, 100, 101, 102, 204, 205)
TESTS = (
    *((number, None) for number in WITHOUT_NTUPLE),
    *((200, n) for n in range(1, 13)),
    *((number, n) for number in (201, 202) for n in range(2, 6)),
    *((203, n) for n in (0, 1, 2, 4, 8)),
    *((206, 256), (207, 32), (208, 0), (209, 12)),  # 208 runs both of its ntuples, and crashes if one is given
)
# Tests for the other two inputs, whose words take longer to generate.
FEWER_TESTS = (*((number, None) for number in WITHOUT_NTUPLE), (200, 2), (202, 3), (203, 0))
BIRTHDAYS = 0  # the test that reads least, at most 20 MB


class Verdict(NamedTuple):
    """One p-value of a test."""

    test: str
    ntuple: int
    n_samples: int
    p_value: float
    assessment: str


def verdicts(words, number, ntuple):
    """Return a dieharder test's p-values for an endless sequence of words, ordered by their numbers of samples."""
    command = ["dieharder", "-g", "200", "-d", str(number), "-Y", "1", "-k", "2", "-c", ","]
    command += [] if ntuple is None else ["-n", str(ntuple)]
    for field in ("test_name", "ntuple", "psamples", "pvalues", "assessment"):
        command += ["-D", field]
    deadline = time.monotonic() + MAX_SECONDS
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            for chunk in words:
                left = memoryview(chunk.tobytes())
                while left:
                    left = left[process.stdin.write(left) :]
                if time.monotonic() > deadline:
                    process.kill()
        except BrokenPipeError:
            pass  # dieharder has read enough and closed the pipe
        printed = process.stdout.read().decode()
    assert process.returncode == 0
    return [parsed(line) for line in printed.splitlines() if line.count(",") == 4 and "test_name" not in line]


def parsed(line):
    name, ntuple, n_samples, p_value, assessment = (field.strip() for field in line.split(","))
    return Verdict(name, int(ntuple), int(n_samples), float(p_value), assessment)


def cases():
    for name in INPUTS:
        for number, ntuple in TESTS if name == "raw" else FEWER_TESTS:
            if number != BIRTHDAYS:
                case_id = f"{name}-{number}" + ("" if ntuple is None else f"-{ntuple}")
                yield pytest.param(name, number, ntuple, id=case_id)


@pytest.mark.ci
@pytest.mark.parametrize("name", INPUTS)
def test_dieharders_birthdays_find_nothing(name):
    check(name, BIRTHDAYS, None)


@pytest.mark.promise("independent-drops")
@pytest.mark.deep
@pytest.mark.parametrize(("name", "number", "ntuple"), list(cases()))
def test_dieharder_finds_nothing(name, number, ntuple):
    check(name, number, ntuple)


def check(name, number, ntuple):
    if shutil.which("dieharder") is None:
        pytest.skip("dieharder is not installed")
    found = verdicts(INPUTS[name](SEED), number, ntuple)
    for verdict in found:
        print(*verdict)
    assert found
    last_samples = max(verdict.n_samples for verdict in found)
    assert {verdict.assessment for verdict in found if verdict.n_samples == last_samples} == {"PASSED"}


@pytest.mark.ci
def test_dieharder_sees_a_defect():
    """The raw stream with the lowest bit of every second word cleared."""
    if shutil.which("dieharder") is None:
        pytest.skip("dieharder is not installed")

    def spoilt():
        for words in INPUTS["raw"](SEED):
            words[::2] &= ~words.dtype.type(1)
            yield words

    assert "FAILED" in {verdict.assessment for verdict in verdicts(spoilt(), 200, 1)}
