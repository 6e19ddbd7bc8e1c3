"""StreamBitGenerator: the documented raw stream, and the behaviour of NumPy's bit generators, also by NumPy's tests."""

import copy
import importlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import cdropout as cd
from cdropout import _kernels

KEY_WORDS = 2**62
N_STATE_WORDS = 1024  # outputs of one block
BIT_GENERATORS = (cd.StreamBitGenerator, np.random.PCG64, np.random.SFC64)


def words(key, first_block, n_blocks):
    """Return the raw stream's 64-bit words."""
    return _kernels.raw_blocks(key, first_block, n_blocks).view("<u8").astype(np.uint64)


def placed_at(key, position):
    bit_generator = cd.StreamBitGenerator(0)
    bit_generator.state = {**bit_generator.state, "state": {"key": key, "position": position}}
    return bit_generator


# ---- the stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 2**128 - 1, np.random.SeedSequence(2**130 + 1)])
def test_raw_output_is_the_models_raw_stream(isa, seed):
    expected = reference.raw_bytes(reference.key_of_seed(seed), 0, 3)
    assert cd.StreamBitGenerator(seed).random_raw(3 * N_STATE_WORDS).astype("<u8").tobytes() == expected


def test_raw_output_is_what_the_command_line_writes(run_python):
    written = run_python("-m", "cdropout", "stream", "--seed", "42", "--bytes", "20000").stdout
    assert cd.StreamBitGenerator(42).random_raw(2500).astype("<u8").tobytes() == written


def test_numbers_are_made_of_the_raw_output_as_numpy_makes_them():
    raw = cd.StreamBitGenerator(3).random_raw(2000)
    assert np.array_equal(np.random.Generator(cd.StreamBitGenerator(3)).random(2000), (raw >> np.uint64(11)) * 2.0**-53)
    halves = raw.astype("<u8").view("<u4")
    drawn = np.random.Generator(cd.StreamBitGenerator(3)).integers(2**32, size=4000, dtype=np.uint32)
    assert np.array_equal(drawn, halves)


def test_a_half_of_an_output_is_kept_for_the_next_32_bits():
    bit_generator = cd.StreamBitGenerator(3)
    rng, raw = np.random.Generator(bit_generator), cd.StreamBitGenerator(3).random_raw(3)
    assert rng.integers(2**32, dtype=np.uint32) == raw[0] & np.uint64(2**32 - 1)
    state = bit_generator.state
    assert (state["has_uint32"], state["uinteger"], state["state"]["position"]) == (1, raw[0] >> np.uint64(32), 1)
    assert bit_generator.random_raw() == raw[1]
    assert rng.integers(2**32, dtype=np.uint32) == raw[0] >> np.uint64(32)
    assert rng.integers(2**32, dtype=np.uint32) == raw[2] & np.uint64(2**32 - 1)


# ---- seeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: 7, lambda: np.int64(7), lambda: np.random.SeedSequence(7), lambda: np.random.PCG64(7)]
)
def test_the_key_is_that_of_the_stream_with_the_same_seed(make):
    assert cd.StreamBitGenerator(make()).state["state"] == {"key": cd.Stream(make()).key, "position": 0}
    assert cd.StreamBitGenerator(seed=make()).state == cd.StreamBitGenerator(make()).state


def test_a_generator_in_a_seeds_place_moves_on():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    first, second = (cd.StreamBitGenerator(rng).state["state"]["key"] for _ in range(2))
    assert [first, second] == [cd.Stream(same).key, cd.Stream(same).key]
    assert first != second


def test_no_seed_is_a_seed_of_the_operating_systems():
    assert cd.StreamBitGenerator().state != cd.StreamBitGenerator().state
    assert cd.StreamBitGenerator(None).state != cd.StreamBitGenerator(None).state


def test_children_are_those_of_the_stream_and_never_repeat():
    bit_generator, stream = cd.StreamBitGenerator(9), cd.Stream(9)
    keys = [child.state["state"]["key"] for child in (*bit_generator.spawn(3), *bit_generator.spawn(2))]
    assert keys == [child.key for child in stream.spawn(5)]
    assert {type(rng.bit_generator) for rng in np.random.Generator(bit_generator).spawn(2)} == {cd.StreamBitGenerator}


def test_a_stream_is_no_seed():
    with pytest.raises(TypeError, match="seed must not be a Stream"):
        cd.StreamBitGenerator(cd.Stream(1))


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (2**128, ValueError), (1.5, TypeError), ("1", TypeError), ([-1], ValueError)],
)
def test_what_is_no_seed_is_refused(seed, error):
    with pytest.raises(error):
        cd.StreamBitGenerator(seed)


