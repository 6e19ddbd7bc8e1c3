"""Who draws which bits: streams, their seeds, and the default stream."""

import os
import struct
import threading
from typing import TYPE_CHECKING, Any, ForwardRef, TypeAlias

import numpy as np

from cdropout import _kernels
from cdropout._kernels import plain_entropy, seed_sequence
from cdropout.checks import check_integer, shown

STATE_VERSION = 1

# Held while a SeedSequence counts its children, which NumPy does without a lock, and while the default stream gets its
# key. Python's fork waits for it: a child must not inherit either half done. A fork from C bypasses Python's hooks, and
# in the child the lock's owner may not exist: so each process has its own lock.
_locks: dict[int, Any] = {}


def _lock() -> Any:
    return _locks.setdefault(_kernels.process_number(), threading.RLock())


class Stream(_kernels.StreamCore):
    """A reproducible, endless row of random positions that masks are drawn from.

    Every draw takes the next positions, rounded up to whole blocks of 4096 elements, and no position is taken twice,
    also when several threads draw at the same time. What a position holds depends on the seed alone: not on the number
    of threads, the instruction set or the machine.

    Parameters
    ----------
    seed : None, int, SeedSequence, BitGenerator or Generator
        None seeds from the operating system. An int (0 or greater, of any size) or a `numpy.random.SeedSequence` always
        gives the same stream. A `numpy.random.BitGenerator` or `Generator` is asked for 128 bits, which advances it.

    Raises
    ------
    TypeError
        For a seed of another type.
    ValueError
        For a negative seed.

    Notes
    -----
    The key is `SeedSequence.generate_state(2, uint64)`; the specification is in docs/design.md. Keys
    have 128 bits: those of different seeds and children are as unlikely to meet as that says. A forked child that goes
    on with a stream of its parent's draws the same masks as the parent does: give each worker one of `spawn`.

    """

    __slots__ = ("_seed_sequence",)

    def __init__(self, seed: "None | Rng" = None) -> None:
        if isinstance(seed, Stream):
            raise TypeError("seed must not be a Stream: pass the stream itself as rng, or one of its spawn()")
        self._reseed(seed_sequence(seed), position=0)

    def _reseed(self, seeds: "np.random.SeedSequence", position: int) -> None:
        self._place(_kernels.key_of_seeds(seeds), position)
        self._seed_sequence = seeds

    def _renew(self) -> None:
        """Give the default stream a key of this process, unless it has one."""
        with _lock():
            process = _kernels.process_number()  # first: who forks from here on has to do it again
            if self._process != process:
                self._reseed(np.random.SeedSequence(), position=0)
                self._process = process

    def spawn(self, n: int) -> "list[Stream]":
        """Return n new streams, independent of this one and of each other.

        Parameters
        ----------
        n : int
            How many, from 0 to 2^32. Successive calls never return the same stream: the children are those of the
            stream's `SeedSequence`, which counts them, also for whoever passed it. The stream's position stays where
            it is.

        Returns
        -------
        list of Stream
            Each at position 0.

        Raises
        ------
        TypeError, ValueError
            For an n that is no such integer.

        """
        n = check_integer("n", n, 0, 1 << 32)  # as many as no machine holds
        with _lock():
            children = self._seed_sequence.spawn(n)
        return [Stream(child) for child in children]

    def fold_in(self, identifier: int | str | bytes) -> "Stream":
        """Return the stream of an identifier, such as a request's or a sample's: the same for the same one, always.

        It depends on this stream's seed and on the identifier alone: nothing is counted and no lock is taken, so that
        any thread or machine gets it in any order. `spawn` never returns one of these streams.

        Parameters
        ----------
        identifier : int, str or bytes
            An int of 0 or greater, of any size. 1, "1" and b"1" are three identifiers.

        Returns
        -------
        Stream
            At position 0.

        Raises
        ------
        TypeError
            For an identifier of another type.
        ValueError
            For a negative one.

        Notes
        -----
        The name is JAX's (`jax.random.fold_in`). The streams of two identifiers are as unlikely to meet as 128 bits of
        SHA-256 are; docs/design.md specifies them.

        """
        seeds = self._seed_sequence
        spawn_key = (*seeds.spawn_key, FOLD_IN_WORD, *identifier_words(identifier))
        return Stream(np.random.SeedSequence(plain_entropy(seeds), spawn_key=spawn_key, pool_size=seeds.pool_size))

    @property
    def state(self) -> dict[str, Any]:
        """All that the stream is, in plain ints and lists: a dict that JSON can hold. Setting it puts the stream there.

        Keys: `version`; `entropy` (int or list of ints), `spawn_key` (list of ints) and `pool_size` of the
        `SeedSequence`; `n_children_spawned`; `position`, in elements. A state that is not whole raises ValueError or
        TypeError and changes nothing. Do not set it while another thread draws.
        """
        seeds = self._seed_sequence
        return {
            "version": STATE_VERSION,
            "entropy": plain_entropy(seeds),
            "spawn_key": [int(word) for word in seeds.spawn_key],
            "pool_size": int(seeds.pool_size),
            "n_children_spawned": int(seeds.n_children_spawned),
            "position": self.position,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        keys = ("version", "entropy", "spawn_key", "pool_size", "n_children_spawned", "position")
        if not isinstance(state, dict) or set(state) != set(keys):
            raise ValueError(f"state must be a dict with the keys {', '.join(keys)}, got {shown(state)}")
        check_version("state", state["version"])
        entropy, spawn_key = state["entropy"], state["spawn_key"]
        for name, words in (("entropy", entropy), ("spawn_key", spawn_key)):
            if not isinstance(words, list | tuple) and name == "spawn_key":
                raise TypeError(f"state[{name!r}] must be a list of ints, got {words!r}")
            for word in words if isinstance(words, list | tuple) else [words]:
                check_count(f"state[{name!r}]", word)
        for name in ("pool_size", "n_children_spawned", "position"):
            check_count(f"state[{name!r}]", state[name])
        if state["position"] % _kernels.BLOCK or state["position"] > _kernels.POSITION_LIMIT:
            raise ValueError(
                f"state['position'] must be a multiple of {_kernels.BLOCK} below 2**64, got {shown(state['position'])}"
            )
        if max(state["n_children_spawned"], *spawn_key, 0) >= 2**32:
            raise ValueError(
                "state['n_children_spawned'] and the words of state['spawn_key'] must be below 2**32, "
                f"got {shown(state['n_children_spawned'])} and {shown(spawn_key)}"
            )
        if not 4 <= state["pool_size"] <= 1024:
            raise ValueError(f"state['pool_size'] must be in [4, 1024], got {shown(state['pool_size'])}")
        seeds = np.random.SeedSequence(
            entropy,
            spawn_key=tuple(spawn_key),
            pool_size=state["pool_size"],
            n_children_spawned=state["n_children_spawned"],
        )
        self._reseed(seeds, state["position"])

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_stream, (self.state,)

    def __repr__(self) -> str:
        return f"Stream(key={self.key:#034x}, position={self.position})"

    def _repr_html_(self) -> str:
        from cdropout.display import stream_html

        return stream_html(self)


# What SPEC 7 (https://scientific-python.org/specs/spec-0007/) lets a caller pass as rng=, and our own stream. A string,
# because numpy.random takes longer to import than the rest of this library: what first needs a seed imports it.
Rng: TypeAlias = (
    "Stream | int | np.integer[Any] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator"
)
if not TYPE_CHECKING:
    Rng = ForwardRef(Rng, module=__name__)  # typing.get_type_hints finds its names here, whoever uses it


def restore_stream(state: dict[str, Any]) -> Stream:
    """Make a stream of a pickled state."""
    stream = Stream(0)
    stream.state = state
    return stream


# In the place where a child's number stands in a spawn_key: more children than spawn could have numbered.
FOLD_IN_WORD = 2**32 - 1


def identifier_words(identifier: int | str | bytes) -> tuple[int, ...]:
    """Return the four words of 32 bits that stand for an identifier in a spawn_key."""
    import hashlib  # here, because it takes as long to import as NumPy's core

    if isinstance(identifier, int | np.integer) and not isinstance(identifier, bool):
        if identifier < 0:
            raise ValueError(f"identifier must be 0 or greater where it is an int, got {shown(int(identifier))}")
        named = b"i" + f"{int(identifier):x}".encode()
    elif isinstance(identifier, str):
        named = b"s" + identifier.encode("utf-8", "surrogatepass")
    elif isinstance(identifier, bytes):
        named = b"b" + identifier
    else:
        raise TypeError(f"identifier must be an int, a str or bytes, got {identifier!r}")
    return struct.unpack("<4I", hashlib.sha256(named).digest()[:16])


def check_version(name: str, version: object) -> None:
    """Raise ValueError unless a saved state is of the version that is read here."""
    if type(version) is not int or version != STATE_VERSION:
        raise ValueError(f"{name} must be of version {STATE_VERSION}, got version {shown(version)}")


def check_count(name: str, value: object) -> None:
    """Raise unless value is an int of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or greater, got {shown(value)}")


def as_stream(rng: "None | Rng") -> Stream:
    """Return the stream that rng stands for: the default stream for None, rng itself where it is a Stream."""
    if isinstance(rng, Stream):
        return rng
    if rng is not None:
        return Stream(rng)
    _default_stream._renew()
    return _default_stream


# What rng=None draws from. Its key differs from process to process, so that workers never repeat each other's masks.
# The first draw in a process seeds it.
_default_stream = Stream.__new__(Stream)
_default_stream._process = _kernels.NO_PROCESS
_kernels.set_default_stream(_default_stream)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _lock().acquire(), after_in_parent=lambda: _lock().release())
