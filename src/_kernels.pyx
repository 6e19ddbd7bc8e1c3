# cython: language_level=3, cdivision=True
"""The only border between Python and the C core.

Everything is checked here, once: dtype, layout, aliasing, p. Then p becomes a threshold and a scale, and the blocks are
shared out among threads with the GIL released. Nothing below this file can fail.
"""

from cython.parallel cimport prange
from cpython.float cimport PyFloat_CheckExact
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
cimport numpy as cnp

import os

import numpy as np

cnp.import_array()


cdef extern from "catalog.h" nogil:
    enum:
        ELEMS_PER_BLOCK
        RAW_BYTES_PER_BLOCK
        DTYPE_f32
        DTYPE_f64
        N_DTYPES

    ctypedef struct stream_key:
        uint64_t word[2]

    ctypedef struct mask_rule:
        stream_key key
        int32_t threshold
        uint32_t tie_threshold

    ctypedef const char *apply_mask_fn(void *, const void *, const mask_rule *, uint64_t, size_t, double) noexcept
    ctypedef const char *apply_mask_repeat_fn(void *, const void *, const mask_rule *, uint64_t, size_t, size_t,
                                              double) noexcept
    ctypedef const char *fill_scaled_fn(void *, const mask_rule *, uint64_t, size_t, double) noexcept
    ctypedef const char *fill_keep_fn(uint8_t *, const mask_rule *, uint64_t, size_t) noexcept
    ctypedef const char *fill_raw_fn(uint8_t *, const stream_key *, uint64_t, size_t) noexcept

    ctypedef struct dtype_row:
        apply_mask_fn *apply_mask
        apply_mask_repeat_fn *apply_mask_repeat
        fill_scaled_fn *fill_scaled

    ctypedef struct kernel_table:
        const char *isa
        int (*is_supported)() noexcept
        dtype_row dtype[2]
        fill_keep_fn *fill_keep
        fill_raw_fn *fill_raw

    const kernel_table *choose_kernels(const char *name, int *is_known)
    const kernel_table *kernels_at(size_t i)
    void philox4x32(uint32_t *counter, uint64_t key)


cdef extern from "threads.h" nogil:
    enum:
        HAS_OPENMP
    int max_threads()


cdef extern from "position.h" nogil:
    int take_positions(uint64_t *next_elem, uint64_t n, uint64_t limit, uint64_t *first)


# ---- which kernels run ------------------------------------------------------------------------------------------------

cdef const kernel_table *kernels = NULL


def supported_isas():
    """The instruction sets this machine can run, the best first."""
    cdef size_t i = 0
    names = []
    while kernels_at(i) != NULL:
        if kernels_at(i).is_supported():
            names.append(kernels_at(i).isa.decode())
        i += 1
    return tuple(names)


cdef int choose_isa() except -1:
    global kernels
    cdef int is_known = 0
    cdef size_t i = 0
    forced = os.environ.get("CDROPOUT_ISA")
    if not forced:
        kernels = choose_kernels(NULL, &is_known)
        return 0
    name = forced.encode()
    kernels = choose_kernels(name, &is_known)
    if kernels != NULL:
        return 0
    if is_known:
        raise ImportError(
            f"CDROPOUT_ISA must name an instruction set of this machine ({', '.join(supported_isas())}), got {forced!r}"
        )
    built = []
    while kernels_at(i) != NULL:
        built.append(kernels_at(i).isa.decode())
        i += 1
    raise ValueError(f"CDROPOUT_ISA must be one of {', '.join(built)}, got {forced!r}")


choose_isa()


def active_isa():
    """The instruction set chosen at import."""
    return kernels.isa.decode()


def has_openmp():
    """Whether this build has the parallel loop."""
    return bool(HAS_OPENMP)


# A forked child has none of its parent's OpenMP threads, and GNU's runtime waits for them forever.
cdef int is_forked_child = 0