# Without the check, NumPy's loop does not end and takes all memory, so a program with a limit runs.
COUNTS_CHILDREN = """
import contextlib, pickle
with contextlib.suppress(ImportError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
import numpy as np
import cdropout as cd

def error_of(call, *arguments):
    try:
        call(*arguments)
    except (TypeError, ValueError) as error:
        return str(error)

bit_generator = cd.StreamBitGenerator(np.random.SeedSequence(9, n_children_spawned=2**32 - 2))
for spawn in (bit_generator.spawn, np.random.Generator(bit_generator).spawn):
    assert error_of(spawn, 2).startswith("n_children must be at most 1, because 4294967294 of 4294967295 children")
assert error_of(bit_generator.spawn, 10**12) == "n_children must be in [0, 4294967295], got 1000000000000"
assert error_of(bit_generator.spawn, 1.0) == "n_children must be an integer, got 1.0"
(last,) = bit_generator.spawn(1)
assert last.state["state"]["key"] == cd.Stream(np.random.SeedSequence(9, spawn_key=(2**32 - 2,))).key
loaded = pickle.loads(pickle.dumps(bit_generator))
for spawn in (bit_generator.spawn, loaded.spawn):
    assert error_of(spawn, 1).startswith("n_children must be at most 0, because 4294967295 of 4294967295 children")
assert bit_generator.spawn(0) == []
print("counted")
"""


def test_spawning_more_children_than_are_left_is_an_error(run_python):
    assert run_python("-c", COUNTS_CHILDREN, timeout=60).stdout.split() == [b"counted"]


class Turning(dict):
    """A dict whose values change after they have been read once."""

    def __init__(self, first, then):
        super().__init__(first)
        self.then = then

    def __getitem__(self, key):
        value = super().__getitem__(key)
        self[key] = self.then.get(key, value)
        return value


def test_every_value_of_a_state_is_read_once():
    bit_generator, expected = cd.StreamBitGenerator(5), cd.StreamBitGenerator(6).state
    inner = Turning(expected["state"], {"key": 2**200, "position": 2**70})
    bit_generator.state = Turning(
        {**expected, "state": inner},
        {"state": {"key": -1}, "has_uint32": 7, "uinteger": 2**40, "bit_generator": "PCG64"},
    )
    assert bit_generator.state == expected


# ---- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_words", [0, 1, 1023, 1024, 2047, 2048, 2049, 5000])
def test_state_survives_json_pickle_and_copy_at_every_place_of_a_block(n_words):
    bit_generator = cd.StreamBitGenerator(5)
    bit_generator.random_raw(n_words)
    np.random.Generator(bit_generator).integers(2**32, dtype=np.uint32)
    from_json = cd.StreamBitGenerator(0)
    from_json.state = json.loads(json.dumps(bit_generator.state))
    others = [from_json, pickle.loads(pickle.dumps(bit_generator)), copy.copy(bit_generator)]
    others.append(copy.deepcopy(bit_generator))
    expected = bit_generator.state
    assert expected["state"]["position"] == n_words + 1
    numbers = np.random.Generator(bit_generator).integers(2**32, size=99, dtype=np.uint32)
    for other in others:
        assert other is not bit_generator
        assert other.state == expected
        assert np.array_equal(np.random.Generator(other).integers(2**32, size=99, dtype=np.uint32), numbers)


def test_a_pickle_keeps_the_count_of_children():
    bit_generator = cd.StreamBitGenerator(5)
    bit_generator.spawn(2)
    restored = pickle.loads(pickle.dumps(bit_generator))
    assert restored.spawn(1)[0].state == bit_generator.spawn(1)[0].state


BAD_STATES = {
    "no dict": lambda s: [1],
    "a missing key": lambda s: {k: v for k, v in s.items() if k != "uinteger"},
    "a foreign key": lambda s: {**s, "extra": 1},
    "another generator's name": lambda s: {**s, "bit_generator": "PCG64"},
    "an inner state that is no dict": lambda s: {**s, "state": 3},
    "an inner state without position": lambda s: {**s, "state": {"key": 3}},
    "a key too large": lambda s: {**s, "state": {**s["state"], "key": 2**128}},
    "a negative key": lambda s: {**s, "state": {**s["state"], "key": -1}},
    "a float key": lambda s: {**s, "state": {**s["state"], "key": 1.0}},
    "a position past the end": lambda s: {**s, "state": {**s["state"], "position": KEY_WORDS}},
    "a negative position": lambda s: {**s, "state": {**s["state"], "position": -1}},
    "two halves": lambda s: {**s, "has_uint32": 2},
    "a half too large": lambda s: {**s, "uinteger": 2**32},
    "a half that is no int": lambda s: {**s, "uinteger": None},
}


