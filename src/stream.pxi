"""Streams: the class `Stream`, the default stream, and which stream an rng argument stands for."""

BLOCK = ELEMS_PER_BLOCK
POSITION_LIMIT = LIMIT
STATE_VERSION = 1

# Held while a SeedSequence counts its children, which NumPy does without a lock, and while the default stream gets its
# key. Python's fork waits for it, because a child must not inherit either half done. A fork from C bypasses Python's
# hooks, and in the child the lock's owner may not exist: so each process has its own lock.
cdef dict locks = {}


def process_lock():
    return locks.setdefault(this_process, threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: process_lock().acquire(), after_in_parent=lambda: process_lock().release())


# ---- keys as ints ---------------------------------------------------------------------------------------------------

cdef inline void set_key(stream_key *key, object number):
    cdef uint64_t low = number & 0xFFFFFFFFFFFFFFFF, high = number >> 64
    key.word[0], key.word[1] = low, high  # both or none: the lines above may lack memory


cdef inline object key_number(const stream_key *key):
    return <object>key.word[1] << 64 | key.word[0]


# ---- streams --------------------------------------------------------------------------------------------------------

cdef class Stream:
    """Stream(seed=None)\n--\n
    A reproducible, endless sequence of random positions that masks are drawn from.

    Every draw takes the next positions, rounded up to whole blocks of 4096 elements. No position is taken twice, even
    if several threads draw at the same time. The bits at a position depend on the seed alone, not on the number of
    threads, the instruction set or the machine.

    Parameters
    ----------
    seed : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        None seeds from the operating system. An int (0 or greater, of any size), a sequence of such ints or a
        `numpy.random.SeedSequence` always gives the same stream. A `numpy.random.BitGenerator`, `Generator` or
        `RandomState` gives 128 bits, which advances it.

    Raises
    ------
    TypeError
        For a seed of another type.
    ValueError
        For a negative seed.

    Notes
    -----
    The key is `SeedSequence.generate_state(2, uint64)`; docs/design.md specifies the stream. Keys have 128 bits, so two
    seeds or children get the same key with probability 2^-128. A forked child that continues to use a stream of its
    parent draws the same masks as the parent: give each worker its own stream, made by `spawn`.

    """

    cdef object __weakref__
    cdef stream_key key_words
    cdef uint64_t next_elem
    # The process that the key is for; 0 if every process that has a copy of the stream uses the key.
    cdef int process
    cdef object seeds

    def __init__(self, seed=None):
        if isinstance(seed, Stream):
            raise TypeError("seed must not be a Stream: pass the stream itself as rng, or one of its spawn()")
        self.reseed(seed_sequence(seed), 0)

    @property
    def key(self):
        """The 128 bits that identify the stream, an int."""
        return key_number(&self.key_words)

    @property
    def position(self):
        """The index of the next element to be drawn, an int and a multiple of 4096."""
        return load_u64(&self.next_elem)

    @property
    def _seed_sequence(self):
        return self.seeds

    cdef int reseed(self, object seeds, object position) except -1:
        self._place(key_of_seeds(seeds), position)
        self.seeds = seeds
        return 0

    def _place(self, key, position):
        """Put the stream at a position (in elements, a multiple of 4096) of the stream with this key."""
        cdef uint64_t next_elem = position
        set_key(&self.key_words, key)
        store_u64(&self.next_elem, next_elem)

    # ---- taking positions -------------------------------------------------------------------------------------------

    cdef uint64_t take(self, uint64_t n_elems, stream_key *key) except? 0:
        """Return the first of n_elems positions and set key. The stream advances by whole blocks."""
        cdef uint64_t first = 0
        cdef int process = load_int(&self.process)
        while process != 0 and process != this_process:  # a loop, because a signal handler may fork meanwhile
            self.renew()
            process = load_int(&self.process)
        key[0] = self.key_words
        if n_elems == 0:
            return 0  # at its end a stream has no position left
        if not take_blocks(&self.next_elem, n_elems, &first):
            raise OverflowError(f"the stream must hold what is drawn, got {n_elems} elements at {self.position}")
        return first

    cdef int renew(self) except -1:
        """Give the default stream a key of this process, unless it has one."""
        with process_lock():
            process = this_process  # read first: after a fork from here on, the child has to renew again
            if load_int(&self.process) != process:
                self.reseed(np.random.SeedSequence(), 0)
                store_int(&self.process, process)
        return 0

    def _take_back(self, Drawn drawn not None, uint64_t n_draws=1):
        """Undo the drawing of a mask or noise, and of the n_draws - 1 like it that followed, unless something else has
        been drawn since."""
        cdef uint64_t n_elems = n_drawn(drawn.shape, getattr(drawn, "shared_axes", ()))
        return_blocks(&self.next_elem, n_draws * in_whole_blocks(n_elems), drawn.first)

    # ---- other streams of the same seed -----------------------------------------------------------------------------

    def spawn(self, n):
        """Return n new streams, independent of this one and of each other.

        Parameters
        ----------
        n : int
            Number of streams, from 0 to 2^32. Successive calls never return the same stream: the children are those of
            the stream's `SeedSequence`, which counts them, also for the code that passed the `SeedSequence`. The
            stream's position does not change.

        Returns
        -------
        list of Stream
            Streams at position 0.

        Raises
        ------
        TypeError, ValueError
            For an n that is not such an integer.

        """
        n = check_integer("n", n, 0, 1 << 32)  # more streams than fit into memory
        with process_lock():
            children = self.seeds.spawn(n)
        return [Stream(child) for child in children]

    def fold_in(self, identifier):
        """Return the stream of an identifier, for example of a request or a sample.

        The stream depends on this stream's seed and on the identifier alone. Nothing is counted and no lock is taken:
        every thread and machine gets the same stream, in any order. `spawn` never returns one of these streams.

        Parameters
        ----------
        identifier : int, str or bytes
            An int must be 0 or greater, of any size. 1, "1" and b"1" are three identifiers.

        Returns
        -------
        Stream
            A stream at position 0.

        Raises
        ------
        TypeError
            For an identifier of another type.
        ValueError
            For a negative identifier.

        Notes
        -----
        The name is JAX's (`jax.random.fold_in`). Identifiers are hashed to 128 bits by SHA-256, so two of them get the
        same stream with probability 2^-128. docs/design.md specifies the hash.

        """
        spawn_key = (*self.seeds.spawn_key, FOLD_IN_WORD, *identifier_words(identifier))
        return Stream(
            np.random.SeedSequence(plain_entropy(self.seeds), spawn_key=spawn_key, pool_size=self.seeds.pool_size)
        )

    # ---- saving and restoring ---------------------------------------------------------------------------------------

    @property
    def state(self):
        """The whole state of the stream: a dict of plain ints and lists, which JSON can hold. Setting it restores it.

        Keys: `version`; `entropy` (int or list of ints), `spawn_key` (list of ints) and `pool_size` of the
        `SeedSequence`; `n_children_spawned`; `position`, in elements. An incomplete or invalid state raises ValueError
        or TypeError and changes nothing. Do not set the state while another thread draws.
        """
        return {
            "version": STATE_VERSION,
            "entropy": plain_entropy(self.seeds),
            "spawn_key": [int(word) for word in self.seeds.spawn_key],
            "pool_size": int(self.seeds.pool_size),
            "n_children_spawned": int(self.seeds.n_children_spawned),
            "position": self.position,
        }

    @state.setter
    def state(self, state):
        keys = ("version", "entropy", "spawn_key", "pool_size", "n_children_spawned", "position")
        if not isinstance(state, dict) or set(state) != set(keys):
            raise ValueError(f"state must be a dict with the keys {', '.join(keys)}, got {shown(state)}")
        check_version("state", state["version"], STATE_VERSION)
        entropy, spawn_key = state["entropy"], state["spawn_key"]
        for name, words in (("entropy", entropy), ("spawn_key", spawn_key)):
            if not isinstance(words, (list, tuple)) and name == "spawn_key":
                raise TypeError(f"state[{name!r}] must be a list of ints, got {words!r}")
            for word in words if isinstance(words, (list, tuple)) else [words]:
                check_count(f"state[{name!r}]", word)
        for name in ("pool_size", "n_children_spawned", "position"):
            check_count(f"state[{name!r}]", state[name])
        if state["position"] % BLOCK or state["position"] > POSITION_LIMIT:
            raise ValueError(
                f"state['position'] must be a multiple of {BLOCK} below 2**64, got {shown(state['position'])}"
            )
        if max(state["n_children_spawned"], *spawn_key, 0) >= 1 << 32:
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
        self.reseed(seeds, state["position"])

    def __reduce__(self):
        if type(self) is Stream:
            return restore_stream, (self.state,)
        return restore_stream, (self.state, type(self)), self.__getstate__()

    def __repr__(self):
        return f"Stream(key={self.key:#034x}, position={self.position})"

    def _repr_html_(self):
        from cdropout.display import stream_html

        return stream_html(self)


