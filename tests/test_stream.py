"""Streams: positions of draws, seeds, spawning, state, threads."""

import array
import collections.abc
import copy
import inspect
import itertools
import json
import pickle
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cdropout as cd
from cdropout.compat import cs231n, numpy_ml


def test_the_same_seed_gives_the_same_masks_and_the_next_draw_differs():
    a, b = cd.Stream(5), cd.Stream(5)
    first, second = a.key, cd.draw_mask(5000, 0.5, rng=a)
    assert first == b.key
    assert cd.draw_mask(5000, 0.5, rng=b) == second
    assert not np.array_equal(second.keep(), cd.draw_mask(5000, 0.5, rng=a).keep())
    assert not np.array_equal(second.keep(), cd.draw_mask(5000, 0.5, rng=cd.Stream(6)).keep())


@pytest.mark.promise("whole-blocks")
@pytest.mark.parametrize(
    ("shape", "shared_axes", "n_blocks"),
    [((), (), 1), (1, (), 1), (4096, (), 1), (4097, (), 2), ((100, 4097), 0, 2), ((0, 5), (), 0), ((64, 128), 1, 1)],
)
def test_a_draw_takes_whole_blocks_whatever_p_is(shape, shared_axes, n_blocks):
    for p in (0.0, 0.3, 1.0):
        stream = cd.Stream(1)
        mask = cd.draw_mask(shape, p, rng=stream, shared_axes=shared_axes)
        assert (mask.start, stream.position) == (0, 4096 * n_blocks)
        cd.dropout(np.ones(shape, np.float32), p, rng=stream, shared_axes=shared_axes)
        assert stream.position == 2 * 4096 * n_blocks


def test_dropout_and_draw_mask_drop_the_same_for_every_kind_of_rng():
    x = np.ones((50, 60))
    for make in (
        lambda: 7,
        lambda: np.int32(7),
        lambda: np.random.SeedSequence(7),
        lambda: np.random.PCG64(7),
        lambda: np.random.Philox(7),
        lambda: np.random.MT19937(7),
        lambda: np.random.default_rng(7),
        lambda: cd.Stream(7),
    ):
        y = cd.dropout(x, 0.3, rng=make())
        assert np.array_equal(y, cd.draw_mask(x.shape, 0.3, rng=make()).apply(x))
        assert np.array_equal(y, cd.Dropout(0.3, rng=make()).forward(x))


class Endless(collections.abc.Sequence):
    """A sequence without end."""

    def __getitem__(self, index):
        return 0

    def __len__(self):
        return 0


# Every argument that takes a seed, except that of StreamBitGenerator, which takes longer arrays.
TAKES_A_SEED = {
    "Stream": cd.Stream,
    "dropout": lambda rng: cd.dropout(np.ones(3), 0.5, rng=rng),
    "draw_mask": lambda rng: cd.draw_mask(3, 0.5, rng=rng),
    "gaussian_noise": lambda rng: cd.gaussian_noise(np.ones(3), 0.5, rng=rng),
    "bias_relu_dropout": lambda rng: cd.bias_relu_dropout(np.ones((2, 3)), np.ones(3), 0.5, rng=rng),
    "layer": lambda rng: cd.Dropout(0.5, rng=rng),
    "rng of a layer": lambda rng: setattr(cd.Dropout(0.5), "rng", rng),
    "DropConnect": lambda rng: cd.DropConnect(3, 3, 0.5, rng=rng),
    "cs231n": lambda rng: cs231n.dropout_forward(np.ones(3), {"p": 0.5, "mode": "train", "seed": rng}),
    "numpy_ml": lambda rng: numpy_ml.Dropout(object(), 0.5, rng=rng),
}


@pytest.mark.promise("spawned-streams")
@pytest.mark.parametrize("name", TAKES_A_SEED)
def test_a_seed_of_more_than_128_bits_is_refused(name):
    take = TAKES_A_SEED[name]
    for seed in (2**128, 5 + (7 << 128), 10**5000, [2**128], np.array([1, 2**200])):
        with pytest.raises(ValueError, match=r"^rng must be below 2\*\*128 where it is a seed, got"):
            take(seed)
    for seed in ([5, 0, 0, 0, 7], (0,) * 5, [2**96, 1], np.arange(5), range(10**30), Endless()):
        with pytest.raises(
            ValueError, match=r"^rng must have at most 4 words of 32 bits where it is a sequence of seeds"
        ):
            take(seed)
    for seed in (2**128 - 1, [2**32 - 1] * 4, [1, 2**70], []):
        take(seed)