@pytest.mark.parametrize("spoil", BAD_STATES.values(), ids=BAD_STATES)
def test_a_broken_state_is_refused_and_changes_nothing(spoil):
    bit_generator = cd.StreamBitGenerator(5)
    bit_generator.random_raw(1500)
    before = bit_generator.state
    with pytest.raises((TypeError, ValueError), match="state"):
        bit_generator.state = spoil(copy.deepcopy(before))
    assert bit_generator.state == before


def test_a_subclass_has_its_own_name_and_survives_a_pickle():
    bit_generator = Renamed(5)
    assert bit_generator.state["bit_generator"] == "Renamed"
    assert type(pickle.loads(pickle.dumps(bit_generator))) is type(bit_generator.jumped()) is Renamed
    with pytest.raises(ValueError, match="of a Renamed"):
        bit_generator.state = cd.StreamBitGenerator(5).state


class Renamed(cd.StreamBitGenerator):
    """A user's subclass."""


# ---- ahead ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_words", [0, 1, 1024, 2047, 2048, 2049, 100_000])
def test_advancing_is_drawing(n_words):
    drawn, advanced = cd.StreamBitGenerator(5), cd.StreamBitGenerator(5)
    drawn.random_raw(n_words)
    assert advanced.advance(n_words) is advanced
    assert advanced.state == drawn.state
    assert np.array_equal(advanced.random_raw(2000), drawn.random_raw(2000))


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**140), 2**140), st.integers(-(2**140), 2**140))
def test_advances_add_up(one, other):
    together, apart = cd.StreamBitGenerator(5).advance(one + other), cd.StreamBitGenerator(5).advance(one)
    assert apart.advance(other).state == together.state
    assert apart.advance(-(one + other)).state == cd.StreamBitGenerator(5).state
    assert apart.advance(2**126).state == cd.StreamBitGenerator(5).state


def test_a_jump_goes_to_the_same_place_of_the_next_key():
    bit_generator = cd.StreamBitGenerator(5)
    bit_generator.random_raw(3000)
    before = bit_generator.state
    key = cd.Stream(5).key
    for jumps in (1, 2, 2**63, -1):
        ahead = bit_generator.jumped(jumps)
        assert ahead.state["state"] == {"key": (key + (jumps << 64)) % 2**128, "position": 3000}
        assert ahead.random_raw() == words(ahead.state["state"]["key"], 2, 1)[3000 - 2048]
        assert ahead.state == copy.copy(bit_generator).advance(jumps * KEY_WORDS + 1).state
    assert bit_generator.state == before


def test_advancing_and_jumping_forget_a_half_of_an_output():
    bit_generator = cd.StreamBitGenerator(5)
    np.random.Generator(bit_generator).integers(2**32, dtype=np.uint32)
    assert bit_generator.jumped().state["has_uint32"] == 0
    assert bit_generator.state["has_uint32"] == 1
    assert bit_generator.advance(0).state["has_uint32"] == 0


@pytest.mark.parametrize("upper", [5, 2**64 - 1])
def test_behind_a_keys_last_output_comes_the_next_key(upper):
    key, following = upper << 64 | 77, (upper + 1) % 2**64 << 64 | 77
    bit_generator = placed_at(key, KEY_WORDS - 3)
    expected = [*words(key, 2**52 - 1, 1)[-3:], *words(following, 0, 1)[:3]]
    assert bit_generator.random_raw(6).tolist() == expected
    assert bit_generator.state["state"] == {"key": following, "position": 3}
    assert bit_generator.advance(-3).state["state"] == {"key": following, "position": 0}
    assert bit_generator.advance(-1).state["state"] == {"key": key, "position": KEY_WORDS - 1}


@pytest.mark.parametrize("name", ["advance", "jumped"])
def test_what_is_no_integer_is_named(name):
    with pytest.raises(TypeError, match=f"{'delta' if name == 'advance' else 'jumps'} must be an integer, got 1[.]5"):
        getattr(cd.StreamBitGenerator(5), name)(1.5)


# ---- the interfaces of NumPy's bit generators -----------------------------------------------------------------------


@pytest.mark.parametrize("bit_generator_type", BIT_GENERATORS)
def test_threads_that_hold_the_lock_share_one_row_of_outputs(bit_generator_type):
    shared = bit_generator_type(11)
    with ThreadPoolExecutor(8) as pool:
        drawn = np.concatenate(list(pool.map(lambda _: shared.random_raw(97), range(1000))))
    assert np.array_equal(np.sort(drawn), np.sort(bit_generator_type(11).random_raw(97_000)))