def thread_limit():
    """How many threads a large array would be shared out among, called from here and now."""
    return 1 if is_forked_child else max_threads()


def after_fork_in_child():
    """Keeps this process to one thread from now on."""
    global is_forked_child
    is_forked_child = 1


# ---- p ----------------------------------------------------------------------------------------------------------------

cdef double checked_p(object p) except -1.0:
    cdef double value
    if PyFloat_CheckExact(p):
        value = p
    else:
        if isinstance(p, (str, bytes, bytearray)) or (isinstance(p, np.ndarray) and p.ndim > 0):
            raise TypeError(f"p must be a real number, got {p!r}")
        try:
            value = float(p)
        except (TypeError, ValueError):
            raise TypeError(f"p must be a real number, got {p!r}") from None
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"p must be in [0, 1], got {p!r}")
    return value


def check_p(p):
    """p as a float. Raises TypeError where it is no real number, ValueError outside [0, 1]."""
    return checked_p(p)


cdef inline void set_threshold(mask_rule *rule, double p) noexcept nogil:
    """P(drop) to 48 bits, rounded down: 16 for the comparison, 32 for its ties. p = 1 never comes to a kernel."""
    cdef uint64_t p_in_2_48 = <uint64_t>(p * 281474976710656.0)
    rule.threshold = <int32_t>(p_in_2_48 >> 32) - 32768
    rule.tie_threshold = <uint32_t>p_in_2_48


# ---- running a kernel over threads ------------------------------------------------------------------------------------

