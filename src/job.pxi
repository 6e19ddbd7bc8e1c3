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
    MIN_CUT_REPEATS = 1048576  # a hundred times what it costs to seed a block once more
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


cdef void run_repeats(const job *j, size_t begin, size_t end) noexcept nogil:
    """Elements begin .. end - 1 of the output, which may cut the elements that repeat a position."""
    cdef size_t n_repeats = j.arrays.n_repeats
    cdef size_t position, at, n
    cdef job cut = j[0]
    cut.n_elems = 1
    cut.n_levels = 0
    while begin < end:
        position = begin // n_repeats
        at = begin % n_repeats
        n = min(n_repeats - at, end - begin)
        cut.arrays = operands_at(&j.arrays, begin, j.elem_bytes)
        cut.arrays.n_repeats = n
        cut.first = first_of_row(j, position // j.n_elems) + position % j.n_elems
        run_range(&cut, 0, 0, 1)
        begin += n


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


cdef inline size_t group_boundary(size_t n_elems, size_t part, size_t n_parts) noexcept nogil:
    """Where a part of so many elements begins: in whole groups, so that its stores are aligned as the first one's."""
    return n_elems if part == n_parts else n_elems // ELEMS_PER_GROUP * part // n_parts * ELEMS_PER_GROUP


cdef void run_part(const job *j, size_t part, size_t n_parts) noexcept nogil:
    """Part `part` of n_parts of the job, in any thread, in the default floating-point mode."""
    cdef size_t n_total = j.n_rows * j.n_elems
    cdef size_t begin, end
    cdef float_mode before = enter_default_mode()
    if j.kind == SHARE_ROWS:
        run_sharing_rows(j, j.n_rows * part // n_parts, j.n_rows * (part + 1) // n_parts)
    elif j.is_gathered:
        run_gathered(j, group_boundary(n_total, part, n_parts), group_boundary(n_total, part + 1, n_parts))
    elif j.kind == REPEAT and j.arrays.n_repeats >= MIN_CUT_REPEATS:
        n_total = n_total * j.arrays.n_repeats
        run_repeats(j, group_boundary(n_total, part, n_parts), group_boundary(n_total, part + 1, n_parts))
    elif j.n_rows > 1:
        run_elems(j, n_total * part // n_parts, n_total * (part + 1) // n_parts)
    else:
        begin = block_boundary(j, part, n_parts)
        end = block_boundary(j, part + 1, n_parts)
        if begin < end:
            run_range(j, 0, begin, end)
    leave_default_mode(before)


cdef int run(const job *j) except -1:
    """The whole job. Raises what the handler of a signal raises: then some elements have been written, others not."""
    cdef size_t n_total = j.n_rows * j.n_elems * j.arrays.n_repeats
    cdef size_t n_threads, n_slices
    cdef bint is_interruptible, is_raised
    if n_total == 0:
        return 0
    if n_total < min(min_elems_without_gil, min_elems_per_thread):
        run_part(j, 0, 1)
        return 0
    # First, because Python runs a handler in it that may be due, and what that raises must not leave a job counted.
    is_interruptible = n_total > max_elems_per_slice and handles_signals()
    n_threads = share_of_threads(min(max(<size_t>1, n_total // min_elems_per_thread), <size_t>MAX_THREADS))
    n_slices = (n_total - 1) // (n_threads * max_elems_per_slice) + 1 if is_interruptible else 1
    with nogil:
        is_raised = run_interruptibly(j, n_slices, n_threads)
        leave_crowd(&jobs)
    return -1 if is_raised else 0


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


cdef object memory_for(cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual, tuple strides):
    """What a job needs besides its arrays, to be had before positions are drawn for it: None where the kernels can work
    on these as they lie.

    With a mask's strides, an array that they can work on, out itself if it is one; with None, where x takes one run of
    positions, NumPy's buffered iterator, over chunks of a few blocks, so that memory stays bounded. residual may be
    None."""
    if is_plain(x) and is_plain(out) and (residual is None or is_plain(residual)):
        return None
    dtype = x.dtype.newbyteorder("=")
    if strides is not None:
        return out if is_plain(out) else np.empty((<object>x).shape, dtype)
    arrays = [out, x] if residual is None else [out, x, residual]
    chunks = np.nditer(
        arrays,
        flags=["external_loop", "buffered", "delay_bufalloc", "ranged", "zerosize_ok"],
        op_flags=[["writeonly", "contig", "nbo"]] + [["readonly", "contig", "nbo"]] * (len(arrays) - 1),
        op_dtypes=[dtype] * len(arrays),
        order="C",
        casting="equiv",
        buffersize=64 * ELEMS_PER_BLOCK,
    )
    # Has its buffers from here on, but nothing in them: what is there goes to out even where no job comes of it.
    chunks.iterrange = 0, 0
    return chunks


cdef int run_in_chunks(job *j, object chunks) except -1:
    cdef operands whole = j.arrays
    cdef size_t i = 0
    cdef uint64_t first = j.first
    with chunks:
        chunks.iterrange = 0, chunks.itersize
        for chunk in chunks:
            j.arrays = operands_at(&whole, i, 0)
            j.arrays.out = cnp.PyArray_BYTES(chunk[0])
            j.arrays.x = cnp.PyArray_BYTES(chunk[1])
            if len(chunk) > 2:
                j.arrays.residual = cnp.PyArray_BYTES(chunk[2])
            j.n_elems = cnp.PyArray_SIZE(chunk[0])
            j.first = first + i
            run(j)
            PyErr_CheckSignals()
            i += j.n_elems
    return 0


cdef int run_on_arrays(job *j, cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual, object memory) except -1:
    """The job on arrays, and what memory_for gave for them: None where they are plain. residual may be None."""
    if memory is not None:
        return run_in_chunks(j, memory)
    j.arrays.out = cnp.PyArray_BYTES(out)
    j.arrays.x = cnp.PyArray_BYTES(x)
    if residual is not None:
        j.arrays.residual = cnp.PyArray_BYTES(residual)
    choose_stores(j, 2 if residual is None else 3)
    return run(j)


# What becomes of an element: kept, x * scale + shift; dropped, fill.
ctypedef struct affine:
    double scale
    double shift
    double fill


cdef int apply_mask(const stream_key *key, uint64_t first, double p, const affine *map, tuple strides,
                    cnp.ndarray out, cnp.ndarray x, object memory) except -1:
    """out = x, masked and mapped; every argument has been checked, and memory is what memory_for gave for them. Strides
    are None where x takes one run of positions in C order."""
    cdef job j
    cdef bint has_fill = not is_zero(map.fill) or not is_zero(map.shift)
    if cnp.PyArray_SIZE(x) == 0:
        return 0
    if is_zero(p) and map.scale == 1.0 and is_zero(map.shift):
        # A copy and not a multiplication by 1, which would quiet a signalling NaN.
        if out is not x:
            copy_elems(out, x)
        return 0
    set_job(&j, OPERATION_alpha_dropout if has_fill else OPERATION_apply_mask, x, p, map.scale)
    j.arrays.shift = map.shift
    j.arrays.fill = map.fill
    j.rule.key = key[0]
    j.first = first
    if strides is None:
        return run_on_arrays(&j, out, x, None, memory)
    if memory is not None:
        copy_elems(memory, x)
        apply_mask(key, first, p, map, strides, memory, memory, None)
        return 0 if memory is out else copy_elems(out, memory)
    lay_rows(&j, (<object>x).shape, strides)
    return run_on_arrays(&j, out, x, None, None)
