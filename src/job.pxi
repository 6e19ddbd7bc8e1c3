"""A job: one kernel over one array. How an array of any shape, layout and shared axes becomes runs of mask positions,
and how the runs are shared out among threads."""

# ---- sharing a job out among threads --------------------------------------------------------------------------------

# Below this, a second thread costs more than it brings (benchmarks/threads.py; docs/design.md, "Threads").
cdef size_t min_elems_per_thread = 262144


def set_min_elems_per_thread(n_elems):
    """For the benchmark that finds the number: how many elements a thread must get before another one helps."""
    global min_elems_per_thread
    min_elems_per_thread = n_elems


# Below this, giving the GIL away and taking it back costs more than the call.
cdef size_t MIN_ELEMS_WITHOUT_GIL = 8192
cdef enum:
    MAX_DIMS = 64  # NumPy's own limit

ctypedef enum operation:
    APPLY_MASK
    APPLY_MASK_REPEAT
    FILL_SCALED
    FILL_KEEP

# One call. Positions first .. first + n_elems - 1 are drawn for each of n_rows rows of the output; where rows differ in
# their masks, row_lens and row_strides say, per level of nesting, how many there are and how many positions apart.
ctypedef struct job:
    operation op
    int dtype
    size_t elem_bytes
    char *out
    const char *x
    mask_rule rule
    uint64_t first
    size_t n_elems
    size_t n_repeats
    double scale
    size_t n_rows
    int n_levels
    size_t row_lens[MAX_DIMS]
    uint64_t row_strides[MAX_DIMS]


cdef const char *run_range(const job *j, size_t row, size_t begin, size_t end) noexcept nogil:
    """Elements begin .. end - 1 of one row."""
    cdef uint64_t first = j.first + begin
    cdef size_t rest = row, at
    cdef int level
    for level in range(j.n_levels - 1, -1, -1):
        first += (rest % j.row_lens[level]) * j.row_strides[level]
        rest = rest // j.row_lens[level]
    at = (row * j.n_elems + begin) * j.n_repeats * j.elem_bytes
    if j.op == APPLY_MASK:
        return kernels.dtype[j.dtype].apply_mask(j.out + at, j.x + at, &j.rule, first, end - begin, j.scale)
    if j.op == APPLY_MASK_REPEAT:
        return kernels.dtype[j.dtype].apply_mask_repeat(j.out + at, j.x + at, &j.rule, first, end - begin, j.n_repeats,
                                                        j.scale)
    if j.op == FILL_SCALED:
        return kernels.dtype[j.dtype].fill_scaled(j.out + at, &j.rule, first, end - begin, j.scale)
    return kernels.fill_keep(<uint8_t *>j.out + at, &j.rule, first, end - begin)


cdef void run_threads(const job *j, int n_threads) noexcept nogil:
    """Rows are shared out where there are enough of them, the positions of the one row otherwise, by whole blocks of
    the stream, so that no block is seeded twice."""
    cdef Py_ssize_t part
    cdef size_t offset = j.first % ELEMS_PER_BLOCK
    cdef size_t n_blocks = (offset + j.n_elems + ELEMS_PER_BLOCK - 1) // ELEMS_PER_BLOCK
    cdef size_t begin, end
    if j.n_rows > 1:
        for part in prange(<Py_ssize_t>j.n_rows, num_threads=n_threads, schedule="static"):
            run_range(j, part, 0, j.n_elems)
        return
    for part in prange(n_threads, num_threads=n_threads, schedule="static"):
        begin = block_boundary(j, n_blocks, part, n_threads)
        end = block_boundary(j, n_blocks, part + 1, n_threads)
        if begin < end:
            run_range(j, 0, begin, end)


cdef inline size_t block_boundary(const job *j, size_t n_blocks, Py_ssize_t part, int n_threads) noexcept nogil:
    """Where part begins, in elements from the first: the start of a block, or an end of the range."""
    cdef size_t offset = j.first % ELEMS_PER_BLOCK
    # A few blocks among many threads cover long runs when each position is repeated: those are cut by position.
    if n_blocks < <size_t>n_threads:
        return j.n_elems * part // n_threads
    cdef size_t at = n_blocks * part // n_threads * ELEMS_PER_BLOCK
    if at <= offset:
        return 0
    return min(at - offset, j.n_elems)


