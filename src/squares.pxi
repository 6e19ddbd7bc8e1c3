"""Squares of images, for cdropout.drop_block2d. Part of _kernels.pyx.

What is kept outside of the squares is known before any element is computed, because the scale depends on its number. So
a call runs two jobs: the first one makes keep words, the second one multiplies by them."""


@cython.final
@cython.auto_pickle(False)
cdef class KeptElements:
    """Which elements of an array are kept, as bits: an immutable value of a shape."""

    cdef readonly tuple shape
    cdef readonly size_t n_elems, n_kept
    cdef bytes words  # keep words in the order of the elements (job.h), followed by one more

    def __cinit__(self):
        self.shape, self.n_elems, self.n_kept, self.words = (0,), 0, 0, bytes(sizeof(uint64_t))

    @property
    def n_bytes(self):
        """The size of the words."""
        return len(self.words)

    @staticmethod
    def of_bools(cnp.ndarray keep not None):
        """Return the elements where an array of bool is True."""
        cdef KeptElements kept = KeptElements.__new__(KeptElements)
        if cnp.PyArray_TYPE(keep) != cnp.NPY_BOOL:
            raise TypeError(f"keep must be an array of bool, got dtype {keep.dtype}")
        kept.make_room((<object>keep).shape, cnp.PyArray_SIZE(keep))
        bits = np.packbits(keep, bitorder="little").tobytes()
        kept.words = np.frombuffer(bits + bytes(len(kept.words) - len(bits)), "<u8").astype(np.uint64).tobytes()
        kept.n_kept = count_kept(<const uint64_t *>PyBytes_AS_STRING(kept.words), kept.n_elems)
        return kept

    def bools(self):
        """Return a bool array of the shape, True where an element is kept."""
        words = np.frombuffer(self.words, np.uint64).astype("<u8", copy=False)
        bits = np.unpackbits(words.view(np.uint8), count=self.n_elems, bitorder="little")
        return bits.view(np.bool_).reshape(self.shape)

    def apply(self, a, str name, out):
        """Return an array with kept elements times (number of elements / number kept) and dropped ones 0.

        The array and out as in `Mask.apply`, for floats only; errors call the array `name`."""
        cdef held_arrays held
        begin_holding(&held, True)
        cdef cnp.ndarray x = checked_array(a, name)
        hold(&held, x, name)
        if not has_shape(x, self.shape):
            raise ValueError(f"{name} must have the output's shape {self.shape}, got {(<object>x).shape}")
        cdef cnp.ndarray result = checked_out(out, x, name)
        hold(&held, result, "out", True, True)
        cdef Container container = container_for(result, out, a, None, None)
        cdef Scratch scratch = scratch_for(result, x, None, False, &held)
        cdef job_request request = blank_request(OPERATION_apply_mask, dtype_index(x))
        self.set_request(&request)
        check_held(&held)
        run_on_arrays(&request, result, x, None, scratch, &held)
        return in_container(result, container)

    cdef int make_room(self, tuple shape, size_t n_elems) except -1:
        """Set the shape, and allocate the words."""
        cdef size_t n_words = (n_elems + 63) // 64
        self.shape, self.n_elems = shape, n_elems
        self.words = PyBytes_FromStringAndSize(NULL, (n_words + 1) * sizeof(uint64_t))
        (<uint64_t *>PyBytes_AS_STRING(self.words))[n_words] = 0
        return 0

    cdef int set_request(self, job_request *request) except -1:
        """Set the decisions and the scale of a request, which is a copy if all elements are kept."""
        request.scale = <double>self.n_elems / <double>self.n_kept if self.n_kept > 0 else 1.0
        request.keep_words = NULL
        if self.n_kept != self.n_elems:
            request.keep_words = <const uint64_t *>PyBytes_AS_STRING(self.words)
        return 0


