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
        None seeds from the operating system. An int in [0, 2^128), a sequence of ints of up to four 32-bit words in
        total, or a `numpy.random.SeedSequence` always gives the same stream. A `numpy.random.BitGenerator`, `Generator`
        or `RandomState` gives 128 bits, which advances it.

    Raises
    ------
    TypeError
        For a seed of another type.
    ValueError
        For a negative seed, and for one of more than 128 bits.

    Notes
    -----
    The key is `SeedSequence.generate_state(2, uint64)`; docs/design.md specifies the stream. Keys have 128 bits, so two
    different seeds, or streams that `spawn` and `fold_in` make of them, get the same key with probability 2^-128.

    A sequence is another way to write an int: the 32-bit words of its ints, one int after the other and the lowest word
    first, are the words of the int. So `[5, 7]` is the seed `5 + (7 << 32)`, and `[5, 0]`, `[5]` and `5` are one seed.
    To add a worker's number to a seed of 128 bits, use `fold_in`.

    A `SeedSequence` is used as it is. If its entropy has more words than its pool (four by default), its key can be
    that of another one's child: NumPy appends the numbers of children to the words of the entropy.

    A forked child that continues to use a stream of its parent draws the same masks as the parent: give each worker its
    own stream, made by `spawn`.

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
        """Return the first of n_elems positions and set key. The stream advances by whole blocks. stream_of_rng has
        returned the stream; unless this raises, it runs no Python code."""
        cdef uint64_t first = 0
        key[0] = self.key_words
        if n_elems == 0:
            return 0  # at its end a stream has no position left
        if not take_blocks(&self.next_elem, n_elems, &first):
            raise OverflowError(f"the stream must hold what is drawn, got {n_elems} elements at {self.position}")
        return first

    cdef inline int renew_if_forked(self) except -1:
        """Give the default stream a key of this process, unless it has one."""
        cdef int process = load_int(&self.process)
        while process != 0 and process != this_process:  # a loop, because a signal handler may fork meanwhile
            self.renew()
            process = load_int(&self.process)
        return 0

    cdef int renew(self) except -1:
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
            Number of streams. Successive calls never return the same stream: the children are those of the stream's
            `SeedSequence`, which counts them, also for the code that passed the `SeedSequence`. A stream has at most
            2^32 - 1 children. The stream's position does not change.

        Returns
        -------
        list of Stream
            Streams at position 0.

        Raises
        ------
        TypeError, ValueError
            For an n that is not an integer, is negative, or is more than the children that the stream has left.

        Notes
        -----
        A signal handler that raises, as for Ctrl-C, ends the call. Children that have been counted by then are not
        returned by later calls.

        """
        return spawn_children(self.seeds, n, "n", Stream)

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
        # Every value is read and converted once, because an object of the caller's may give another one next time.
        keys = ("version", "entropy", "spawn_key", "pool_size", "n_children_spawned", "position")
        fields = fetch_fields("state", state, keys)
        check_version("state", fields["version"], STATE_VERSION)
        entropy, spawn_key = [
            [checked_count(f"state[{name!r}]", word) for word in fields[name]]
            if isinstance(fields[name], (list, tuple)) else fields[name]
            for name in ("entropy", "spawn_key")
        ]
        if not isinstance(entropy, list):
            entropy = checked_count("state['entropy']", entropy)
        if not isinstance(spawn_key, list):
            raise TypeError(f"state['spawn_key'] must be a list of ints, got {spawn_key!r}")
        pool_size, n_children_spawned, position = [
            checked_count(f"state[{name!r}]", fields[name]) for name in ("pool_size", "n_children_spawned", "position")
        ]
        if position % BLOCK or position > POSITION_LIMIT:
            raise ValueError(f"state['position'] must be a multiple of {BLOCK} below 2**64, got {shown(position)}")
        if max(n_children_spawned, *spawn_key, 0) >= 1 << 32:
            raise ValueError(
                "state['n_children_spawned'] and the words of state['spawn_key'] must be below 2**32, "
                f"got {shown(n_children_spawned)} and {shown(spawn_key)}"
            )
        if not 4 <= pool_size <= MOST_POOL_SIZE:
            raise ValueError(f"state['pool_size'] must be in [4, {MOST_POOL_SIZE}], got {shown(pool_size)}")
        check_n_words(n_words(entropy) + len(spawn_key), "state")
        seeds = np.random.SeedSequence(
            entropy, spawn_key=tuple(spawn_key), pool_size=pool_size, n_children_spawned=n_children_spawned
        )
        self.reseed(seeds, position)

    def __reduce__(self):
        if type(self) is Stream:
            return restore_stream, (self.state,)
        return restore_stream, (self.state, type(self)), self.__getstate__()

    def __repr__(self):
        return f"Stream(key={self.key:#034x}, position={self.position})"

    def _repr_html_(self):
        from cdropout.display import stream_html

        return stream_html(self)


cdef object checked_count(str name, object value):
    """Return a field of a state as an int; TypeError unless it is one, ValueError if it is negative."""
    number = exact_int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    check_count(name, number)
    return number


def restore_stream(state, stream_type=Stream):
    """Return a stream of a pickled state. A subclass's constructor does not run: it may have other parameters."""
    if not (isinstance(stream_type, type) and issubclass(stream_type, Stream)):
        raise TypeError(f"a pickled stream must be of Stream or a subclass, got {shown(stream_type)}")
    stream = stream_type.__new__(stream_type)
    stream.state = state
    return stream


