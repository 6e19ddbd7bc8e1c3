"""Squares of images, for cdropout.drop_block2d. Part of _kernels.pyx.

What is kept outside of the squares is known before any element is computed, because the scale depends on its number. So
a call runs two jobs: the first one makes keep words, the second one multiplies by them."""


@cython.final
@cython.auto_pickle(False)
cdef class KeptElements:
    """Which elements of an array are kept, as bits: an immutable value of a shape."""

    cdef readonly tuple shape
    cdef readonly object n_elems, n_kept
    cdef bytes words  # keep words in the order of the elements (job.h), followed by one more

    def __cinit__(self):
        self.make_room((0,))
        self.n_kept = 0

    @staticmethod
    def of_bools(cnp.ndarray keep not None):
        """Return the elements where an array of bool is True."""
        cdef KeptElements kept = KeptElements.__new__(KeptElements)
        if cnp.PyArray_TYPE(keep) != cnp.NPY_BOOL:
            raise TypeError(f"keep must be an array of bool, got dtype {keep.dtype}")
        kept.make_room((<object>keep).shape)
        bits = np.packbits(keep, bitorder="little").tobytes()
        words = np.frombuffer(bits + bytes(len(kept.words) - len(bits)), "<u8").astype(np.uint64)
        kept.words = words.tobytes()
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

    cdef int make_room(self, tuple shape) except -1:
        """Set the shape, and allocate the words."""
        self.shape, self.n_elems = shape, math.prod(shape)
        self.words = PyBytes_FromStringAndSize(NULL, ((self.n_elems + 63) // 64 + 1) * sizeof(uint64_t))
        memset(PyBytes_AS_STRING(self.words) + len(self.words) - sizeof(uint64_t), 0, sizeof(uint64_t))
        return 0

    cdef int set_request(self, job_request *request) except -1:
        """Set the decisions and the scale of a request, which is a copy if all elements are kept."""
        request.scale = self.n_elems / self.n_kept if self.n_kept else 1.0
        request.keep_words = NULL
        if self.n_kept != self.n_elems:
            request.keep_words = <const uint64_t *>PyBytes_AS_STRING(self.words)
        return 0


def drop_squares(x, p, block_size, channels, rng, out, spatial_axes):
    """Return the result of cdropout.drop_block2d, with its arguments, and the elements that are kept.

    spatial_axes is cdropout.functions.shared_axes.spatial_axes, which checks channels."""
    cdef held_arrays held
    cdef job_request request
    cdef job j
    cdef squares images
    cdef keep_bits bits
    cdef size_t i, n_counts, n_kept = 0
    begin_holding(&held, True)
    cdef cnp.ndarray array = checked_array(x, "x")
    hold(&held, array, "x")
    cdef tuple shape = (<object>array).shape
    height, width = [shape[axis] for axis in spatial_axes(2, len(shape), channels)]
    side = check_integer("block_size", block_size, 1, min(height, width))
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray result = checked_out(out, array, "x")
    hold(&held, result, "out", True, True)
    cdef Container container = container_for(result, out, x, None, None)
    is_last = channels == "last"
    n_channels = shape[-1] if is_last else shape[-3]
    # One position for each place of a square's upper left corner, channels first whatever x's layout.
    cdef tuple corners = (*shape[:-3], n_channels, height - side + 1, width - side + 1)
    # The paper's gamma. In Python's numbers, because the products of integers may need more than 64 bits.
    gamma = min(1.0, <object>p_checked * height * width / (side**2 * corners[-2] * corners[-1]))
    images.n_images = math.prod(shape[:-3]) * (1 if is_last else n_channels)
    images.height, images.width, images.n_channels = height, width, n_channels if is_last else 1
    images.side = side
    cdef KeptElements kept = KeptElements.__new__(KeptElements)
    kept.make_room(shape)
    n_counts = squares_counts(&images)
    cdef cnp.ndarray counts = np.empty(n_counts, np.uintp)
    cdef Scratch scratch = scratch_for(result, array, None, False, &held)
    cdef uint64_t n_positions = checked_n_drawn(corners, ())
    request = blank_request(OPERATION_apply_mask, dtype_index(array))
    request.p = 1.0 if p_checked == 1.0 else gamma
    set_bits(&bits, None, counts)
    bits.words = <uint64_t *>PyBytes_AS_STRING(kept.words)
    cdef Stream stream = stream_of_rng(rng)
    check_held(&held)
    request.first = stream.take(n_positions, &request.key)
    if job_plan_squares(&j, &request, &images, &bits) != 0:
        raise SystemError("checked images must be ones that can be planned: please report this")
    cdef uint64_t first = request.first
    run_job(&j, &held)
    for i in range(n_counts):
        n_kept += bits.counts[i]
    kept.n_kept = n_kept
    request.p, request.first = 0.0, 0
    kept.set_request(&request)
    check_held(&held)
    run_on_arrays(&request, result, array, None, scratch, &held)
    if container is None:
        return result, kept
    return container.holding_drawn(result, stream, n_positions, first), kept
