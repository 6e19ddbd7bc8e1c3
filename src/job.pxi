"""A job: one kernel over one array. How an array of any shape, layout and shared axes becomes runs of mask positions,
and how the runs are shared out among threads."""

# ---- sharing a job out among threads --------------------------------------------------------------------------------

# Below this, a second thread costs more than it brings (benchmarks/threads.py; docs/design.md, "Threads").
cdef size_t min_elems_per_thread = 262144


def set_min_elems_per_thread(n_elems):
    """For the benchmark that finds the number, and for tests: how many elements a thread must get before another one
    helps."""
    global min_elems_per_thread
    min_elems_per_thread = max(1, n_elems)


# Below this, two threads of Python that hand each other the GIL lose more than they gain (docs/design.md, "Threads").
cdef size_t min_elems_without_gil = 32768


def set_min_elems_without_gil(n_elems):
    """For the benchmark that finds the number: from how many elements on a call releases the GIL."""
    global min_elems_without_gil
    min_elems_without_gil = n_elems


# Above this, what a call reads and writes outgrows the caches, and it writes past them.
cdef size_t max_cached_bytes = machine.last_level_cache_bytes() or cache_bytes_by_sysconf()


def get_max_cached_bytes():
    """From how many bytes read and written a call writes past the caches."""
    return max_cached_bytes


def set_max_cached_bytes(n_bytes):
    """For tests and benchmarks: sets what get_max_cached_bytes gives."""
    global max_cached_bytes
    max_cached_bytes = n_bytes


# Rows further apart than this are worth seeding a block for; the keep words of nearer ones are gathered
# (benchmarks/parts.py; docs/design.md, "Parts").
cdef uint64_t max_gathered_stride = 1024


def get_max_gathered_stride():
    """Up to how many positions apart rows are gathered."""
    return max_gathered_stride


def set_max_gathered_stride(n_elems):
    """For the benchmark that finds the number: sets what get_max_gathered_stride gives."""
    global max_gathered_stride
    max_gathered_stride = n_elems


cdef enum:
    MAX_DIMS = 64  # NumPy's own limit
    MAX_WORDS = 1024  # keep words that rows may share, or that are gathered for them, on the stack
    WORDS_PER_BLOCK = 64
    MIN_STREAMED_BYTES = 1024  # of one run; shorter ones are mostly ends that do not fill a line
    LINE_BYTES = 64  # of every x86-64's caches

ctypedef enum job_kind:
    OPERATE
    REPEAT
    SHARE_ROWS
    FILL_KEEP
    SCALE_POSITIVE
    MULTIPLY_NOISE
    ADD_NOISE

# One call. Positions first .. first + n_elems - 1 are drawn for each of n_rows rows of the output; where rows differ in
# their masks, row_lens and row_strides say, per level of nesting, how many there are and how many positions apart.
# Where is_gathered, rows are so near each other that their keep words are put together first, many rows at a time.
ctypedef struct job:
    job_kind kind
    int operation
    int dtype
    size_t elem_bytes
    bint is_streamed
    bint is_gathered
    operands arrays
    mask_rule rule
    uint64_t first
    size_t n_elems
    size_t n_rows
    int n_levels
    size_t row_lens[MAX_DIMS]
    uint64_t row_strides[MAX_DIMS]


cdef inline uint64_t first_of_row(const job *j, size_t row) noexcept nogil:
    cdef uint64_t first = j.first
    cdef int level
    for level in range(j.n_levels - 1, -1, -1):
        first += (row % j.row_lens[level]) * j.row_strides[level]
        row = row // j.row_lens[level]
    return first


cdef inline const dtype_row *kernels_writing(const job *j, const char *out, uint64_t first) noexcept nogil:
    """The kernels that stream to out, from position first on, where the job asks for it and out's alignment allows."""
    cdef size_t n_to_group = 0
    if j.kind == OPERATE or j.kind == MULTIPLY_NOISE or j.kind == ADD_NOISE:
        n_to_group = -first % ELEMS_PER_GROUP
    if j.is_streamed and may_stream(out, n_to_group, j.arrays.n_repeats, j.elem_bytes):
        return kernels.streaming_dtype[j.dtype]
    return kernels.dtype[j.dtype]