# ---- children -------------------------------------------------------------------------------------------------------

# fold_in puts this where spawn_key has the number of a child. The numbers of children are below it, and four words
# follow it, so no two of these streams have the same spawn_key.
FOLD_IN_WORD = (1 << 32) - 1

# SeedSequence.spawn does not look for signals; it makes this many children in about 5 ms.
CHILDREN_AT_ONCE = 1024


def spawn_children(seeds, n, name, make):
    """Return make(child) for each of the next n children of a SeedSequence, in a list. Errors call n `name`.

    NumPy counts children in 32 bits, and a count that overflows makes an endless loop."""
    n = check_integer(name, n, 0, FOLD_IN_WORD)
    children = []
    while len(children) < n:
        with process_lock():
            n_spawned, n_left = exact_int(seeds.n_children_spawned), n - len(children)
            if n_spawned + n_left > FOLD_IN_WORD:
                raise ValueError(
                    f"{name} must be at most {FOLD_IN_WORD - n_spawned}, because {n_spawned} of {FOLD_IN_WORD} "
                    f"children have been spawned, got {n_left}"
                )
            spawned = seeds.spawn(min(n_left, CHILDREN_AT_ONCE))
        children += [make(child) for child in spawned]
        PyErr_CheckSignals()
    return children


# ---- identifiers ----------------------------------------------------------------------------------------------------

# hashlib.sha256, loaded by the first call: importing hashlib takes as long as NumPy's core. While the interpreter ends,
# imports fail, also of modules that have been imported.
cdef object sha256 = None


def identifier_words(identifier):
    """Return the four words of 32 bits that represent an identifier in a spawn_key."""
    global sha256
    if sha256 is None:
        import hashlib

        sha256 = hashlib.sha256
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
    digest = sha256(named).digest()
    return tuple([int.from_bytes(digest[first : first + 4], "little") for first in range(0, 16, 4)])


# ---- seeds ----------------------------------------------------------------------------------------------------------

# A name, because Cython does not check PyObject_IsInstance for errors where a tuple of types has builtin types and
# others: an error of an argument's __class__ would remain set.
cdef tuple INTEGERS = (int, np.integer)


def plain_entropy(seeds):
    """Return a SeedSequence's entropy as an int or a list of ints; TypeError if it is neither."""
    entropy = seeds.entropy
    if type(entropy) is int:
        return entropy
    words = [entropy] if isinstance(entropy, INTEGERS) else list(entropy)
    if not all([isinstance(word, INTEGERS) and not isinstance(word, np.timedelta64) for word in words]):
        raise TypeError(f"the entropy of a SeedSequence must be an int or a sequence of ints, got {entropy!r}")
    return int(entropy) if isinstance(entropy, INTEGERS) else [int(word) for word in words]


# A seed has at most four words of 32 bits, 128 bits. SeedSequence fills the words of its entropy up to its pool's size,
# four, and appends the numbers of children: a larger seed would be a child of a smaller one.
SEED_WORDS = 4

# Limits for the words and the pool of a SeedSequence, whose hash takes time in proportion to their product: 0.3 s for
# both limits. NumPy takes another second to split an int of so many words.
MOST_WORDS = 1 << 16
MOST_POOL_SIZE = 1024


