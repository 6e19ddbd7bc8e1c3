# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The raw stream as one of NumPy's bit generators."""

from libc.stdint cimport uint32_t
from numpy.random.bit_generator cimport BitGenerator

from word_stream cimport (
    BLOCK_BITS, BLOCKS_AT_ONCE, N_WORDS, cdropout_import, next_double, next_uint32, next_uint64, read_blocks,
    word_stream,
)

from threading import RLock

import numpy as np

from cdropout.checks import check_integer, shown
from cdropout.stream import Stream, seed_sequence


cdropout_import()

# How many words a key has: 2^62.
cdef object KEY_WORDS = (<object>N_WORDS << BLOCK_BITS) // BLOCKS_AT_ONCE


cdef class StreamBitGenerator(BitGenerator):
    """The raw stream of a seed as a bit generator for `numpy.random.Generator`.

    Its 64-bit outputs are the words, lowest byte first, of what `python -m cdropout stream --seed SEED` writes: the
    same on every instruction set and machine. Threads share it as they do NumPy's own, by its `lock`, which `state` and
    `advance` take too.

    Parameters
    ----------
    seed : None, int, array_like of ints, SeedSequence, BitGenerator or Generator
        As for `Stream`, which has the same key for the same seed: None seeds from the operating system, a generator is
        asked for 128 bits. Arrays of ints are those of `numpy.random.SeedSequence`.

    Raises
    ------
    TypeError
        For a seed of another type.
    ValueError
        For a negative seed.

    Notes
    -----
    A mask drawn from `Stream(seed)` is made of the same bits: give the two different seeds, or children of one
    (`spawn`). A key has 2^62 outputs, after which comes the key with the upper 64 bits larger by one; the period is
    2^126. docs/design.md specifies the stream.

    """

    cdef word_stream stream

    def __init__(self, seed=None):
        if isinstance(seed, Stream):
            raise TypeError("seed must not be a Stream: pass what seeded it, or one of its own")
        if isinstance(seed, (BitGenerator, np.random.Generator)):
            seed = seed_sequence(seed)
        BitGenerator.__init__(self, seed)
        # An older NumPy's cannot be taken again by who holds it, as state and advance do.
        self.lock = RLock()
        low, high = (int(word) for word in self._seed_seq.generate_state(2, np.uint64))
        self.place(low | high << 64, 0, False, 0)
        self._bitgen.state = &self.stream
        self._bitgen.next_uint64 = &next_uint64
        self._bitgen.next_uint32 = &next_uint32
        self._bitgen.next_double = &next_double
        self._bitgen.next_raw = &next_uint64

    cdef int place(self, object key, object position, bint has_uint32, uint32_t uinteger) except -1:
        """Goes to a position of a key."""
        self.stream.key.word[0] = key & 0xFFFFFFFFFFFFFFFF
        self.stream.key.word[1] = key >> 64
        self.stream.first_block = position // N_WORDS * BLOCKS_AT_ONCE
        self.stream.at = position % N_WORDS
        self.stream.has_uint32 = has_uint32
        self.stream.uinteger = uinteger
        read_blocks(&self.stream)
        return 0

    cdef tuple key_and_position(self):
        """Where it is, for whoever holds the lock."""
        key = <object>self.stream.key.word[0] | <object>self.stream.key.word[1] << 64
        return key, <object>self.stream.first_block // BLOCKS_AT_ONCE * N_WORDS + self.stream.at % N_WORDS

    @property
    def state(self):
        """All that the generator is, but for its seed sequence, as a dict of plain ints. Setting it puts it there.

        Keys: `bit_generator`, the class's name; `state`, a dict of `key` (128 bits) and `position` (outputs given of
        this key, below 2^62); `has_uint32` and `uinteger`, the half of an output that `next_uint32` has kept. TypeError
        or ValueError for what is not whole, and nothing changes.
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
        # RandomState adds its own two to what it got from here.
        if set(value) - {"has_gauss", "gauss"} != set(keys):
            raise ValueError(f"state must be a dict with the keys {', '.join(keys)}, got {shown(value)}")
        if value["bit_generator"] != name:
            raise ValueError(f"state must be of a {name}, got one of a {value['bit_generator']!r}")
        inner = value["state"]
        if not isinstance(inner, dict) or set(inner) != set(inner_keys):
            raise ValueError(f"state['state'] must be a dict with the keys {', '.join(inner_keys)}, got {shown(inner)}")
        key = check_integer("state['state']['key']", inner["key"], 0, 2**128 - 1)
        position = check_integer("state['state']['position']", inner["position"], 0, KEY_WORDS - 1)
        has_uint32 = check_integer("state['has_uint32']", value["has_uint32"], 0, 1)
        uinteger = check_integer("state['uinteger']", value["uinteger"], 0, 2**32 - 1)
        with self.lock:
            self.place(key, position, has_uint32, uinteger)

    def advance(self, delta):
        """Move on as if `delta` 64-bit outputs had been drawn.

        Parameters
        ----------
        delta : int
            Taken modulo the period, 2^126; below 0 it moves back.

        Returns
        -------
        StreamBitGenerator
            The generator itself, without the half of an output that `next_uint32` may have kept.

        Raises
        ------
        TypeError
            For a delta that is no integer.

        """
        delta = check_integer("delta", delta)
        with self.lock:
            key, position = self.key_and_position()
            n_keys, position = divmod(position + delta, KEY_WORDS)
            self.place((key + (n_keys << 64)) % 2**128, position, False, 0)
        return self

    def jumped(self, jumps=1):
        """Return a new generator, as many times 2^62 outputs ahead: in the same place of another key's stream.

        Parameters
        ----------
        jumps : int
            How many times. No output of this generator's next 2^62 is one of the new one's: their blocks are seeded
            from different inputs of one bijection.

        Returns
        -------
        StreamBitGenerator
            Without the half of an output that `next_uint32` may have kept here.

        Raises
        ------
        TypeError
            For a number of jumps that is no integer.

        """
        cdef StreamBitGenerator ahead = type(self)()
        ahead.state = self.state
        return ahead.advance(check_integer("jumps", jumps) * KEY_WORDS)
