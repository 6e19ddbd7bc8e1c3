"""Steps of optimizers (src/update.pxi): the bits of the formulas in NumPy, and arguments that are refused."""

import itertools
import pickle
import re
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from limits import by_every_thread_count, limits

from cdropout import _kernels, compact, networks
from cdropout.compact import KeepWords, gather_kept, scatter_kept

RULES = ("momentum", "nesterov", "adam")
DTYPES = (np.float32, np.float64)
NUMBERS = {
    "decay_first": 0.9,
    "add_first": 0.1,
    "decay_second": 0.999,
    "add_second": 0.001,
    "eps": 1e-8,
    "factor": -0.03,
}

# ---- the formulas ---------------------------------------------------------------------------------------------------


def expected_step(rule, arrays, l2=0.0, **numbers):
    """Return parameter, first and second after a step, with one rounding for each operation, in the arrays' dtype."""
    param, grad, first, second = arrays
    n = {name: param.dtype.type(number) for name, number in {**NUMBERS, "l2": l2, **numbers}.items()}
    with np.errstate(all="ignore"):
        g = grad + param * n["l2"] if l2 else grad
        step = g * n["add_first"]
        first = first * n["decay_first"] + step
        direction = first
        if rule == "adam":
            second = second * n["decay_second"] + g * g * n["add_second"]
            direction = first / (np.sqrt(second) + n["eps"])
        return (param + step if rule == "nesterov" else param) + direction * n["factor"], first, second


def take_step(rule, arrays, l2=0.0, kept=None, **numbers):
    """Make a step in place."""
    param, grad, first, second = arrays
    numbers = {**NUMBERS, **numbers}
    if rule == "adam":
        _kernels.step_adam(param, grad, first, second, l2=l2, kept=kept, **numbers)
        return
    _kernels.step_momentum(
        param,
        grad,
        first,
        momentum=numbers["decay_first"],
        add=numbers["add_first"],
        factor=numbers["factor"],
        l2=l2,
        is_nesterov=rule == "nesterov",
        kept=kept,
    )


def random_arrays(shape, dtype, seed=0):
    """Return a parameter, gradient, first and second of random numbers, the last of them squares."""
    rng = np.random.default_rng(seed)
    param, grad, first, second = (rng.standard_normal(shape).astype(dtype) for _ in range(4))
    return [param, grad, first, second * second]


def assert_same_bits(found, expected):
    """Assert that arrays have the same bits, and NaN at the same places: the bits of NaN depend on the processor."""
    assert found.dtype == expected.dtype
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    integers = f"u{found.itemsize}"
    assert np.array_equal(np.nan_to_num(found, nan=0.0).view(integers), np.nan_to_num(expected, nan=0.0).view(integers))


def assert_updated(arrays, expected, grad):
    for found, wanted in zip((arrays[0], *arrays[2:]), expected, strict=True):
        assert_same_bits(found, wanted)
    assert arrays[1].tobytes() == grad.tobytes()