cdef int height_axis(int n_dims, object channels, object spatial_axes) except -1:
    """Return the first of cdropout.functions.shared_axes.spatial_axes for images. It is called only where it raises an
    error, because it takes as long as a thousand elements."""
    if 3 <= n_dims <= 4 and type(channels) is str and (channels == "first" or channels == "last"):
        return n_dims - (2 if channels == "first" else 3)
    return spatial_axes(2, n_dims, channels)[0]


def drop_squares(x, p, block_size, channels, rng, out, spatial_axes):
    """Return the result of cdropout.drop_block2d, with its arguments, and the elements that are kept.

    spatial_axes: the function of cdropout.functions.shared_axes."""
    cdef held_arrays held
    cdef job_request request
    cdef job j
    cdef squares images
    cdef keep_bits bits
    cdef size_t i, n_counts, n_kept = 0
    cdef uint64_t first, n_positions
    begin_holding(&held, True)
    cdef cnp.ndarray array = checked_array(x, "x")
    hold(&held, array, "x")
    cdef int axis = height_axis(cnp.PyArray_NDIM(array), channels, spatial_axes)
    check_held(&held)  # comparing channels may have run code of the caller: x must still have these axes
    cdef bint is_last = axis == cnp.PyArray_NDIM(array) - 3
    cdef Py_ssize_t height = cnp.PyArray_DIM(array, axis), width = cnp.PyArray_DIM(array, axis + 1)
    cdef Py_ssize_t n_channels = cnp.PyArray_DIM(array, axis + 2) if is_last else 1
    cdef Py_ssize_t most = min(height, width)
    if not (PyLong_CheckExact(block_size) and 1 <= block_size <= most):
        block_size = check_integer("block_size", block_size, 1, most)
    cdef Py_ssize_t side = block_size, n_rows = height - side + 1, n_columns = width - side + 1
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray result = checked_out(out, array, "x")
    hold(&held, result, "out", True, True)
    cdef Container container = container_for(result, out, x, None, None)
    # The paper's gamma. In Python's numbers, because the product of the integers may need more than 64 bits.
    gamma = <object>p_checked * height * width / (<object>side * side * <object>n_rows * n_columns)
    images.height, images.width, images.side = height, width, side
    images.n_channels = n_channels
    images.n_images = cnp.PyArray_SIZE(array) // max(<size_t>1, height * width * images.n_channels)
    cdef KeptElements kept = KeptElements.__new__(KeptElements)
    kept.make_room((<object>array).shape, cnp.PyArray_SIZE(array))
    n_counts = squares_counts(&images)
    cdef bytes counts = PyBytes_FromStringAndSize(NULL, n_counts * sizeof(size_t))
    cdef Scratch scratch = scratch_for(result, array, None, False, &held)
    request = blank_request(OPERATION_apply_mask, dtype_index(array))
    request.p = 1.0 if p_checked == 1.0 or gamma > 1.0 else gamma
    set_bits(&bits, None, None)
    bits.words = <uint64_t *>PyBytes_AS_STRING(kept.words)
    bits.counts = <size_t *>PyBytes_AS_STRING(counts)
    # One position for each place of a square's upper left corner, channels first whatever x's layout.
    n_positions = <uint64_t>images.n_images * images.n_channels * n_rows * n_columns
    cdef Stream stream = stream_of_rng(rng)
    check_held(&held)
    first = request.first = stream.take(n_positions, &request.key)
    try:
        if job_plan_squares(&j, &request, &images, &bits) != 0:
            raise SystemError("checked images must be ones that can be planned: please report this")
        run_job(&j, &held)
        for i in range(n_counts):
            n_kept += bits.counts[i]
        kept.n_kept = n_kept
        request.p, request.first = 0.0, 0
        kept.set_request(&request)
        check_held(&held)
        run_on_arrays(&request, result, array, None, scratch, &held)
    except (MemoryError, SystemError):  # an iterator over arrays that are not plain makes objects
        return_blocks(&stream.next_elem, n_positions, first)
        raise
    if container is None:
        return result, kept
    return container.holding_drawn(result, stream, n_positions, first), kept