def test_a_thread_that_holds_the_lock_can_read_and_advance_the_state():
    bit_generator = cd.StreamBitGenerator(11)
    with bit_generator.lock:
        bit_generator.state = bit_generator.advance(5).state
    assert bit_generator.state["state"]["position"] == 5


@pytest.mark.parametrize("bit_generator_type", BIT_GENERATORS)
def test_a_generator_is_pickled_with_its_bit_generator(bit_generator_type):
    rng = np.random.Generator(bit_generator_type(11))
    rng.random(1000)
    restored = pickle.loads(pickle.dumps(rng))
    assert type(restored.bit_generator) is bit_generator_type
    assert np.array_equal(rng.standard_normal(100), restored.standard_normal(100))


@pytest.mark.parametrize("bit_generator_type", BIT_GENERATORS)
def test_numpys_c_interface_draws_from_it(bit_generator_type):
    bit_generator, expected = bit_generator_type(11), bit_generator_type(11).random_raw(2)
    interface = bit_generator.ctypes
    with bit_generator.lock:
        assert interface.next_uint64(interface.state) == expected[0]
        assert interface.next_double(interface.state) == (expected[1] >> np.uint64(11)) * 2.0**-53


@pytest.mark.parametrize("bit_generator_type", BIT_GENERATORS)
def test_the_legacy_interface_takes_it(bit_generator_type):
    one, other = (np.random.RandomState(bit_generator_type(11)) for _ in range(2))
    assert np.array_equal(one.normal(size=99), other.normal(size=99))
    for state in (one.get_state(legacy=False), pickle.loads(pickle.dumps(one)).get_state(legacy=False)):
        other.normal(size=7)
        other.set_state(state)
        assert other.normal() == copy.deepcopy(one).normal()


def test_uniform_numbers_are_uniform_and_neighbours_are_independent():
    # 2^22 numbers in 64 x 64 cells by successive pairs: chi-square of 4095 degrees of freedom has mean 4095 and
    # standard deviation 90.5; a deviation of 5 of these has probability 6e-7.
    numbers = np.random.Generator(cd.StreamBitGenerator(1)).random(1 << 22)
    cells = np.bincount((numbers * 64).astype(int)[::2] * 64 + (numbers * 64).astype(int)[1::2], minlength=4096)
    chi_square = ((cells - 512) ** 2 / 512).sum()
    assert abs(chi_square - 4095) < 5 * 90.5


def test_importing_the_library_does_not_import_it(run_python):
    code = """
import sys, cdropout
print("cdropout.bit_generator" in sys.modules, "cdropout.api" in sys.modules, "StreamBitGenerator" in dir(cdropout))
cdropout.StreamBitGenerator
print("cdropout.bit_generator" in sys.modules, hasattr(cdropout, "no_such_name"))
"""
    assert run_python("-c", code).stdout.decode().split() == ["False", "False", "True", "True", "False"]


# ---- NumPy's tests --------------------------------------------------------------------------------------------------


def numpys(module, name, needs):
    """Return a class of NumPy's tests; if NumPy has no tests, or older ones, return a class with one skipped test."""
    try:
        tests = importlib.import_module(f"numpy.random.tests.{module}")
        getattr(tests, needs)
        return getattr(tests, name)
    except (ImportError, AttributeError) as error:
        reason = f"NumPy {np.__version__}: {error}"

        class Skipped:
            def test_what_numpy_tests(self):
                pytest.skip(reason)

        return Skipped


class TestNumPysSmokeTests(numpys("test_smoke", "RNG", "RNGData")):
    """NumPy's tests of every distribution, output argument, seed, state and pickle."""

    @classmethod
    def _create_rng(cls):
        data = importlib.import_module("numpy.random.tests.test_smoke").RNGData
        rng = np.random.Generator(cd.StreamBitGenerator(12345))
        return data(cd.StreamBitGenerator, 2**63 + 2**31 + 2**15 + 1, [12345], rng, 64)


class TestNumPysDirectTests(numpys("test_direct", "Base", "Base")):
    """NumPy's tests of raw output against known words, and of numbers made from it."""

    @classmethod
    def setup_class(cls):
        cls.bit_generator, cls.bits, cls.dtype = cd.StreamBitGenerator, 64, np.uint64
        # NumPy's files hold 1000 outputs for each of two seeds; these are the model's.
        cls.data1, cls.data2 = (
            {
                "seed": [seed],
                "data": np.frombuffer(reference.raw_bytes(reference.key_of_seed(seed), 0, 1), "<u8")[:1000],
            }
            for seed in (0xDEADBEAF, 0)
        )
        cls.seed_error_type = TypeError
        cls.invalid_init_types = [(3.2,), ([None],), (1, None)]
        cls.invalid_init_values = [(-1,)]