SIZES = (*range(20), 31, 33, 64, 127, 1000, 4097)


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_steps_have_the_bits_of_the_formulas(isa, rule, dtype, l2):
    for n_elems in SIZES:
        arrays = random_arrays(n_elems, dtype, seed=n_elems)
        for _ in range(2):
            expected, grad = expected_step(rule, arrays, l2), arrays[1].copy()
            take_step(rule, arrays, l2)
            assert_updated(arrays, expected, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_special_values_have_the_bits_of_the_formulas(isa, rule, dtype):
    info = np.finfo(dtype)
    values = (0.0, -0.0, 1.0, -1.5, info.smallest_subnormal, -info.smallest_normal, info.max, np.inf, -np.inf, np.nan)
    arrays = [np.array(each, dtype) for each in zip(*itertools.product(values, repeat=4), strict=True)]
    for numbers in ({}, {"decay_first": 0.0, "add_first": -1.0, "eps": 0.0}, {"factor": 0.0, "decay_second": 1.0}):
        for l2 in (0.0, 0.5):
            found = [each.copy() for each in arrays]
            take_step(rule, found, l2, **numbers)
            assert_updated(found, expected_step(rule, arrays, l2, **numbers), arrays[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_need_no_alignment(isa, dtype):
    arrays, placed = random_arrays(77, dtype), []
    for offset, array in zip((1, 2, 3, 5), arrays, strict=True):
        memory = np.zeros(array.nbytes + 64, np.uint8)
        placed.append(memory[offset : offset + array.nbytes].view(dtype))
        placed[-1][...] = array
    expected = expected_step("adam", arrays)
    take_step("adam", placed)
    assert_updated(placed, expected, arrays[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_every_number_of_threads_gives_the_same_bits(rule, dtype, fixed_quota):
    before = random_arrays(100_003, dtype)
    kept = (KeepWords.of_bools(np.arange(317) % 3 > 0).words, KeepWords.of_bools(np.arange(315) % 4 > 0).words, 2.0)

    def step():
        arrays = [each.copy() for each in before]
        take_step(rule, arrays)
        results = [each.tobytes() for each in arrays]
        for is_lazy in (False, True):
            matrices = [each[: 317 * 315].reshape(317, 315).copy() for each in before]
            matrices[1] = np.ascontiguousarray(matrices[1][:211, :236])
            take_step(rule, matrices, kept=(*kept[:2], 1.0 if is_lazy else 2.0, is_lazy))
            results += [each.tobytes() for each in matrices]
        return results

    results = by_every_thread_count(step)
    assert all(result == results[0] for result in results)
    with limits(max_elems_per_slice=1000, microseconds_between_checks=0):
        assert step() == results[0]
    take_step(rule, before)
    assert before[0].tobytes() == results[0][0]


# ---- kept rows and columns ------------------------------------------------------------------------------------------


def keep_some(n, how):
    keep = {"all": np.ones(n, bool), "none": np.zeros(n, bool), "some": np.random.default_rng(n).random(n) < 0.5}
    return None if how is None else KeepWords.of_bools(keep[how])


KEPT = list(itertools.product((None, "some", "none", "all"), repeat=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_lazy", [False, True])
def test_steps_on_kept_rows_and_columns_are_those_of_whole_gradients_or_of_kept_elements(isa, rule, dtype, is_lazy):
    for shape, (rows, columns) in itertools.product([(1, 9), (5, 64), (7, 200), (3, 2113)], KEPT):
        kept = keep_some(shape[0], rows), keep_some(shape[1], columns)
        scale = 1.0 if is_lazy else 1.75
        arrays = random_arrays(shape, dtype)
        arrays[1] = gather_kept(arrays[1], *kept)
        whole = scatter_kept(arrays[1], *kept, out=np.zeros(shape, dtype), scale=scale)
        expected, grad = expected_step(rule, [arrays[0], whole, *arrays[2:]], 0.01), arrays[1].copy()
        if is_lazy:
            is_kept = scatter_kept(np.ones_like(arrays[1]), *kept, out=np.zeros(shape, dtype)) > 0
            before = (arrays[0], *arrays[2:])
            expected = [np.where(is_kept, new, old) for new, old in zip(expected, before, strict=True)]
        words = [None if each is None else each.words for each in kept]
        take_step(rule, arrays, 0.01, kept=(*words, scale, is_lazy))
        assert_updated(arrays, expected, grad)


def test_words_beyond_the_last_column_are_ignored(isa):
    words = np.full(2, (1 << 64) - 1, np.uint64)
    for is_lazy in (False, True):
        arrays = random_arrays((4, 70), np.float32)
        expected = expected_step("adam", arrays)
        take_step("adam", arrays, kept=(None, words, 1.0, is_lazy))
        assert_updated(arrays, expected, arrays[1])


# ---- refused --------------------------------------------------------------------------------------------------------


def read_only(a):
    a.flags.writeable = False
    return a


OTHERS = {
    "float16": (lambda a: a.astype(np.float16), TypeError, "must be an array of float32 or float64, got dtype float16"),
    "integers": (lambda a: a.astype(np.int32), TypeError, "must be an array of float32 or float64, got dtype int32"),
    "double": (lambda a: a.astype(np.float64), TypeError, "must have the dtype of param, float"),
    "byte order": (lambda a: a.astype(">f4"), ValueError, "must be C-contiguous and in native byte order"),
    "strides": (lambda a: np.repeat(a, 2, 1)[:, ::2], ValueError, "must be C-contiguous and in native byte order"),
    "order": (lambda a: np.asfortranarray(a), ValueError, "must be C-contiguous and in native byte order"),
    "shape": (lambda a: np.ones((6, 5), np.float32), ValueError, r"must have the shape of param, \("),
    "one axis": (lambda a: a.reshape(-1).copy(), ValueError, r"must have the shape of param, \("),
    "read-only": (read_only, ValueError, "must be writable, got a read-only array"),
    "list": (lambda a: a.tolist(), TypeError, "has incorrect type"),
    "none": (lambda a: None, TypeError, "has incorrect type"),
}


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("other", OTHERS)
def test_arrays_that_no_kernel_takes_are_refused_before_anything_is_written(other, i):
    change, error, message = OTHERS[other]
    for rule in RULES if i < 3 else ("adam",):
        arrays = random_arrays((5, 6), np.float32)
        arrays[i] = change(arrays[i])
        before = pickle.dumps(arrays)
        if other == "read-only" and i == 1:
            take_step(rule, arrays)  # the gradient is only read
            continue
        with pytest.raises(error, match=message):
            take_step(rule, arrays)
        assert pickle.dumps(arrays) == before


@pytest.mark.parametrize(("i", "j"), list(itertools.combinations(range(4), 2)))
@pytest.mark.parametrize("shift", [0, 1, -29])
def test_arrays_that_overlap_are_refused(i, j, shift):
    memory = np.ones(100, np.float32)
    arrays = random_arrays((5, 6), np.float32)
    arrays[i], arrays[j] = memory[30:60].reshape(5, 6), memory[30 + shift : 60 + shift].reshape(5, 6)
    names = ("param", "grad", "first", "second")
    with pytest.raises(ValueError, match=f"{names[j]} must be apart from {names[i]}, got arrays that overlap"):
        take_step("adam", arrays)
    assert np.all(memory == 1)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", RULES)
def test_numbers_that_are_not_finite_are_refused(rule, number):
    names = ["decay_first", "add_first", "factor", "l2", *(["decay_second", "add_second", "eps"] * (rule == "adam"))]
    for name in names:
        arrays = random_arrays(8, np.float32)
        before = pickle.dumps(arrays)
        called = name if rule == "adam" else {"decay_first": "momentum", "add_first": "add"}.get(name, name)
        with pytest.raises(ValueError, match=f"{called} must be finite, got {number}"):
            take_step(rule, arrays, **{name: number})
        assert pickle.dumps(arrays) == before


@pytest.mark.parametrize(
    ("shape", "kept", "error", "message"),
    [
        ((6,), (None, None, 1.0, False), ValueError, "param must have the axes"),
        ((5, 6), (KeepWords.of_bools(np.ones(70, bool)).words, None, 1.0, True), ValueError, "row_words must have a"),
        ((5, 6), (None, np.ones(1), 1.0, True), TypeError, "column_words must be a contiguous array of uint64"),
        ((5, 6), (None, None, np.nan, False), ValueError, "scale must be finite, got nan"),
        (
            (5, 6),
            (None, np.ones(1, np.uint64), 1.0, False),
            ValueError,
            "grad must have the shape of what is kept",
        ),
    ],
)
def test_kept_parts_that_do_not_fit_are_refused(shape, kept, error, message):
    arrays = random_arrays(shape, np.float32)
    before = pickle.dumps(arrays)
    with pytest.raises(error, match=message):
        take_step("adam", arrays, kept=kept)
    assert pickle.dumps(arrays) == before


# ---- the optimizers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [networks.Adam, networks.SGD])
def test_networks_refuse_gradients_of_another_kind(optimizer):
    param = np.ones((4, 6), np.float32)
    for grads, error, message in (
        ([np.ones((4, 6))], TypeError, "grad must have the dtype of param, float32, got float64"),
        ([np.ones((6, 4), np.float32)], ValueError, r"grad must have the shape of param, \(4, 6\), got \(6, 4\)"),
        ([np.ma.ones((4, 6), np.float32)], TypeError, "grad must not be a masked array"),
        ([], ValueError, "grads must have one array for each of 1 params, got 0"),
        ([param], ValueError, "grad must be apart from param, got arrays that overlap"),
        ([param.tolist()], TypeError, "grad"),
    ):
        with pytest.raises(error, match=message):
            optimizer([param], grads)
    with pytest.raises(TypeError, match="param must be an array of float32 or float64, got dtype float16"):
        optimizer([param.astype(np.float16)], [param.astype(np.float16)])
    with pytest.raises(ValueError, match="param must be writable"):
        optimizer([read_only(param.copy())], [param])


@pytest.mark.parametrize("optimizer", [networks.Adam, networks.SGD])
def test_a_step_size_that_is_not_finite_updates_nothing(optimizer):
    params, grads = [np.ones((4, 6)), np.ones(6)], [np.ones((4, 6)), np.ones(6)]
    made = optimizer(params, grads, lr=np.inf)
    with pytest.raises(ValueError, match="lr must be finite, got inf"):
        made.step()
    assert made.n_steps == 0
    assert all(np.all(param == 1) for param in params)


@pytest.mark.parametrize(
    ("optimizer", "name", "number", "rule"),
    [
        *((networks.Adam, name, number, r"in \[0, 1\)") for name in ("beta1", "beta2") for number in (1.0, -0.1)),
        (networks.Adam, "eps", -1e-8, "at least 0"),
        *((networks.SGD, "momentum", number, r"in \[0, 1\]") for number in (1.5, -0.1)),
    ],
)
def test_numbers_out_of_range_update_nothing(optimizer, name, number, rule):
    params = [np.ones((4, 6))]
    made = optimizer(params, [np.ones((4, 6))], **{name: number})
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {number}"):
        made.step()
    assert made.n_steps == 0
    assert np.all(params[0] == 1)


@pytest.mark.parametrize("optimizer", [networks.Adam, networks.SGD])
def test_numbers_of_every_class_give_the_steps_of_floats(optimizer):
    found = []
    for number in (float, Decimal, Fraction, np.float64):
        params = [np.ones((4, 6))]
        made = optimizer(params, [np.ones((4, 6))], lr=number("0.125"), l2=number("0.5"))
        made.step()
        found.append(params[0].tobytes())
    assert found[0] != np.ones((4, 6)).tobytes()
    assert found == [found[0]] * 4


@pytest.mark.parametrize("optimizer", [networks.Adam, networks.SGD])
def test_optimizers_of_networks_go_on_after_pickling(optimizer):
    rng = np.random.default_rng(0)
    params = [rng.standard_normal((4, 6))]
    made = optimizer(params, [rng.standard_normal((4, 6))], l2=0.1)
    made.step()
    loaded_params, loaded = pickle.loads(pickle.dumps((params, made)))
    made.step()
    loaded.step()
    assert loaded_params[0].tobytes() == params[0].tobytes()


def changed_to(arrays, name, value):
    """Return arrays whose second one is another."""
    first, second = arrays[name]
    return arrays | {name: [first, value(second)]}


@pytest.mark.parametrize(
    "make", [lambda layer: compact.SGD(layer, 0.1), lambda layer: compact.SGD(layer, 0.1, 0.9), compact.Adam]
)
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("grads", lambda grad: grad.astype(np.float32), TypeError, "grad must have the dtype of param, float64, got"),
        ("grads", lambda grad: grad[:2].copy(), ValueError, "grad must have the shape of param, (1, 3), got (1, 2)"),
        ("grads", np.ma.array, TypeError, "grad must not be a masked array"),
        ("params", np.ma.array, TypeError, "param must not be a masked array"),
        ("params", read_only, ValueError, "param must be writable"),
    ],
)
def test_compact_optimizers_refuse_arrays_before_any_parameter_is_changed(make, name, value, error, message):
    arrays = {name: [np.ones(3), np.ones(3)] for name in ("params", "grads")}
    layer = SimpleNamespace(**changed_to(arrays, name, value))
    made = make(layer)
    with pytest.raises(error, match=re.escape(message)):
        made.step()
    assert getattr(made, "n_steps", 0) == 0
    assert all(np.all(param == 1) for param in layer.params)


@pytest.mark.parametrize("make", [lambda layer: compact.SGD(layer, 0.1), compact.Adam])
def test_compact_optimizers_need_a_gradient_for_each_parameter(make):
    layer = SimpleNamespace(params=[np.ones(3), np.ones(3)], grads=[np.ones(3)])
    with pytest.raises(ValueError, match="grads must have one array for each of 2 params, got 1"):
        make(layer).step()
    assert all(np.all(param == 1) for param in layer.params)


@pytest.mark.parametrize("make", [lambda layer: compact.SGD(layer, 0.1), compact.Adam])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (2, 0, 3)])
def test_compact_optimizers_take_parameters_without_elements(make, shape):
    layer = SimpleNamespace(params=[np.empty(shape), np.ones(3)], grads=[np.empty(shape), np.ones(3)])
    make(layer).step()
    assert layer.params[0].shape == shape
    assert np.all(layer.params[1] < 1)


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_decay_of_compact_adam_that_is_set_to_1_updates_nothing(name):
    layer = SimpleNamespace(params=[np.ones(3)], grads=[np.ones(3)])
    made = compact.Adam(layer)
    setattr(made, name, 1.0)
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got 1.0"):
        made.step()
    assert made.n_steps == 0
    assert np.all(layer.params[0] == 1)


@pytest.mark.parametrize(("before", "after", "rule"), [(0.9, 1.0, r"in \[0, 1\)"), (0.0, 0.9, "0 in an SGD that was")])
def test_a_momentum_of_compact_sgd_that_is_set_later_updates_nothing(before, after, rule):
    layer = SimpleNamespace(params=[np.ones(3)], grads=[np.ones(3)])
    made = compact.SGD(layer, 0.1, before)
    made.momentum = after
    with pytest.raises(ValueError, match=f"momentum must (be|stay) {rule}"):
        made.step()
    assert np.all(layer.params[0] == 1)


def test_one_rule_serves_both_kinds_of_networks():
    # Sums without the factors (1-beta), and averages with them: the same steps up to rounding.
    rng = np.random.default_rng(0)
    first, second = [rng.standard_normal((30, 40))], [np.empty((30, 40))]
    second[0][...] = first[0]
    grads = [np.empty((30, 40))]
    layer = SimpleNamespace(params=second, grads=grads)
    optimizers = networks.Adam(first, grads, lr=0.01), compact.Adam(layer, 0.01)
    for _ in range(5):
        grads[0][...] = rng.standard_normal((30, 40))
        for optimizer in optimizers:
            optimizer.step()
    assert first[0] == pytest.approx(second[0], rel=1e-12)