def test_a_sequence_is_the_int_of_its_words():
    for sequence, seed in (
        ([5], 5),
        ([5, 0], 5),
        ([5, 7], 5 + (7 << 32)),
        ([1, 2**70], 1 + (2**70 << 32)),
        ([2**32, 3], 2**32 + (3 << 64)),
        ([2**32 - 1] * 4, 2**128 - 1),
        ([0, 0, 0, 0], 0),
        ([], 0),
    ):
        assert cd.Stream(sequence).key == cd.Stream(seed).key
        assert cd.Stream(sequence).spawn(1)[0].key == cd.Stream(seed).spawn(1)[0].key
        assert cd.Stream(sequence).fold_in(3).key == cd.Stream(seed).fold_in(3).key


@pytest.mark.promise("spawned-streams")
def test_streams_of_accepted_seeds_children_and_identifiers_never_meet():
    # All are different as NumPy's hash sees them: the words of the seed, filled up to four, and of the spawn_key.
    words = (0, 1, 7, 2**32 - 1)
    seeds = [sum(word << 32 * i for i, word in enumerate(each)) for each in itertools.product(words, repeat=4)]
    streams = [cd.Stream(seed) for seed in seeds]
    for parent in [*streams[:20], *streams[-20:]]:
        children = [*parent.spawn(8), *(parent.fold_in(each) for each in (0, 1, 7, 2**32 - 1, "7", b"7"))]
        children += [spawned_at(parent, 2**32 - 2)]
        grandchildren = [each for child in children for each in (*child.spawn(2), child.fold_in(0), child.fold_in(7))]
        streams += [*children, *grandchildren]
    assert len({stream.key for stream in streams}) == len(streams) > 2000
    assert len({hashed_words(stream) for stream in streams}) == len(streams)


def spawned_at(stream, number):
    """Return the child with this number."""
    parent = cd.Stream(0)
    parent.state = {**stream.state, "n_children_spawned": number}
    return parent.spawn(1)[0]


def hashed_words(stream):
    """Return the words that SeedSequence hashes for a stream whose seed is an int."""
    state = stream.state
    entropy = [state["entropy"] >> 32 * i & 2**32 - 1 for i in range(4)]
    return (*entropy, *state["spawn_key"])


def test_a_seed_sequence_with_more_words_than_its_pool_can_have_the_key_of_a_child():
    # docs/reproducibility.md says so. Its pickles and states load, and so do those of larger seeds of earlier code.
    for entropy, spawned in (
        (5 + (7 << 128), cd.Stream(5).spawn(8)[7]),
        ([5, 0, 0, 0, 7], cd.Stream(5).spawn(8)[7]),
        (5 + (7 << 128) + (1 << 160), cd.Stream(5).spawn(8)[7].spawn(2)[1]),
    ):
        stream = cd.Stream(np.random.SeedSequence(entropy))
        assert stream.key == spawned.key
        restored = cd.Stream(0)
        restored.state = json.loads(json.dumps(stream.state))
        assert restored.key == pickle.loads(pickle.dumps(stream)).key == spawned.key
    words = cd.Stream(3).fold_in("a").state["spawn_key"]
    assert cd.Stream(np.random.SeedSequence(sum(word << 128 + 32 * i for i, word in enumerate(words)) + 3)).key == (
        cd.Stream(3).fold_in("a").key
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spawn_key": (2**32,)}, "spawn_key of a SeedSequence must have ints below"),
        ({"spawn_key": ((1, 2),)}, "spawn_key of a SeedSequence must have ints below"),
        ({"pool_size": 1025}, "pool_size of a SeedSequence must be at most 1024, got 1025"),
        ({"spawn_key": (0,) * 2**16}, "at most 65536 words of 32 bits .* got 65537"),
        ({"entropy": [1] * (2**16 + 1)}, "at most 65536 words of 32 bits .* got 65537"),
    ],
    ids=["large word", "nested", "large pool", "long spawn_key", "long entropy"],
)
def test_a_seed_sequence_that_no_state_can_hold_is_refused(arguments, message):
    try:
        seeds = np.random.SeedSequence(**{"entropy": 5, **arguments})
    except TypeError as error:
        pytest.skip(f"NumPy {np.__version__} refuses it: {error}")
    with pytest.raises(ValueError, match=message):
        cd.Stream(seeds)