# Below this, a second thread costs more than it brings (benchmarks/threads.py; docs/design.md, "Threads").
cdef size_t MIN_ELEMS_PER_THREAD = 131072
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
    cdef size_t row, offset = j.first % ELEMS_PER_BLOCK
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
    if n_total >= 2 * MIN_ELEMS_PER_THREAD and not is_forked_child:
        n_threads = min(n_total // MIN_ELEMS_PER_THREAD, <size_t>max_threads())
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


# ---- arrays -----------------------------------------------------------------------------------------------------------

cdef inline int dtype_index(cnp.ndarray a) noexcept:
    """The row of the kernel table, -1 for a dtype without one. Byte order is not looked at."""
    cdef int type_num = cnp.PyArray_TYPE(a)
    if type_num == cnp.NPY_FLOAT:
        return DTYPE_f32
    if type_num == cnp.NPY_DOUBLE:
        return DTYPE_f64
    return -1


cdef inline bint is_plain(cnp.ndarray a) noexcept:
    """Whether the kernels can work on the array's own memory."""
    return cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef cnp.ndarray checked_array(object a, str name):
    cdef cnp.ndarray array = a if cnp.PyArray_CheckExact(a) else np.asarray(a)
    if dtype_index(array) < 0:
        raise TypeError(f"{name} must be an array of float32 or float64, got dtype {array.dtype}")
    return array


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef bint overlaps_itself(cnp.ndarray a):
    """Whether two elements may share memory, as in a writable view with a stride of 0."""
    cdef Py_ssize_t reach = a.itemsize
    for stride, length in sorted((abs(a.strides[axis]), a.shape[axis]) for axis in range(a.ndim)):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


cdef bint overlaps_partly(cnp.ndarray a, cnp.ndarray b):
    """Whether the arrays share memory otherwise than element by element."""
    cdef char *a_data = cnp.PyArray_BYTES(a)
    cdef char *b_data = cnp.PyArray_BYTES(b)
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return a_data != b_data and a_data < b_data + cnp.PyArray_NBYTES(b) and b_data < a_data + cnp.PyArray_NBYTES(a)
    if a_data == b_data and a.strides == b.strides:
        return False
    try:
        return np.shares_memory(a, b, max_work=1_000_000)
    except np.exceptions.TooHardError:
        return True


cdef cnp.ndarray checked_out(object out, cnp.ndarray x, str name):
    """out as an array the result may be written to, a new one for None."""
    if out is None:
        return np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    cdef cnp.ndarray array = out
    if not same_shape(x, array):
        raise ValueError(f"out must have the shape of {name}, got out of {out.shape} for {name} of {(<object>x).shape}")
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(x):
        raise ValueError(f"out must have the dtype of {name}, got out of {out.dtype} for {name} of {x.dtype}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"out must be writable, got a read-only array for {name} of shape {(<object>x).shape}")
    if array is x and cnp.PyArray_IS_C_CONTIGUOUS(array):
        return array
    if overlaps_itself(array):
        raise ValueError(f"out must not overlap itself, got strides {out.strides} for shape {out.shape}")
    if overlaps_partly(x, array):
        raise ValueError(f"out must be {name} itself or apart from it, got an out that partly overlaps {name}")
    return array


cdef tuple checked_shape(object shape):
    try:
        lengths = tuple(int(n) for n in shape) if isinstance(shape, (tuple, list)) else (shape.__index__(),)
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"shape must be an integer or a tuple of integers, got {shape!r}") from None
    if any(n < 0 for n in lengths) or len(lengths) > MAX_DIMS:
        raise ValueError(f"shape must be at most {MAX_DIMS} non-negative integers, got {shape!r}")
    return lengths


cdef tuple checked_axes(object shared_axes, int n_dims):
    try:
        axes = [int(axis.__index__()) for axis in
                (shared_axes if isinstance(shared_axes, (tuple, list)) else (shared_axes,))]
    except (AttributeError, TypeError):
        raise TypeError(f"shared_axes must be an integer or a tuple of integers, got {shared_axes!r}") from None
    normal = sorted(axis + n_dims if axis < 0 else axis for axis in axes)
    if any(not 0 <= axis < n_dims for axis in normal) or len(set(normal)) < len(normal):
        raise ValueError(
            f"shared_axes must name different axes of a {n_dims}-dimensional array, got {shared_axes!r}"
        )
    return tuple(normal)


cdef object n_drawn(tuple shape, tuple shared_axes):
    """How many positions a mask of this shape takes: shared axes count as length 1, an empty array takes none."""
    if 0 in shape:
        return 0
    n = 1
    for axis, length in enumerate(shape):
        if axis not in shared_axes:
            n *= length
    return n


# ---- the job of a mask on an array ------------------------------------------------------------------------------------

cdef void lay_rows(job *j, tuple shape, tuple shared_axes):
    """Cuts a C-ordered array into rows that each take one run of mask positions.

    Neighbouring axes of a kind (shared, or drawn) are one level. The innermost drawn level makes the row; a shared level
    inside it repeats each position, and every level outside it numbers rows."""
    cdef size_t n_inside = 1
    levels = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        is_shared = axis in shared_axes
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


# ---- stream -----------------------------------------------------------------------------------------------------------

BLOCK = ELEMS_PER_BLOCK
# Block indices have 52 bits, so positions have 64; the last block stays unused.
cdef uint64_t LIMIT = 0xFFFFFFFFFFFFF000u
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
    cdef uint64_t next_child

    @property
    def key(self):
        """The 128 bits that name the stream, an int."""
        return key_number(&self.words)

    @property
    def position(self):
        """The index of the next element to be drawn, an int and a multiple of 4096."""
        return self.next_elem

    @property
    def n_children_spawned(self):
        """How many streams have been spawned from this one."""
        return self.next_child

    def _place(self, key, position, n_children_spawned):
        """Puts the stream at a position (elements, a multiple of 4096) of the stream named by key."""
        cdef uint64_t next_elem = position, next_child = n_children_spawned
        set_key(&self.words, key)
        self.next_elem = next_elem
        self.next_child = next_child

    def _take_children(self, n):
        """The number of the first of n children that nobody else spawns."""
        cdef uint64_t first = 0
        if not take_positions(&self.next_child, n, LIMIT, &first):
            raise OverflowError(f"n must leave fewer than 2**64 children spawned, got {n}")
        return first

    cdef uint64_t take(self, uint64_t n_elems) except? 0:
        """The first of n_elems positions that nobody else gets; the stream advances by whole blocks."""
        cdef uint64_t first = 0
        cdef uint64_t n_blocks = n_elems // ELEMS_PER_BLOCK + (n_elems % ELEMS_PER_BLOCK != 0)
        if n_elems > LIMIT or not take_positions(
            &self.next_elem, n_blocks * ELEMS_PER_BLOCK, LIMIT, &first
        ):
            raise OverflowError(f"the stream must hold what is drawn, got {n_elems} elements at {self.position}")
        return first


def raw_blocks(key, first_block, n_blocks):
    """The generator's own output, 8192 bytes a block: uint8 of shape (n_blocks * 8192,)."""
    cdef stream_key words
    cdef uint64_t block = first_block
    cdef size_t n = n_blocks
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


# ---- mask -------------------------------------------------------------------------------------------------------------

cdef class MaskCore:
    """A mask's fields and what it does to arrays; cdropout.Mask adds what a value needs. Set on creation, then fixed."""

    cdef stream_key words
    cdef uint64_t first
    cdef readonly double p
    cdef readonly tuple shape
    cdef readonly tuple shared_axes

    def __cinit__(self, key=None, start=0, p=0.0, shape=(), shared_axes=()):
        self.shape = self.shared_axes = ()
        if key is not None:
            define_mask(self, key, start, p, shape, shared_axes)

    def __init__(self, key, start, p, shape, shared_axes=()):
        """The fields are set in __cinit__, which draw_mask passes nothing: a mask that exists never changes."""

    @property
    def key(self):
        """The 128 bits that name the stream the mask was drawn from, an int."""
        return key_number(&self.words)

    @property
    def start(self):
        """The stream's position of the mask's first element, an int."""
        return self.first

    cdef void set_job(self, job *j, double scale) noexcept:
        j.rule.key = self.words
        j.first = self.first
        j.scale = scale

    def apply(self, a, out=None, *, scale=None):
        cdef job j
        cdef cnp.ndarray x = checked_array(a, "a")
        if (<object>x).shape != self.shape:
            raise ValueError(f"a must have the mask's shape {self.shape}, got {(<object>x).shape}")
        self.set_job(&j, kept_scale(self.p) if scale is None else checked_scale(scale))
        cdef cnp.ndarray result = checked_out(out, x, "a")
        apply_rule(&j, result, x, self.p, self.shared_axes)
        return result

    cdef object fill(self, operation op, int dtype, object numpy_dtype, double scale):
        """A new array of the mask's shape, filled by a kernel that reads no input."""
        cdef job j
        cdef cnp.ndarray drawn
        drawn_shape = tuple([1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape)])
        if self.p == 0.0 or self.p == 1.0:
            drawn = np.full(drawn_shape, scale if self.p == 0.0 else 0, numpy_dtype)
        else:
            drawn = np.empty(drawn_shape, numpy_dtype)
            self.set_job(&j, scale)
            set_threshold(&j.rule, self.p)
            j.op = op
            j.dtype = dtype
            j.elem_bytes = cnp.PyArray_ITEMSIZE(drawn)
            j.out = cnp.PyArray_BYTES(drawn)
            j.x = NULL
            j.n_elems = cnp.PyArray_SIZE(drawn)
            j.n_repeats = j.n_rows = 1
            j.n_levels = 0
            run(&j)
        return np.array(np.broadcast_to(drawn, self.shape)) if self.shared_axes else drawn

    def keep(self):
        return self.fill(FILL_KEEP, 0, np.bool_, 1.0)

    def scaled(self, dtype=np.float32):
        numpy_dtype = np.dtype(dtype)
        cdef int index = dtype_index(np.empty(0, numpy_dtype))
        if index < 0:
            raise TypeError(f"dtype must be float32 or float64, got {numpy_dtype}")
        scaled = self.fill(FILL_SCALED, index, numpy_dtype.newbyteorder("="), kept_scale(self.p))
        return scaled.astype(numpy_dtype, copy=False)