cdef void run_range(const job *j, size_t row, size_t begin, size_t end) noexcept nogil:
    """Elements begin .. end - 1 of one row."""
    cdef operands at = operands_at(&j.arrays, (row * j.n_elems + begin) * j.arrays.n_repeats, j.elem_bytes)
    cdef uint64_t first = begin + (first_of_row(j, row) if j.n_levels else j.first)
    cdef const dtype_row *kernel = kernels_writing(j, at.out, first)
    if j.kind == FILL_KEEP:
        kernels.fill_keep(<uint8_t *>at.out, &j.rule, first, end - begin)
    elif j.kind == SCALE_POSITIVE:
        kernel.scale_where_positive(&at, end - begin)
    elif j.kind == REPEAT and j.operation == OPERATION_alpha_dropout:
        kernel.alpha_dropout_repeat(&at, &j.rule, first, end - begin)
    elif j.kind == REPEAT:
        kernel.apply_mask_repeat(&at, &j.rule, first, end - begin)
    elif j.kind == MULTIPLY_NOISE:
        kernel.multiply_by_noise(&at, &j.rule.key, first, end - begin)
    elif j.kind == ADD_NOISE:
        kernel.add_noise(&at, &j.rule.key, first, end - begin)
    else:
        kernel.operation[j.operation](&at, &j.rule, first, end - begin)