def test_sequences_of_ints_are_seeds_and_a_random_state_advances():
    expected = cd.Stream(np.random.SeedSequence([1, 2**70])).key
    assert cd.Stream([1, 2**70]).key == cd.Stream((1, 2**70)).key == expected
    for seed in (np.array([1, 2], np.int8), range(1, 3), array.array("i", [1, 2])):
        assert cd.Stream(seed).key == cd.Stream([1, 2]).key != cd.Stream([2, 1]).key
    state = np.random.RandomState(5)  # as scikit-learn's check_random_state returns it
    first, second = (cd.draw_mask(100, 0.5, rng=state) for _ in range(2))
    assert first != second
    assert cd.draw_mask(100, 0.5, rng=np.random.RandomState(5)) == first
    seed = int.from_bytes(np.random.RandomState(5).bytes(16), "little")
    assert first.key == cd.Stream(seed).key


def test_an_int_repeats_itself_and_a_generator_moves_on():
    x = np.ones(1000, np.float32)
    assert np.array_equal(cd.dropout(x, rng=3), cd.dropout(x, rng=3))
    assert np.array_equal(cd.dropout(x, rng=3), cd.dropout(x, rng=np.random.SeedSequence(3)))
    assert np.array_equal(cd.dropout(x, rng=3), cd.dropout(x, rng=cd.Stream(3)))
    generator = np.random.default_rng(3)
    assert not np.array_equal(cd.dropout(x, rng=generator), cd.dropout(x, rng=generator))
    bit_generator = np.random.PCG64(3)
    assert not np.array_equal(cd.dropout(x, rng=bit_generator), cd.dropout(x, rng=bit_generator))


def test_the_default_stream_moves_on_and_is_seeded_from_the_system():
    x = np.ones(1000, np.float32)
    assert not np.array_equal(cd.dropout(x), cd.dropout(x))
    assert cd.Stream().key != cd.Stream().key


@pytest.mark.promise("spawned-streams")
def test_spawned_streams_are_numpys_children_and_never_repeat():
    stream = cd.Stream(9)
    children = [*stream.spawn(3), *stream.spawn(2)]
    expected = np.random.SeedSequence(9).spawn(5)
    assert [child.key for child in children] == [cd.Stream(seeds).key for seeds in expected]
    assert stream.position == 0
    grandchildren = children[0].spawn(5)
    keys = {s.key for s in (stream, *children, *grandchildren)}
    assert len(keys) == 11
    assert stream.spawn(0) == []


def test_a_callers_seed_sequence_counts_the_children_that_its_stream_spawns():
    seeds, expected = np.random.SeedSequence(4), np.random.SeedSequence(4).spawn(4)
    keys = [cd.Stream(child).key for child in seeds.spawn(2)]
    stream = cd.Stream(seeds)
    keys += [stream.spawn(1)[0].key, cd.Stream(seeds.spawn(1)[0]).key]
    assert keys == [cd.Stream(child).key for child in expected]


@pytest.mark.promise("default-stream")
def test_threads_that_spawn_from_one_stream_never_get_the_same_child():
    stream = cd.Stream(12)
    with ThreadPoolExecutor(8) as pool:
        children = [child.key for batch in pool.map(lambda _: stream.spawn(3), range(300)) for child in batch]
    assert len(set(children)) == 900


def test_an_identifier_has_one_stream_whatever_was_drawn_or_spawned_before():
    stream = cd.Stream(9)
    first = stream.fold_in("request-17")
    cd.draw_mask(10_000, 0.5, rng=stream)
    stream.spawn(3)
    cd.draw_mask(10_000, 0.5, rng=first)
    again = stream.fold_in("request-17")
    assert (again.key, again.position) == (first.key, 0)
    assert pickle.loads(pickle.dumps(stream)).fold_in("request-17").key == first.key
    assert cd.Stream(10).fold_in("request-17").key != first.key