cdef double kept_scale(double p) noexcept:
    """1/(1-p); 1 at p = 1, where nothing is kept to be scaled."""
    return 1.0 / (1.0 - p) if p < 1.0 else 1.0


cdef double checked_scale(object scale) except? -1.0:
    try:
        return float(scale)
    except (TypeError, ValueError):
        raise TypeError(f"scale must be a real number, got {scale!r}") from None


cdef int define_mask(MaskCore mask, object key, object start, object p, object shape,
                     object shared_axes) except -1:
    """Sets a new mask's fields from a caller's."""
    for name, value, limit in (("key", key, 1 << 128), ("start", start, LIMIT)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be in [0, {limit}), got {value}")
    mask.p = checked_p(p)
    mask.shape = checked_shape(shape)
    mask.shared_axes = checked_axes(shared_axes, len(mask.shape))
    if start + n_drawn(mask.shape, mask.shared_axes) > LIMIT:
        raise ValueError(f"the stream must hold the mask, got shape {mask.shape} at start {start}")
    set_key(&mask.words, key)
    mask.first = start
    return 0


# ---- what functional.py calls -----------------------------------------------------------------------------------------

def draw_mask(mask_type, shape, p, StreamCore stream not None, shared_axes):
    """A new mask_type (a MaskCore) for the stream's next positions."""
    cdef MaskCore mask = mask_type.__new__(mask_type)
    mask.p = checked_p(p)
    mask.shape = checked_shape(shape)
    if shared_axes != ():
        mask.shared_axes = checked_axes(shared_axes, len(mask.shape))
    n = n_drawn(mask.shape, mask.shared_axes)
    if n > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got {n} elements")
    mask.words = stream.words
    mask.first = stream.take(n)
    return mask


def dropout(x, p, StreamCore stream, out, shared_axes):
    """One call of cdropout.dropout; with stream = None it checks the arguments and stops there."""
    cdef job j
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef double p_checked = checked_p(p)
    cdef tuple axes = () if shared_axes == () else checked_axes(shared_axes, cnp.PyArray_NDIM(array))
    if stream is None and out is None:
        return None
    cdef cnp.ndarray result = checked_out(out, array, "x")
    if stream is None:
        return None
    j.rule.key = stream.words
    j.first = stream.take(n_drawn((<object>array).shape, axes) if axes else <uint64_t>cnp.PyArray_SIZE(array))
    j.scale = kept_scale(p_checked)
    apply_rule(&j, result, array, p_checked, axes)
    return result


# ---- what the tests ask -----------------------------------------------------------------------------------------------

def isas_that_ran():
    """Calls every kernel of the active table on a few elements: the instruction sets they say they were compiled for."""
    cdef mask_rule rule
    cdef double x[2]
    cdef double out[2]
    cdef uint8_t raw[RAW_BYTES_PER_BLOCK]
    cdef int dtype
    rule.key.word[0] = rule.key.word[1] = 0
    x[0] = x[1] = 0.0
    set_threshold(&rule, 0.5)
    names = {kernels.fill_keep(<uint8_t *>out, &rule, 0, 2), kernels.fill_raw(raw, &rule.key, 0, 1)}
    for dtype in range(N_DTYPES):
        names.add(kernels.dtype[dtype].apply_mask(out, x, &rule, 0, 2, 1.0))
        names.add(kernels.dtype[dtype].apply_mask_repeat(out, x, &rule, 0, 2, 1, 1.0))
        names.add(kernels.dtype[dtype].fill_scaled(out, &rule, 0, 2, 1.0))
    return {(<bytes>name).decode() for name in names}
