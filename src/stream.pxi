"""Streams: a key and the next position; which stream an rng argument stands for; and the generator's raw output."""

NO_PROCESS = -1  # what process_number() never gives
BLOCK = ELEMS_PER_BLOCK
POSITION_LIMIT = LIMIT


cdef inline void set_key(stream_key *key, object number):
    key.word[0] = number & 0xFFFFFFFFFFFFFFFF
    key.word[1] = number >> 64


cdef inline object key_number(const stream_key *key):
    return <object>key.word[1] << 64 | key.word[0]


cdef class StreamCore:
    """A key and the next position, which threads may advance at the same time; cdropout.Stream adds the seed."""

    cdef stream_key words
    cdef uint64_t next_elem
    cdef int process

    @property
    def key(self):
        """The 128 bits that name the stream, an int."""
        return key_number(&self.words)

    @property
    def position(self):
        """The index of the next element to be drawn, an int and a multiple of 4096."""
        return load_u64(&self.next_elem)

    def _place(self, key, position):
        """Puts the stream at a position (elements, a multiple of 4096) of the stream named by key."""
        cdef uint64_t next_elem = position
        set_key(&self.words, key)
        store_u64(&self.next_elem, next_elem)

    @property
    def _process(self):
        """The process_number() that the key is for; 0, at first, where it is for every process that has it."""
        return load_int(&self.process)

    @_process.setter
    def _process(self, int number):
        store_int(&self.process, number)

    cdef uint64_t take(self, uint64_t n_elems, stream_key *key) except? 0:
        """The first of n_elems positions of the stream's key that nobody else gets; the stream advances by whole
        blocks."""
        cdef uint64_t first = 0
        cdef int process = load_int(&self.process)
        while process != 0 and process != this_process:  # again, where the handler of a signal forks meanwhile
            self._renew()
            process = load_int(&self.process)
        key[0] = self.words
        if n_elems == 0:
            return 0  # at its end a stream has no position left to name
        if not take_blocks(&self.next_elem, n_elems, &first):
            raise OverflowError(f"the stream must hold what is drawn, got {n_elems} elements at {self.position}")
        return first

    def _take_back(self, MaskCore mask not None):
        """Undoes the drawing of a mask that came to nothing, unless somebody has drawn since."""
        return_blocks(&self.next_elem, n_drawn(mask.shape, mask.shared_axes), mask.first)


# ---- which stream an rng argument stands for ------------------------------------------------------------------------

def plain_entropy(seeds):
    """Return a SeedSequence's entropy as an int or a list of ints; TypeError where it is neither."""
    entropy = seeds.entropy
    words = [entropy] if isinstance(entropy, (int, np.integer)) else list(entropy)
    if not all([isinstance(word, (int, np.integer)) for word in words]):
        raise TypeError(f"the entropy of a SeedSequence must be an int or a sequence of ints, got {entropy!r}")
    return int(entropy) if isinstance(entropy, (int, np.integer)) else [int(word) for word in words]


def seed_sequence(seed):
    """Turn any SPEC 7 rng but a Stream into a SeedSequence; a generator is advanced by 128 bits."""
    random = np.random
    if seed is None or isinstance(seed, random.SeedSequence):
        return seed if seed is not None else random.SeedSequence()
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        if seed < 0:
            raise ValueError(f"rng must be 0 or greater where it is a seed, got {shown(int(seed))}")
        return random.SeedSequence(int(seed))
    if isinstance(seed, random.BitGenerator):
        seed = random.Generator(seed)
    if isinstance(seed, random.Generator):
        low, high = [int(word) for word in seed.integers(0, 2**64 - 1, size=2, dtype=np.uint64, endpoint=True)]
        return random.SeedSequence(low | high << 64)
    raise TypeError(
        f"rng must be None, an int, a SeedSequence, a BitGenerator, a Generator or a Stream, got {type(seed).__name__}"
    )


def key_of_seeds(seeds):
    """Return the 128 bits of the stream that a SeedSequence seeds; TypeError for an entropy that no state can hold."""
    plain_entropy(seeds)
    low, high = [int(word) for word in seeds.generate_state(2, np.uint64)]
    return low | high << 64


# What rng=None draws from: a cdropout.Stream, which cdropout/stream.py makes.
cdef StreamCore default_stream = None


def set_default_stream(StreamCore stream not None):
    """Sets the stream that rng=None stands for."""
    global default_stream
    default_stream = stream


cdef StreamCore stream_of_rng(object rng):
    """The stream that rng stands for. Called when all arguments are checked and all memory is allocated, because a
    generator advances."""
    cdef StreamCore stream
    if isinstance(rng, StreamCore):
        return rng
    if rng is None:
        return default_stream
    key = key_of_seeds(seed_sequence(rng))
    stream = StreamCore.__new__(StreamCore)
    set_key(&stream.words, key)
    return stream


# ---- raw output -----------------------------------------------------------------------------------------------------

def raw_blocks(key, first_block, n_blocks):
    """The generator's own output, 8192 bytes a block: uint8 of shape (n_blocks * 8192,)."""
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