def test_streams_of_identifiers_and_children_are_all_different():
    stream = cd.Stream(9)
    identifiers = [0, 1, 2**32 - 1, 2**32, 2**128 + 1, "", "0", "1", b"1", b"", "\u00e9", "\ud800", b"x" * 10_000]
    streams = [stream, *stream.spawn(3), *map(stream.fold_in, identifiers)]
    streams += [*streams[1].spawn(3), *streams[4].spawn(3), streams[4].fold_in(0), streams[1].fold_in(0)]
    assert len({s.key for s in streams}) == len(streams)
    assert stream.fold_in(np.uint8(1)).key == stream.fold_in(1).key


def test_a_stream_of_an_identifier_keeps_its_state_like_any_other():
    stream = cd.Stream(np.random.SeedSequence(3, pool_size=8)).fold_in(5)
    cd.draw_mask(10_000, 0.5, rng=stream)
    other = cd.Stream(0)
    other.state = json.loads(json.dumps(stream.state))
    assert (other.key, other.position) == (stream.key, 12288)
    assert other.spawn(1)[0].key == copy.copy(stream).spawn(1)[0].key
    assert other.fold_in(5).key == stream.fold_in(5).key


@pytest.mark.parametrize(
    "make_seed",
    [
        lambda: 0,
        lambda: np.random.SeedSequence(2**130 + 1),
        lambda: np.random.SeedSequence([1, 2, 3]),
        lambda: np.random.SeedSequence(1).spawn(2)[1],
    ],
    ids=["small", "large", "sequence", "child"],
)
def test_state_survives_json_pickle_and_copy(make_seed):
    stream = cd.Stream(make_seed())
    cd.draw_mask(10_000, 0.5, rng=stream)
    stream.spawn(2)
    from_json = cd.Stream(0)
    from_json.state = json.loads(json.dumps(stream.state))
    for other in (from_json, pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream), copy.copy(stream)):
        assert other is not stream
        assert (other.key, other.position, other.state) == (stream.key, 12288, stream.state)
        assert other.spawn(1)[0].key == copy.copy(stream).spawn(1)[0].key
        assert cd.draw_mask(5, 0.5, rng=other) == cd.draw_mask(5, 0.5, rng=copy.copy(stream))


class TaggedStream(cd.Stream):
    """A stream with an attribute, and another constructor."""

    def __init__(self, tag, seed):
        super().__init__(seed)
        self.tag = tag


