"""Hostile arguments do not crash the process: the short form of hostile_arguments.py, which docs/quality.md describes."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("hostile_arguments.py")
EVERY_MOMENT = [[moment, 5, [["shrink", 0]]] for moment in ("collection", "event", "signal")]


def case(call, moments=(), **arguments):
    return json.dumps(
        {
            "call": call,
            "arguments": arguments,
            "moments": list(moments),
            "variant": 0,
            "big": True,
            "dtype": "float32",
        }
    )


def reacts(*actions):
    return {"from": 1, "do": [list(action) for action in actions], "then": ["honest"]}


def test_hostile_arguments_of_every_public_name_do_not_crash_the_process(run_python):
    done = run_python(str(PROGRAM), "6", "1", check=False)
    report = done.stdout.decode()
    assert done.returncode == 0, report + done.stderr.decode()
    print(report)
    assert int(re.match(r"(\d+) calls", report)[1]) > 20  # on a machine with much else to do
    for word in ("result", "ValueError", "TypeError", "shrink"):
        assert f"    {word} " in report


@pytest.mark.parametrize("action", ["shrink", "free", "grow", "move", "reshape", "freeze", "stride"])
def test_a_generator_that_changes_an_array_of_the_call_is_refused(run_python, action):
    rng = ["generator", {"integers": reacts((action, 0))}]
    run_python(str(PROGRAM), "--case", case("dropout", rng=rng))


def test_a_crash_is_seen_and_its_case_is_made_smaller(run_python):
    crashing = {**json.loads(case("dropout", EVERY_MOMENT)), "call": "dropout"}
    program = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r})\n"
        "import ctypes, hostile_arguments, hostile_values\n"
        "def crash(scene, i): ctypes.string_at(0)\n"
        "hostile_values.ACTIONS['shrink'] = crash\n"
        f"hostile_arguments.print_smallest({crashing!r})"
    )
    report = run_python("-c", program).stdout.decode()
    assert "Segmentation fault" in report
    found = json.loads(report.rsplit("--case '", 1)[1].rstrip()[:-1])
    assert len(found["moments"]) == 1
    assert not found["big"]