cdef void run(const job *j) noexcept:
    cdef size_t row, n_total = j.n_rows * j.n_elems * j.n_repeats
    cdef size_t n_threads = 1
    if n_total == 0:
        return
    if n_total >= 2 * min_elems_per_thread and not is_forked_child:
        n_threads = min(n_total // min_elems_per_thread, <size_t>max_threads())
    if n_threads > 1:
        with nogil:
            run_threads(j, <int>n_threads)
    elif n_total >= MIN_ELEMS_WITHOUT_GIL:
        with nogil:
            for row in range(j.n_rows):
                run_range(j, row, 0, j.n_elems)
    else:
        for row in range(j.n_rows):
            run_range(j, row, 0, j.n_elems)


# ---- the job of a mask on an array ----------------------------------------------------------------------------------

cdef inline void set_threshold(mask_rule *rule, double p) noexcept nogil:
    """P(drop) to 48 bits, rounded down: 16 for the comparison, 32 for its ties. p = 1 never comes to a kernel."""
    cdef uint64_t p_in_2_48 = <uint64_t>(p * 281474976710656.0)
    rule.threshold = <int32_t>(p_in_2_48 >> 32) - 32768
    rule.tie_threshold = <uint32_t>p_in_2_48


cdef void lay_rows(job *j, tuple shape, tuple shared_axes):
    """Cuts a C-ordered array into rows that each take one run of mask positions.

    Neighbouring axes of a kind (shared, or drawn) are one level. The innermost drawn level makes the row; a shared
    level inside it repeats each position, and every level outside it numbers rows."""
    cdef size_t n_inside = 1
    levels = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        is_shared = 1 if axis in shared_axes else 0
        if levels and levels[-1][0] == is_shared:
            levels[-1][1] *= length
        else:
            levels.append([is_shared, length])
    j.n_repeats = levels.pop()[1] if levels and levels[-1][0] else 1
    j.n_elems = levels.pop()[1] if levels else 1
    j.n_rows = 1
    j.n_levels = <int>len(levels)
    n_inside = j.n_elems
    for level in range(len(levels) - 1, -1, -1):
        is_shared, length = levels[level]
        j.row_lens[level] = length
        j.row_strides[level] = 0 if is_shared else n_inside
        j.n_rows *= j.row_lens[level]
        if not is_shared:
            n_inside *= j.row_lens[level]
    if j.op == APPLY_MASK and j.n_repeats > 1:
        j.op = APPLY_MASK_REPEAT


cdef int apply_in_chunks(job *j, cnp.ndarray out, cnp.ndarray x) except -1:
    """Any layout, a few blocks at a time through NumPy's buffered iterator, so that memory stays bounded."""
    cdef uint64_t first = j.first
    cdef cnp.ndarray out_chunk, x_chunk
    dtype = x.dtype.newbyteorder("=")
    chunks = np.nditer(
        [out, x],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["writeonly", "contig", "nbo"], ["readonly", "contig", "nbo"]],
        op_dtypes=[dtype, dtype],
        order="C",
        casting="equiv",
        buffersize=64 * ELEMS_PER_BLOCK,
    )
    with chunks:
        for out_chunk, x_chunk in chunks:
            j.out = cnp.PyArray_BYTES(out_chunk)
            j.x = cnp.PyArray_BYTES(x_chunk)
            j.n_elems = cnp.PyArray_SIZE(x_chunk)
            j.first = first
            run(j)
            first += j.n_elems
    return 0


cdef int apply_rule(job *j, cnp.ndarray out, cnp.ndarray x, double p, tuple shared_axes) except -1:
    """out = x, masked and scaled; every argument has been checked. j holds rule.key, first and scale."""
    cdef cnp.ndarray plain_out
    if cnp.PyArray_SIZE(x) == 0:
        return 0
    if p == 1.0:
        out[...] = 0
        return 0
    if p == 0.0 and j.scale == 1.0:
        # A copy and not a multiplication by 1, which would quiet a signalling NaN.
        if out is not x:
            np.copyto(out, x)
        return 0
    set_threshold(&j.rule, p)
    j.op = APPLY_MASK
    j.dtype = dtype_index(x)
    j.elem_bytes = cnp.PyArray_ITEMSIZE(x)
    j.n_elems = cnp.PyArray_SIZE(x)
    j.n_repeats = 1
    j.n_rows = 1
    j.n_levels = 0
    if is_plain(x) and is_plain(out):
        j.out = cnp.PyArray_BYTES(out)
        j.x = cnp.PyArray_BYTES(x)
        if shared_axes:
            lay_rows(j, (<object>x).shape, shared_axes)
        run(j)
        return 0
    if not shared_axes:
        return apply_in_chunks(j, out, x)
    plain_out = np.array(x, dtype=x.dtype.newbyteorder("="), order="C", subok=False)
    j.out = cnp.PyArray_BYTES(plain_out)
    j.x = j.out
    lay_rows(j, (<object>x).shape, shared_axes)
    run(j)
    np.copyto(out, plain_out)
    return 0