def test_a_stream_of_a_subclass_is_copied_as_one():
    stream = TaggedStream("a", 5)
    cd.draw_mask(1, 0.5, rng=stream)
    layer = cd.Dropout(0.5, rng=stream)
    copies = [pickle.loads(pickle.dumps(stream, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in (*copies, copy.copy(stream), copy.deepcopy(stream), copy.deepcopy(layer).rng):
        assert type(other) is TaggedStream
        assert (other.tag, other.state) == ("a", stream.state)
    with pytest.raises(TypeError, match="a pickled stream must be of Stream or a subclass, got <class 'int'>"):
        cd.stream.restore_stream(stream.state, int)


BAD_STATES = {
    "not a dict": lambda s: [1],
    "a missing key": lambda s: {k: v for k, v in s.items() if k != "position"},
    "a foreign key": lambda s: {**s, "extra": 1},
    "another version": lambda s: {**s, "version": 2},
    "a negative position": lambda s: {**s, "position": -4096},
    "a position inside a block": lambda s: {**s, "position": 5},
    "a position past the end": lambda s: {**s, "position": 2**64},
    "a float position": lambda s: {**s, "position": 4096.0},
    "a negative entropy": lambda s: {**s, "entropy": -1},
    "a string entropy": lambda s: {**s, "entropy": "1"},
    "a spawn key that is no list": lambda s: {**s, "spawn_key": 3},
    "a negative spawn key": lambda s: {**s, "spawn_key": [-3]},
    "a pool too small": lambda s: {**s, "pool_size": 1},
    "a spawn key too large": lambda s: {**s, "spawn_key": [2**32]},
    "more children than there can be": lambda s: {**s, "n_children_spawned": 2**32},
    "children that are no int": lambda s: {**s, "n_children_spawned": None},
    "an int that takes minutes to hash": lambda s: {**s, "entropy": 1 << 32 * 2**16},
    "a list that takes minutes to hash": lambda s: {**s, "entropy": [1] * (2**16 + 1), "pool_size": 1024},
}


@pytest.mark.parametrize("spoil", BAD_STATES.values(), ids=BAD_STATES)
def test_a_broken_state_is_refused_and_changes_nothing(spoil):
    stream = cd.Stream(3)
    cd.draw_mask(5, 0.5, rng=stream)
    before = stream.state
    with pytest.raises((TypeError, ValueError), match="state"):
        stream.state = spoil(dict(before))
    assert stream.state == before
    assert stream.key == cd.Stream(3).key


class Turning(dict):
    """A dict whose values change after they have been read once."""

    def __init__(self, first, then):
        super().__init__(first)
        self.then = then

    def __getitem__(self, key):
        value = super().__getitem__(key)
        self[key] = self.then.get(key, value)
        return value


class TurningList(list):
    """A list that is another one when it is read again."""

    def __iter__(self):
        yield from list.__iter__(self)
        self[:] = [-1, "a"]


def test_every_value_of_a_state_is_read_once():
    stream, layer = cd.Stream(1), cd.Dropout(0.5, rng=1)
    expected = {**cd.Stream(3).state, "entropy": [3, 4], "spawn_key": [7], "position": 4096}
    turned = {
        "version": 2,
        "entropy": -1,
        "spawn_key": None,
        "pool_size": 0,
        "n_children_spawned": 2**32,
        "position": 5,
    }
    stream.state = Turning({**expected, "entropy": TurningList([3, 4]), "spawn_key": TurningList([7])}, turned)
    assert stream.state == expected
    layer.state = Turning(
        {"version": 1, "p": 0.25, "training": False, "rng": Turning(expected, turned)},
        {"version": 2, "p": 7.0, "training": None, "rng": 3},
    )
    assert layer.state == {"version": 1, "p": 0.25, "training": False, "rng": expected}


class KeysWithoutValues(dict):
    """A dict that lists keys that it does not have."""

    def __iter__(self):
        return iter(cd.Stream(1).state)


def test_a_state_whose_keys_lie_is_refused():
    stream = cd.Stream(1)
    with pytest.raises(ValueError, match="state must be a dict with the keys version, entropy"):
        stream.state = KeysWithoutValues()


class Fits(int):
    """An int that comparisons and remainders find valid, whatever it is."""

    def __lt__(self, other):
        return False

    __gt__ = __ge__ = __lt__

    def __mod__(self, other):
        return 0


def test_a_state_holds_the_values_of_ints_of_subclasses():
    stream = cd.Stream(1)
    for name, value in (("position", 4095), ("n_children_spawned", 2**32), ("entropy", -1), ("spawn_key", [-1])):
        wrong = [Fits(value[0])] if isinstance(value, list) else Fits(value)
        with pytest.raises(ValueError, match=name):
            stream.state = {**stream.state, name: wrong}


# The endless loops of NumPy's SeedSequence that this avoids take all memory, so a program with a limit runs.
COUNTS_CHILDREN = """
import contextlib, signal, sys
with contextlib.suppress(ImportError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
import numpy as np
import cdropout as cd

def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)

def with_count(count):
    stream = cd.Stream(5)
    stream.state = {**stream.state, "n_children_spawned": count}
    return stream

for count, n in ((2**32 - 1, 1), (2**32 - 2, 3), (1, 2**32 - 1)):
    for stream in (with_count(count), cd.Stream(np.random.SeedSequence(5, n_children_spawned=count))):
        message = error_of(lambda: stream.spawn(n))
        assert message.startswith(f"n must be at most {2**32 - 1 - count}, because {count} of"), message
        assert stream.state["n_children_spawned"] == count
        layer = cd.Dropout(0.5, rng=stream)
assert "n must be at most 0" in error_of(lambda: cd.DropConnect(3, 3, 0.5, rng=with_count(2**32 - 1)))
stream = with_count(2**32 - 3)
assert [child.state["spawn_key"] for child in stream.spawn(2)] == [[2**32 - 3], [2**32 - 2]]
assert stream.spawn(0) == []
assert stream.fold_in(1).spawn(1)[0].state["spawn_key"][0] == 2**32 - 1
for n in (10**12, 2**32, 10**5000, -1):
    assert error_of(lambda: cd.Stream(5).spawn(n)).startswith("n must be in [0, 4294967295], got")

if hasattr(signal, "setitimer"):
    def ring(number, frame):
        raise InterruptedError
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    stream = cd.Stream(5)
    try:
        stream.spawn(2**32 - 1)
    except InterruptedError:
        count = stream.state["n_children_spawned"]
        assert 0 < count < 10**6 and stream.spawn(1)[0].state["spawn_key"] == [count]
print("counted")
"""


@pytest.mark.promise("spawned-streams")
def test_spawning_more_children_than_are_left_is_an_error_and_a_long_spawn_can_be_interrupted(run_python):
    assert run_python("-c", COUNTS_CHILDREN, timeout=60).stdout.split() == [b"counted"]


@pytest.mark.promise("shared-stream")
def test_16_threads_that_share_a_stream_draw_in_1000_calls_each_what_one_thread_would():
    stream, serial, x = cd.Stream(11), cd.Stream(11), np.ones(100, np.float32)
    layer, barrier, n_threads, n_calls = cd.Dropout(0.5, rng=stream), threading.Barrier(16), 16, 1000
    calls = (
        lambda: cd.dropout(x, rng=stream),
        lambda: cd.draw_mask(x.shape, 0.5, rng=stream).apply(x),
        lambda: layer.forward(x),
        lambda: cd.relu_dropout(x, rng=stream),
    )

    def draw(_):
        barrier.wait()
        return [calls[i % 4]().tobytes() for i in range(n_calls)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            drawn = [y for of_thread in pool.map(draw, range(n_threads)) for y in of_thread]
    finally:
        sys.setswitchinterval(before)
    expected = {cd.dropout(x, rng=serial).tobytes() for _ in range(n_threads * n_calls)}
    assert len(drawn) == len(expected) == n_threads * n_calls  # each call's mask has its position
    assert set(drawn) == expected
    assert stream.position == serial.position == 4096 * n_threads * n_calls


def test_threads_that_share_a_stream_never_take_a_position_twice():
    stream = cd.Stream(11)
    n_threads, n_draws = 16, 1000
    with ThreadPoolExecutor(n_threads) as pool:
        starts = list(pool.map(lambda _: cd.draw_mask(5000, 0.5, rng=stream).start, range(n_threads * n_draws)))
    assert sorted(starts) == list(range(0, 2 * 4096 * n_threads * n_draws, 2 * 4096))
    assert stream.position == 2 * 4096 * n_threads * n_draws


def test_a_draw_that_is_taken_back_leaves_the_positions_of_others_alone():
    stream = cd.Stream(11)
    first, second = (cd.draw_mask(5000, 0.5, rng=stream) for _ in range(2))
    stream._take_back(first)  # no effect: there is a later draw
    assert stream.position == 4 * 4096
    stream._take_back(second)
    assert stream.position == 2 * 4096
    assert cd.draw_mask(5000, 0.5, rng=stream) == second


@pytest.mark.promise("default-stream")
def test_threads_that_use_the_default_stream_draw_different_masks():
    x = np.ones(200, np.float32)
    with ThreadPoolExecutor(8) as pool:
        drawn = {y.tobytes() for y in pool.map(lambda _: cd.dropout(x), range(400))}
    assert len(drawn) == 400


def test_repr_says_key_and_position():
    stream = cd.Stream(0)
    cd.draw_mask(1, 0.5, rng=stream)
    assert repr(stream) == f"Stream(key=0x{stream.key:032x}, position=4096)"


def functions_of(value):
    """Return a function, or the functions that a class defines, as a list."""
    return (
        [value] if not isinstance(value, type) else [each for each in vars(value).values() if inspect.isfunction(each)]
    )


def test_type_hints_of_every_public_name_resolve():
    functions = [f for name in cd.__all__ if callable(value := getattr(cd, name)) for f in functions_of(value)]
    hints = {function.__qualname__: typing.get_type_hints(function) for function in functions}
    assert len(hints) > 50
    expected = {type(None), cd.Stream, int, np.integer[typing.Any], np.random.SeedSequence}
    expected |= {np.random.BitGenerator, np.random.Generator, np.random.RandomState}
    expected |= {collections.abc.Sequence[int], np.ndarray[typing.Any, np.dtype[np.integer[typing.Any]]]}
    assert set(typing.get_args(hints["dropout"]["rng"])) == expected