cdef object n_words(object entropy):
    """Return how many words of 32 bits SeedSequence makes of an int, or of a list of ints."""
    if isinstance(entropy, list):
        return sum([n_words(each) for each in entropy])
    return max(1, -(-int.bit_length(entropy) // 32))


cdef int check_n_words(object n, str name) except -1:
    if n > MOST_WORDS:
        raise ValueError(f"{name} must have at most {MOST_WORDS} words of 32 bits as entropy and spawn_key, got {n}")
    return 0


def check_seed(name, seed):
    """Return a seed as an int. Raise TypeError unless it is an integer, ValueError unless it is in [0, 2^128)."""
    if not is_integer(seed):
        raise TypeError(f"{name} must have integers where it is a sequence of seeds, got {seed!r}")
    number = exact_int(seed)
    if number < 0:
        raise ValueError(f"{name} must be 0 or greater where it is a seed, got {shown(number)}")
    if number >= 1 << 32 * SEED_WORDS:
        raise ValueError(f"{name} must be below 2**128 where it is a seed, got {shown(number)}")
    return number


cdef list checked_seeds(object sequence):
    """Return a sequence of seeds as a list of ints; ValueError for more than SEED_WORDS words."""
    # One element beyond the limit is enough: a sequence may be endless.
    seeds = [check_seed("rng", each) for each in itertools.islice(sequence, SEED_WORDS + 1)]
    if n_words(seeds) > SEED_WORDS:
        raise ValueError(
            f"rng must have at most {SEED_WORDS} words of 32 bits where it is a sequence of seeds, got "
            f"{', '.join(map(shown, seeds))}{', ...' if len(seeds) > SEED_WORDS else ''}; "
            "Stream.fold_in takes any number"
        )
    return seeds


def seed_sequence(seed):
    """Return the SeedSequence of any rng except a Stream; a generator or RandomState is advanced by 128 bits."""
    random = np.random
    if seed is None or isinstance(seed, random.SeedSequence):
        return seed if seed is not None else random.SeedSequence()
    if is_integer(seed):
        return random.SeedSequence(check_seed("rng", seed))
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes, bytearray, memoryview)) or (
        isinstance(seed, np.ndarray) and seed.ndim == 1
    ):
        return random.SeedSequence(checked_seeds(seed))
    if isinstance(seed, random.RandomState):
        return random.SeedSequence(int.from_bytes(seed.bytes(16)[:16], "little"))
    if isinstance(seed, random.BitGenerator):
        seed = random.Generator(seed)
    if isinstance(seed, random.Generator):
        low, high = [int(word) for word in seed.integers(0, 2**64 - 1, size=2, dtype=np.uint64, endpoint=True)]
        return random.SeedSequence(check_seed("rng", low | high << 64))
    raise TypeError(
        "rng must be None, an int, a sequence of ints, a SeedSequence, a BitGenerator, a Generator, a RandomState or a "
        f"Stream, got {type(seed).__name__}"
    )


cdef int check_seeds(object entropy, object spawn_key, object pool_size) except -1:
    """Raise TypeError or ValueError if the state of a stream cannot hold these fields of a SeedSequence."""
    words = 1 if type(entropy) is int and entropy >> 32 == 0 else n_words(entropy)
    if spawn_key:
        if not all([is_integer(word) and 0 <= word < 1 << 32 for word in spawn_key]):
            raise ValueError(f"the spawn_key of a SeedSequence must have ints below 2**32, got {shown(spawn_key)}")
        words += len(spawn_key)
    check_n_words(words, "a SeedSequence")
    if pool_size > MOST_POOL_SIZE:
        raise ValueError(f"the pool_size of a SeedSequence must be at most {MOST_POOL_SIZE}, got {pool_size}")
    return 0


def key_of_seeds(seeds):
    """Return the 128 bits of the stream that a SeedSequence seeds; TypeError or ValueError if no state can hold it."""
    check_seeds(plain_entropy(seeds), seeds.spawn_key, seeds.pool_size)
    low, high = [int(word) for word in seeds.generate_state(2, np.uint64)]
    return low | high << 64


# ---- which stream an rng argument stands for ------------------------------------------------------------------------

# The stream of rng=None. Each process gives it another key at its first draw, so that workers never repeat each other's
# masks.
cdef Stream default_stream = Stream.__new__(Stream)
store_int(&default_stream.process, -1)  # a number that no process has


cdef Stream stream_of_rng(object rng):
    """Return the stream that rng stands for, with a key for this process. Call it after all checks and allocations,
    because a generator advances, and before check_held, because it may run code of the caller."""
    cdef Stream stream
    if isinstance(rng, Stream):
        stream = rng
    else:
        stream = default_stream if rng is None else Stream(rng)
    stream.renew_if_forked()
    return stream


def as_stream(rng):
    """Return the stream that rng stands for: the default stream for None, rng itself if it is a Stream."""
    return stream_of_rng(rng)


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