def restore_stream(state, stream_type=Stream):
    """Return a stream of a pickled state. A subclass's constructor does not run: it may have other parameters."""
    if not (isinstance(stream_type, type) and issubclass(stream_type, Stream)):
        raise TypeError(f"a pickled stream must be of Stream or a subclass, got {shown(stream_type)}")
    stream = stream_type.__new__(stream_type)
    stream.state = state
    return stream


# fold_in puts this where spawn_key has the number of a child; spawn never counts so far.
FOLD_IN_WORD = (1 << 32) - 1


def identifier_words(identifier):
    """Return the four words of 32 bits that represent an identifier in a spawn_key."""
    import hashlib  # here, because its import takes as long as that of NumPy's core
    import struct

    if is_integer(identifier):
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


# ---- seeds ----------------------------------------------------------------------------------------------------------

def plain_entropy(seeds):
    """Return a SeedSequence's entropy as an int or a list of ints; TypeError if it is neither."""
    entropy = seeds.entropy
    words = [entropy] if isinstance(entropy, (int, np.integer)) else list(entropy)
    if not all([isinstance(word, (int, np.integer)) and not isinstance(word, np.timedelta64) for word in words]):
        raise TypeError(f"the entropy of a SeedSequence must be an int or a sequence of ints, got {entropy!r}")
    return int(entropy) if isinstance(entropy, (int, np.integer)) else [int(word) for word in words]


