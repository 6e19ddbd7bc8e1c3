"""Streams: a key and the next position, and the raw output that they name."""

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


def philox(counter, key):
    """Philox4x32-10 as the C core computes it: four uint32 for a counter of four and a 64-bit key."""
    cdef uint32_t words[4]
    for i in range(4):
        words[i] = counter[i]
    philox4x32(words, key)
    return [words[i] for i in range(4)]
