"""Stream version 1 never changes: 64 digests of masks, results and noise, frozen with it."""

import hashlib
import json
import runpy

import frozen_cases
import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels

FROZEN = frozen_cases.frozen_digests()
# SHA-256 of all digests in the file's order, so that the file cannot change together with the library and its model.
SHA256_OF_ALL = "c0c00e1e0b9ea08f6108bc651cb5a17bc260f1504372f0fbe0595d49ab80c1bd"


def library_result(case):
    """Return the library's result for a case, from public functions if there are any."""
    if case.operation == "raw":
        return _kernels.raw_blocks(case.key, case.start // 4096, case.shape[0] // 8192)
    mask = cd.Mask(case.key, case.start, case.p, case.shape, case.shared_axes)
    if case.operation == "keep":
        return mask.keep()
    x, residual, bias = case.inputs()
    noise = cd.Noise(case.key, case.start, frozen_cases.STD, case.shape)
    stream = cd.Stream(0)
    stream._place(case.key, case.start)
    alpha = {"scale": frozen_cases.SCALE, "shift": frozen_cases.SHIFT, "fill": frozen_cases.FILL}
    return {
        "apply_mask": lambda: mask.apply(x),
        "fill_scaled": lambda: mask.scaled(x.dtype),
        "relu_dropout": lambda: cd.relu_dropout(x, case.p, rng=stream),
        "bias_relu_dropout": lambda: cd.bias_relu_dropout(x, bias, case.p, rng=stream),
        "dropout_add": lambda: cd.dropout_add(x, residual, case.p, rng=stream),
        "bias_dropout_add": lambda: cd.bias_dropout_add(x, bias, residual, case.p, rng=stream),
        "choose": lambda: cd.zoneout(x, residual, case.p, rng=stream),
        "alpha_dropout": lambda: mask.apply(x, **alpha),
        "add_noise": lambda: noise.add(x),
        "multiply_by_noise": lambda: noise.multiply(x),
    }[case.operation]()


def test_the_frozen_digests_are_the_ones_that_were_frozen():
    assert len(FROZEN) == len(set(FROZEN.values())) == 64
    assert hashlib.sha256("".join(FROZEN.values()).encode()).hexdigest() == SHA256_OF_ALL


@pytest.mark.promise("frozen-stream")
def test_stream_version_1_never_changes(isa):
    for case, sha256 in FROZEN.items():
        result = library_result(case)
        assert result.shape == case.shape, case
        assert result.dtype.name == case.dtype, case
        assert frozen_cases.digest(result) == sha256, case


def test_the_frozen_digests_are_what_their_program_makes_of_the_model():
    made = runpy.run_path(str(frozen_cases.DIGESTS.parent / "make_vectors.py"))["frozen_digests"]()
    assert json.loads(json.dumps(made)) == json.loads(frozen_cases.DIGESTS.read_text())


def test_the_frozen_cases_cover_every_operation_dtype_and_kind_of_place():
    operations = {case.operation for case in FROZEN}
    assert operations == {"raw", "keep", "apply_mask", "fill_scaled", "alpha_dropout", *frozen_cases.FUSED} | {
        "add_noise",
        "multiply_by_noise",
    }
    for dtype in frozen_cases.DTYPES:
        assert len({case.operation for case in FROZEN if case.dtype == dtype}) >= 6, dtype
    assert {case.key for case in FROZEN} == set(frozen_cases.KEYS)
    assert {case.p for case in FROZEN} == set(frozen_cases.PROBABILITIES)
    assert {case.start for case in FROZEN} >= set(frozen_cases.STARTS)
    assert {case.shared_axes for case in FROZEN} == {(), (0,), (1,), (0, 2)}


def test_the_inputs_are_finite_and_of_both_signs_with_zeros_and_subnormal_numbers_among_them():
    for dtype in frozen_cases.DTYPES:
        values = frozen_cases.numbers(dtype, 15_000, salt=1)
        _, bias = frozen_cases.FORMATS[dtype]
        exact = values.astype(np.float64)
        assert np.isfinite(exact).all()
        assert np.count_nonzero(exact > 0) > 7000
        assert np.count_nonzero(exact < 0) > 7000
        assert np.count_nonzero((exact != 0) & (np.abs(exact) < 2.0 ** (1 - bias))) > 200
        zeros = values[exact == 0]
        assert {bool(sign) for sign in np.signbit(zeros.astype(np.float64))} == {True, False}
