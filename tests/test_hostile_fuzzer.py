"""The short form of the fuzzer of hostile arguments, tests/hostile_arguments.py, and what the fuzzer itself notices."""

import json
import os
import re
from pathlib import Path

import hostile_arguments
import hostile_values
import pytest
from conftest import measures_the_process

needs_posix = pytest.mark.skipif(os.name != "posix", reason="the program forks, and sets timers for signals")
PROGRAM = Path(__file__).with_name("hostile_arguments.py")

pytestmark = measures_the_process


def reaction(*actions):
    return {"from": 1, "do": [list(action) for action in actions], "then": ["honest"]}


def case_of(call, moments=(), **arguments):
    return {
        "call": call,
        "arguments": arguments,
        "moments": list(moments),
        "variant": 0,
        "big": True,
        "dtype": "float32",
    }


@needs_posix
def test_hostile_arguments_do_not_crash_the_process(run_python):
    done = run_python(str(PROGRAM), "8", "1", check=False)
    report = done.stdout.decode()
    print(report)
    assert done.returncode == 0, report + done.stderr.decode()
    assert int(re.match(r"(\d+) calls", report)[1]) >= 100
    for word in ("result", "ValueError", "TypeError", "shrink", "free"):
        assert f"    {word} " in report


def test_every_public_function_class_and_method_is_called(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # no windows
    called = hostile_arguments.targets()
    for name in hostile_arguments.public_objects():
        assert name in called
    for name in ("dropout", "mc_predict", "Mask.apply", "Noise.add", "Stream.fold_in", "Zoneout.forward"):
        assert called[name].parameters
    for name in ("Stream.state=", "Dropout.p=", "Dropout.shared_axes=", "nnfs.Layer_Dropout.backward"):
        assert name in called


def test_a_new_parameter_must_be_given_values():
    def function(x, unheard_of):
        pass

    with pytest.raises(LookupError, match="PARAMETERS must have a row for unheard_of, a parameter of new"):
        hostile_arguments.parameters_of(function, "new")


def seen(run_python, case, change):
    """Return what the program prints about a case that fails after a change of the fuzzer."""
    program = f"""
import ctypes, sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import hostile_arguments, hostile_values
import numpy as np, cdropout as cd
{change}
hostile_arguments.print_smallest({case!r})
"""
    return run_python("-c", program).stdout.decode()


@needs_posix
def test_a_crash_is_seen_and_its_case_is_made_smaller(run_python):
    moments = [["event", 0, [["shrink", 0]]], ["threads", 3, [["write", 0]]]]
    case = case_of("dropout", moments, p=["float", 0.5, {"__float__": reaction(("shrink", 0), ("move", 0))}])
    change = "hostile_values.ACTIONS['shrink'] = lambda scene, i: ctypes.string_at(0)"
    report = seen(run_python, case, change)
    assert "Segmentation fault" in report
    found = json.loads(report.rsplit("--case '", 1)[1].rstrip()[:-1])
    assert len(found["moments"]) + len(found["arguments"]) == 1
    assert "shrink" in json.dumps(found)
    assert "move" not in json.dumps(found)
    assert not found["big"]


@needs_posix
@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ("scene.guarded[0][0][0] = 0", "bytes beside an array have been written"),
        ("scene.arrays[1][0, 0] = 7; raise ValueError", "out has changed"),
        ("cd.draw_mask(5, 0.5, rng=scene.stream); raise ValueError", "the stream has advanced"),
        ("hostile_arguments.X[0] = 1", "a plain call gives other bits"),
        ("raise SystemError('broken')", "an error of the kind SystemError"),
    ],
)
def test_what_a_call_must_not_do_is_seen(run_python, change, noticed):
    case = {**case_of("dropout", out=["array", "guarded", {}]), "big": False}
    program = f"""
def call_of(target, scene, values):
    def call():
        {change}
    return call
before = hostile_arguments.prepare
def prepare(*names):
    before(*names)
    hostile_arguments.call_of = call_of
hostile_arguments.prepare = prepare
"""
    assert noticed in seen(run_python, case, program)


def test_each_action_and_moment_is_among_the_cases():
    assert {*hostile_values.ARRAY_ACTIONS, *hostile_values.OTHER_ACTIONS} <= set(hostile_values.ACTIONS)
    assert set(hostile_values.ACTIONS) == {
        *(*hostile_values.ARRAY_ACTIONS, *hostile_values.OTHER_ACTIONS, "retype", "release", "forget", "draw")
    }