cdef void run_words(const job *j, const uint64_t *words, size_t i, size_t n_elems) noexcept nogil:
    """Elements i .. i + n_elems - 1 of the arrays, by keep words."""
    cdef operands at = operands_at(&j.arrays, i, j.elem_bytes)
    cdef const dtype_row *kernel = kernels_writing(j, at.out, 0)
    cdef size_t e
    if j.kind == FILL_KEEP:
        for e in range(n_elems):
            at.out[e] = words[e // ELEMS_PER_GROUP] >> (e % ELEMS_PER_GROUP) & 1
    elif j.operation == OPERATION_alpha_dropout:
        kernel.alpha_dropout_words(&at, words, n_elems)
    else:
        kernel.apply_mask_words(&at, words, n_elems)


cdef void run_sharing_rows(const job *j, size_t begin, size_t end) noexcept nogil:
    """Rows begin .. end - 1. The innermost level is one along which rows share their mask: its words are made once."""
    cdef uint64_t words[MAX_WORDS]
    cdef size_t row
    cdef size_t n_sharing = j.row_lens[j.n_levels - 1]
    for row in range(begin, end):
        if row == begin or row % n_sharing == 0:
            kernels.fill_words(words, &j.rule, first_of_row(j, row), j.n_elems)
        run_words(j, words, row * j.n_elems, j.n_elems)


cdef void run_elems(const job *j, size_t begin, size_t end) noexcept nogil:
    """Elements begin .. end - 1 (positions, where each is repeated) of all rows, counted through."""
    cdef size_t row = begin // j.n_elems
    cdef size_t at = begin % j.n_elems
    cdef size_t n
    while begin < end:
        n = min(j.n_elems - at, end - begin)
        run_range(j, row, at, at + n)
        begin += n
        row += 1
        at = 0


include "gathering.pxi"


cdef inline size_t block_boundary(const job *j, size_t part, size_t n_parts) noexcept nogil:
    """Where a part of one row begins, in elements: the start of a block, so that no block is seeded twice."""
    cdef size_t offset = j.first % ELEMS_PER_BLOCK
    cdef size_t n_blocks = (offset + j.n_elems + ELEMS_PER_BLOCK - 1) // ELEMS_PER_BLOCK
    # A few blocks among many threads cover long runs when each position is repeated: those are cut by position.
    if n_blocks < n_parts:
        return j.n_elems * part // n_parts
    cdef size_t at = n_blocks * part // n_parts * ELEMS_PER_BLOCK
    if at <= offset:
        return 0
    return min(at - offset, j.n_elems)


cdef void run_part(const job *j, size_t part, size_t n_parts) noexcept nogil:
    """Whole rows, or what part of all elements, in any thread."""
    cdef size_t n_total = j.n_rows * j.n_elems
    cdef size_t begin, end
    cdef float_mode before = enter_default_mode()
    if j.kind == SHARE_ROWS:
        run_sharing_rows(j, j.n_rows * part // n_parts, j.n_rows * (part + 1) // n_parts)
    elif j.is_gathered:
        # In whole groups, so that every part's stores are aligned as the first one's.
        begin = n_total // ELEMS_PER_GROUP * part // n_parts * ELEMS_PER_GROUP
        end = n_total // ELEMS_PER_GROUP * (part + 1) // n_parts * ELEMS_PER_GROUP
        run_gathered(j, begin, n_total if part + 1 == n_parts else end)
    elif j.n_rows > 1:
        run_elems(j, n_total * part // n_parts, n_total * (part + 1) // n_parts)
    else:
        begin = block_boundary(j, part, n_parts)
        end = block_boundary(j, part + 1, n_parts)
        if begin < end:
            run_range(j, 0, begin, end)
    leave_default_mode(before)


cdef int run(const job *j) except -1:
    cdef size_t n_total = j.n_rows * j.n_elems * j.arrays.n_repeats
    cdef size_t n_threads
    cdef Py_ssize_t part
    if n_total == 0:
        return 0
    if n_total < min(min_elems_without_gil, min_elems_per_thread):
        run_part(j, 0, 1)
        return 0
    n_threads = share_of_threads(max(<size_t>1, n_total // min_elems_per_thread))
    with nogil:
        if n_threads == 1:
            run_part(j, 0, 1)
        else:
            for part in prange(<Py_ssize_t>n_threads, num_threads=<int>n_threads, schedule="static"):
                run_part(j, part, n_threads)
        leave_crowd(&jobs)
    return 0


# ---- the job of a mask on an array ----------------------------------------------------------------------------------

cdef inline void set_job(job *j, int operation, cnp.ndarray like, double p, double scale) noexcept:
    """A job for arrays of one element a position, in C order; the caller sets rule.key, first and the arrays."""
    set_threshold(&j.rule, p)
    j.kind = OPERATE
    j.operation = operation
    j.dtype = dtype_index(like)
    j.elem_bytes = cnp.PyArray_ITEMSIZE(like)
    j.is_streamed = j.is_gathered = False
    j.n_elems = cnp.PyArray_SIZE(like)
    j.n_rows = 1
    j.n_levels = 0
    memset(&j.arrays, 0, sizeof(operands))
    j.arrays.n_repeats = 1
    j.arrays.scale = scale_in(j.dtype, scale)


cdef inline void choose_stores(job *j, size_t n_arrays) noexcept:
    """Streaming stores where the arrays outgrow the caches, and the output is not also read."""
    cdef size_t n_bytes = j.n_rows * j.n_elems * j.arrays.n_repeats * j.elem_bytes
    cdef size_t run_bytes = n_bytes if j.is_gathered else (
        (j.arrays.n_repeats if j.kind == REPEAT else j.n_elems) * j.elem_bytes
    )
    j.is_streamed = (
        n_arrays * n_bytes > max_cached_bytes
        and j.arrays.out != j.arrays.x
        and j.arrays.out != j.arrays.residual
        and (run_bytes >= MIN_STREAMED_BYTES or j.kind == REPEAT and run_bytes % LINE_BYTES == 0)
    )


cdef int lay_rows(job *j, tuple shape, tuple strides) except -1:
    """Cuts a C-ordered array into rows that each take one run of mask positions.

    Strides say how many positions apart neighbours along each axis are; neighbouring axes that one stride can walk are
    one level. The innermost level of stride 1 makes the row; one of stride 0 inside it repeats each position, and every
    level outside it numbers rows."""
    levels = []
    for length, stride in zip(shape, strides):
        if length == 1:
            continue
        if levels and levels[-1][1] == stride * length:
            levels[-1] = (levels[-1][0] * length, stride)
        else:
            levels.append((length, stride))
    j.arrays.n_repeats = levels.pop()[0] if levels and levels[-1][1] == 0 else 1
    j.n_elems = levels.pop()[0] if levels and levels[-1][1] == 1 else 1
    j.n_rows = 1
    j.n_levels = 0
    for length, stride in levels:
        j.row_lens[j.n_levels] = length
        j.row_strides[j.n_levels] = stride
        j.n_rows *= j.row_lens[j.n_levels]
        j.n_levels += 1
    if j.arrays.n_repeats > 1:
        j.kind = REPEAT
    elif j.kind == OPERATE and levels and levels[-1][1] == 0 and j.n_elems <= ELEMS_PER_GROUP * MAX_WORDS:
        j.kind = SHARE_ROWS
    else:
        j.is_gathered = j.n_rows > 1 and 0 < j.row_strides[j.n_levels - 1] <= max_gathered_stride
    return 0


cdef int run_in_chunks(job *j, list arrays, dtype) except -1:
    """Any layout, a few blocks at a time through NumPy's buffered iterator, so that memory stays bounded."""
    cdef operands whole = j.arrays
    cdef size_t i = 0
    cdef uint64_t first = j.first
    chunks = np.nditer(
        arrays,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["writeonly", "contig", "nbo"]] + [["readonly", "contig", "nbo"]] * (len(arrays) - 1),
        op_dtypes=[dtype] * len(arrays),
        order="C",
        casting="equiv",
        buffersize=64 * ELEMS_PER_BLOCK,
    )
    with chunks:
        for chunk in chunks:
            j.arrays = operands_at(&whole, i, 0)
            j.arrays.out = cnp.PyArray_BYTES(chunk[0])
            j.arrays.x = cnp.PyArray_BYTES(chunk[1])
            if len(arrays) > 2:
                j.arrays.residual = cnp.PyArray_BYTES(chunk[2])
            j.n_elems = cnp.PyArray_SIZE(chunk[0])
            j.first = first + i
            run(j)
            i += j.n_elems
    return 0


cdef int run_on_arrays(job *j, cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual) except -1:
    """The job on arrays of one element a position and of any layout; residual may be None."""
    if is_plain(x) and is_plain(out) and (residual is None or is_plain(residual)):
        j.arrays.out = cnp.PyArray_BYTES(out)
        j.arrays.x = cnp.PyArray_BYTES(x)
        if residual is not None:
            j.arrays.residual = cnp.PyArray_BYTES(residual)
        choose_stores(j, 2 if residual is None else 3)
        return run(j)
    arrays = [out, x] if residual is None else [out, x, residual]
    return run_in_chunks(j, arrays, x.dtype.newbyteorder("="))


# What becomes of an element: kept, x * scale + shift; dropped, fill.
ctypedef struct affine:
    double scale
    double shift
    double fill


cdef int apply_mask(const stream_key *key, uint64_t first, double p, const affine *map, tuple strides,
                    cnp.ndarray out, cnp.ndarray x) except -1:
    """out = x, masked and mapped; every argument has been checked. Strides are None where x takes one run of positions
    in C order."""
    cdef job j
    cdef cnp.ndarray plain_out
    cdef bint has_fill = not is_zero(map.fill) or not is_zero(map.shift)
    if cnp.PyArray_SIZE(x) == 0:
        return 0
    if is_zero(p) and map.scale == 1.0 and is_zero(map.shift):
        # A copy and not a multiplication by 1, which would quiet a signalling NaN.
        if out is not x:
            np.copyto(out, x)
        return 0
    set_job(&j, OPERATION_alpha_dropout if has_fill else OPERATION_apply_mask, x, p, map.scale)
    j.arrays.shift = map.shift
    j.arrays.fill = map.fill
    j.rule.key = key[0]
    j.first = first
    if strides is None:
        return run_on_arrays(&j, out, x, None)
    if is_plain(x) and is_plain(out):
        lay_rows(&j, (<object>x).shape, strides)
        return run_on_arrays(&j, out, x, None)
    if is_plain(out):
        np.copyto(out, x)
        return apply_mask(key, first, p, map, strides, out, out)
    plain_out = np.array(x, dtype=x.dtype.newbyteorder("="), order="C", subok=False)
    apply_mask(key, first, p, map, strides, plain_out, plain_out)
    np.copyto(out, plain_out)
    return 0
