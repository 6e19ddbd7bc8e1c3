# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""cdropout.bit_generator: the raw stream as a NumPy bit generator. word_stream.h draws from the C interface."""

from libc.stdint cimport uint32_t
from numpy.random.bit_generator cimport BitGenerator

from word_stream cimport (
    BLOCK_BITS, BLOCKS_AT_ONCE, N_WORDS, cdropout_import, next_double, next_uint32, next_uint64, read_blocks,
    word_stream,
)

from threading import RLock

import numpy as np

from cdropout._kernels import check_seed, spawn_children
from cdropout.checks import check_integer, fetch_fields, is_integer, shown
from cdropout.stream import Stream, seed_sequence


cdropout_import()

# The number of 64-bit outputs of a key: 2^62.
cdef object KEY_WORDS = (<object>N_WORDS << BLOCK_BITS) // BLOCKS_AT_ONCE


cdef class StreamBitGenerator(BitGenerator):
    """The raw stream of a seed as a bit generator for `numpy.random.Generator`.

    Its 64-bit outputs are those of `python -m cdropout stream --seed SEED`, lowest byte first, on every machine and
    instruction set. Threads may share it: a `Generator` holds its `lock` while it draws, as for NumPy's bit generators;
    so do `state` and `advance`.

    Parameters
    ----------
    seed : None, int, array_like of ints, SeedSequence, BitGenerator or Generator
        As for `Stream`, which has the same key for the same seed: None seeds from the operating system, and a generator
        is advanced by 128 bits. An array of ints may be longer than for `Stream`, as for NumPy's bit generators.

    Raises
    ------
    TypeError
        If the seed has another type.
    ValueError
        If the seed is negative, or an int of more than 128 bits.

    Notes
    -----
    Different seeds of at most 128 bits and their children get the same key with probability 2^-128. An array of more
    than four 32-bit words can have the key of a child of another seed; `Stream` has the details.

    Masks drawn from `Stream(seed)` are made of the same bits: use different seeds, or children of one seed (`spawn`).
    A key has 2^62 outputs; after them, its upper 64 bits increase by one. The period is 2^126. docs/design.md specifies
    the stream.

    """

    cdef object __weakref__
    cdef word_stream stream

    def __init__(self, seed=None):
        if isinstance(seed, Stream):
            raise TypeError("seed must not be a Stream: pass what seeded it, or one of its own")
        if isinstance(seed, BitGenerator) or isinstance(seed, np.random.Generator):
            seed = seed_sequence(seed)
        elif is_integer(seed):
            seed = check_seed("seed", seed)
        BitGenerator.__init__(self, seed)
        # An RLock, because `advance` and `state` may be called with the lock held. Older NumPy versions set a Lock.
        self.lock = RLock()
        low, high = (int(word) for word in self._seed_seq.generate_state(2, np.uint64))
        self.place(low | high << 64, 0, False, 0)
        self._bitgen.state = &self.stream
        self._bitgen.next_uint64 = &next_uint64
        self._bitgen.next_uint32 = &next_uint32
        self._bitgen.next_double = &next_double
        self._bitgen.next_raw = &next_uint64

    cdef int place(self, object key, object position, bint has_uint32, uint32_t uinteger) except -1:
        """Move to an output (its index below 2^62) of a key."""
        self.stream.key.word[0] = key & 0xFFFFFFFFFFFFFFFF
        self.stream.key.word[1] = key >> 64
        self.stream.first_block = position // N_WORDS * BLOCKS_AT_ONCE
        self.stream.at = position % N_WORDS
        self.stream.has_uint32 = has_uint32
        self.stream.uinteger = uinteger
        read_blocks(&self.stream)
        return 0

    cdef tuple key_and_position(self):
        """Return the key and the number of its outputs drawn so far. The caller holds the lock."""
        key = <object>self.stream.key.word[0] | <object>self.stream.key.word[1] << 64
        return key, <object>self.stream.first_block // BLOCKS_AT_ONCE * N_WORDS + self.stream.at % N_WORDS

    @property
    def state(self):
        """The state of the generator, without its seed sequence, as a dict of ints; may be set.

        Keys: `bit_generator`, the name of the class; `state`, a dict of `key` (128 bits) and `position` (how many
        outputs of this key have been drawn, below 2^62); `has_uint32` and `uinteger`, the half of an output that
        `next_uint32` has kept. Setting an invalid state raises TypeError or ValueError and changes nothing.
        """
        with self.lock:
            key, position = self.key_and_position()
            has_uint32, uinteger = int(self.stream.has_uint32), int(self.stream.uinteger)
        return {
            "bit_generator": type(self).__name__,
            "state": {"key": key, "position": position},
            "has_uint32": has_uint32,
            "uinteger": uinteger,
        }

    @state.setter
    def state(self, value):
        name = type(self).__name__
        keys, inner_keys = ("bit_generator", "state", "has_uint32", "uinteger"), ("key", "position")
        if not isinstance(value, dict):
            raise TypeError(f"state must be a dict, got {type(value).__name__}")
        # numpy.random.RandomState adds two keys to the state of its bit generator.
        if set(value) - {"has_gauss", "gauss"} != set(keys):
            raise ValueError(f"state must be a dict with the keys {', '.join(keys)}, got {shown(value)}")
        # Every value is read once, because a subclass of dict may give another one next time.
        value = dict([(key, value[key]) for key in keys])
        if value["bit_generator"] != name:
            raise ValueError(f"state must be of a {name}, got one of a {value['bit_generator']!r}")
        inner = fetch_fields("state['state']", value["state"], inner_keys)
        key = check_integer("state['state']['key']", inner["key"], 0, 2**128 - 1)
        position = check_integer("state['state']['position']", inner["position"], 0, KEY_WORDS - 1)
        has_uint32 = check_integer("state['has_uint32']", value["has_uint32"], 0, 1)
        uinteger = check_integer("state['uinteger']", value["uinteger"], 0, 2**32 - 1)
        with self.lock:
            self.place(key, position, has_uint32, uinteger)

    def spawn(self, n_children):
        """Return new bit generators, whose seeds are the next children of this one's `SeedSequence`.

        Parameters
        ----------
        n_children : int
            Their number. A `SeedSequence` has at most 2^32 - 1 children.

        Returns
        -------
        list of StreamBitGenerator

        Raises
        ------
        TypeError
            If n_children is not an integer, or the seed cannot spawn.
        ValueError
            If n_children is negative, or more than the children that are left.

        """
        if not isinstance(self._seed_seq, np.random.SeedSequence):
            return BitGenerator.spawn(self, n_children)
        return spawn_children(self._seed_seq, n_children, "n_children", type(self))

    def advance(self, delta):
        """Advance as if `delta` 64-bit outputs had been drawn.

        Parameters
        ----------
        delta : int
            Taken modulo the period, 2^126. A negative delta moves back.

        Returns
        -------
        StreamBitGenerator
            This generator. A half of an output that `next_uint32` has kept is dropped.

        Raises
        ------
        TypeError
            If delta is not an integer.

        """
        delta = check_integer("delta", delta)
        with self.lock:
            key, position = self.key_and_position()
            n_keys, position = divmod(position + delta, KEY_WORDS)
            self.place((key + (n_keys << 64)) % 2**128, position, False, 0)
        return self

    def jumped(self, jumps=1):
        """Return a new generator that is jumps * 2^62 outputs ahead: at the same position of another key.

        Parameters
        ----------
        jumps : int
            The number of jumps. The next 2^62 outputs of the two generators do not overlap: their blocks are seeded
            from different inputs of a bijection.

        Returns
        -------
        StreamBitGenerator
            A new generator, without a half of an output that `next_uint32` has kept.

        Raises
        ------
        TypeError
            If jumps is not an integer.

        """
        cdef StreamBitGenerator ahead = type(self)()
        ahead.state = self.state
        return ahead.advance(check_integer("jumps", jumps) * KEY_WORDS)