cdef object checked_seed(object seed):
    """Return a seed as an int; TypeError if it is not an integer, ValueError if it is negative."""
    if not is_integer(seed):
        raise TypeError(f"rng must have integers where it is a sequence of seeds, got {seed!r}")
    if seed < 0:
        raise ValueError(f"rng must be 0 or greater where it is a seed, got {shown(int(seed))}")
    return int(seed)


def seed_sequence(seed):
    """Return the SeedSequence of any rng except a Stream; a generator or RandomState is advanced by 128 bits."""
    random = np.random
    if seed is None or isinstance(seed, random.SeedSequence):
        return seed if seed is not None else random.SeedSequence()
    if is_integer(seed):
        return random.SeedSequence(checked_seed(seed))
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes, bytearray, memoryview)) or (
        isinstance(seed, np.ndarray) and seed.ndim == 1
    ):
        return random.SeedSequence([checked_seed(each) for each in seed])
    if isinstance(seed, random.RandomState):
        return random.SeedSequence(int.from_bytes(seed.bytes(16), "little"))
    if isinstance(seed, random.BitGenerator):
        seed = random.Generator(seed)
    if isinstance(seed, random.Generator):
        low, high = [int(word) for word in seed.integers(0, 2**64 - 1, size=2, dtype=np.uint64, endpoint=True)]
        return random.SeedSequence(low | high << 64)
    raise TypeError(
        "rng must be None, an int, a sequence of ints, a SeedSequence, a BitGenerator, a Generator, a RandomState or a "
        f"Stream, got {type(seed).__name__}"
    )


def key_of_seeds(seeds):
    """Return the 128 bits of the stream that a SeedSequence seeds; TypeError for an entropy that no state can hold."""
    plain_entropy(seeds)
    low, high = [int(word) for word in seeds.generate_state(2, np.uint64)]
    return low | high << 64


# ---- which stream an rng argument stands for ------------------------------------------------------------------------

# The stream of rng=None. Each process gives it another key at its first draw, so that workers never repeat each other's
# masks.
cdef Stream default_stream = Stream.__new__(Stream)
store_int(&default_stream.process, -1)  # a number that no process has


cdef Stream stream_of_rng(object rng):
    """Return the stream that rng stands for. Call it after all checks and allocations, because a generator advances."""
    if isinstance(rng, Stream):
        return rng
    return default_stream if rng is None else Stream(rng)


def as_stream(rng):
    """Return the stream that rng stands for: the default stream for None, rng itself if it is a Stream."""
    cdef Stream stream = stream_of_rng(rng)
    if rng is None:
        stream.renew()
    return stream


# ---- raw output -----------------------------------------------------------------------------------------------------

def raw_blocks(key, first_block, n_blocks):
    """Return the generator's raw output, 8192 bytes a block: uint8 of shape (n_blocks * 8192,)."""
    cdef stream_key words
    cdef uint64_t block = first_block
    cdef size_t n = n_blocks
    if n > 1 << 32:
        raise ValueError(f"n_blocks must be at most 2**32, got {n_blocks}")
    set_key(&words, key)
    cdef cnp.ndarray raw = np.empty(n * RAW_BYTES_PER_BLOCK, np.uint8)
    cdef uint8_t *out = <uint8_t *>cnp.PyArray_BYTES(raw)
    with nogil:
        kernels.fill_raw(out, &words, block, n)
    return raw
