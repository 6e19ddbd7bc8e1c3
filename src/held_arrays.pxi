"""Arrays that a call has checked, and whether they are still as they were. Part of _kernels.pyx.

Code of the caller runs between the check of an array and its use: other arguments are converted, rng is read, a signal
handler or a finalizer runs. That code can resize an array in place, which frees its memory. So a call holds each array
when it has checked it, and calls check_held after all such code, before it takes positions or writes. Nothing that may
run other code, not even an allocation that may start the garbage collector, stands between check_held and the use of
the memory. parallel_run.pxi and scratch.pxi call it again after signal handlers have run.

A call whose arguments run no code is not watched: its arrays are recorded when such code is about to run after all."""

# On pointers: counting references for `cnp.ndarray` would take most of the time of these functions.
cdef extern from "numpy/ndarrayobject.h" nogil:
    int is_array "PyArray_Check"(const void *a)
    void *base_of "PyArray_BASE"(const void *a)
    char *bytes_of "PyArray_BYTES"(const void *a)
    void *dtype_of "PyArray_DESCR"(const void *a)
    cnp.npy_intp *lens_of "PyArray_DIMS"(const void *a)
    int flags_of "PyArray_FLAGS"(const void *a)
    Py_ssize_t elem_bytes_of "PyArray_ITEMSIZE"(const void *a)
    Py_ssize_t n_bytes_of "PyArray_NBYTES"(const void *a)
    int n_dims_of "PyArray_NDIM"(const void *a)
    cnp.npy_intp *byte_strides_of "PyArray_STRIDES"(const void *a)


cdef enum:
    MAX_HELD = 4  # out, x, residual and bias


ctypedef struct held_array:
    void *array  # a reference that the caller has, as is name
    void *name
    const cnp.npy_intp *needed_lens  # the array's lens, or those of the first held array
    int n_dims, needed_flags
    Py_ssize_t elem_bytes
    void *dtype
    char *data
    void *owner  # the array that owns the memory of a view, or NULL
    char *owner_data
    Py_ssize_t owner_bytes
    cnp.npy_intp lens[MAX_AXES]
    cnp.npy_intp strides[MAX_AXES]


ctypedef struct held_arrays:
    int n
    bint is_watched  # whether the arrays have been recorded
    held_array arrays[MAX_HELD]


# For calls without arrays of the caller.
cdef held_arrays nothing_held
nothing_held.n = 0
nothing_held.is_watched = False


cdef inline bint runs_code(object rng) noexcept:
    """Whether reading rng may run code of the caller. The default stream takes a lock when it gets a key."""
    if rng is None:
        return load_int(&default_stream.process) != this_process
    return not isinstance(rng, Stream)


cdef inline void begin_holding(held_arrays *held, bint is_watched) noexcept:
    """is_watched: whether code of the caller may run before the call computes, because an argument is not of one of
    the types that run none: ndarray, float, an empty tuple and Stream."""
    held.n, held.is_watched = 0, is_watched


cdef inline void *owner_of(const void *a) noexcept nogil:
    """Return the last array on the way from a view to its memory, NULL if `a` is no view of an array."""
    cdef void *base = base_of(a)
    cdef void *owner = NULL
    while base != NULL and is_array(base):
        owner = base
        base = base_of(base)
    return owner


cdef void record(held_array *each) noexcept nogil:
    cdef const void *a = each.array
    cdef const cnp.npy_intp *lens = lens_of(a)
    cdef const cnp.npy_intp *strides = byte_strides_of(a)
    cdef int axis
    each.n_dims = n_dims_of(a)
    each.dtype = dtype_of(a)
    each.elem_bytes = elem_bytes_of(a)
    each.data = bytes_of(a)
    for axis in range(each.n_dims):
        each.lens[axis] = lens[axis]
        each.strides[axis] = strides[axis]
    each.owner = owner_of(a)
    if each.owner != NULL:
        each.owner_data = bytes_of(each.owner)
        each.owner_bytes = n_bytes_of(each.owner)


cdef inline void hold(held_arrays *held, cnp.ndarray array, str name, bint is_like_first=False,
                      bint is_written=False) noexcept:
    """Hold an array that has been checked. is_like_first: it must have the shape of the first held array."""
    cdef held_array *each = &held.arrays[held.n]
    held.n += 1
    each.array, each.name = <void *>array, <void *>name
    each.needed_lens = &held.arrays[0].lens[0] if is_like_first else &each.lens[0]
    each.needed_flags = cnp.NPY_ARRAY_WRITEABLE if is_written else 0
    if held.is_watched:
        record(each)


cdef inline void watch(held_arrays *held) noexcept nogil:
    """Record the held arrays, unless the call is watched already: code of the caller may run from here on."""
    cdef int i
    if not held.is_watched:
        held.is_watched = True
        for i in range(held.n):
            record(&held.arrays[i])


cdef bint is_changed(const held_array *each) noexcept nogil:
    cdef const void *a = each.array
    cdef const void *owner
    cdef const cnp.npy_intp *lens
    cdef const cnp.npy_intp *strides
    cdef int axis
    if bytes_of(a) != each.data or n_dims_of(a) != each.n_dims or dtype_of(a) != each.dtype:
        return True
    if elem_bytes_of(a) != each.elem_bytes or flags_of(a) & each.needed_flags != each.needed_flags:
        return True
    lens, strides = lens_of(a), byte_strides_of(a)
    for axis in range(each.n_dims):
        if lens[axis] != each.needed_lens[axis] or strides[axis] != each.strides[axis]:
            return True
    owner = owner_of(a)
    if owner == NULL:
        return each.owner != NULL
    return owner != each.owner or bytes_of(owner) != each.owner_data or n_bytes_of(owner) != each.owner_bytes


cdef bint are_changed(const held_arrays *held) noexcept nogil:
    cdef int i
    for i in range(held.n):
        if is_changed(&held.arrays[i]):
            return True
    return False


cdef inline int check_held(const held_arrays *held) except -1:
    """Raise ValueError, with the array's name, if a held array is no longer as it was."""
    return raise_change(held) if held.is_watched and are_changed(held) else 0


cdef int raise_change(const held_arrays *held) except -1:
    cdef int i
    cdef const held_array *each
    for i in range(held.n):
        each = &held.arrays[i]
        if is_changed(each):
            array, before = <object>each.array, tuple([each.lens[axis] for axis in range(each.n_dims)])
            got = f"shape {array.shape} after {before}" if array.shape != before else f"other memory of shape {before}"
            raise ValueError(
                f"{<object>each.name} must stay unchanged during a call, got {got}: code that the call ran, as for an "
                "argument, a signal or a finalizer, changed the array in place"
            )
    return 0


def stream_for(rng, *named_arrays):
    """Return the stream of rng. Raise ValueError if that changes one of the arrays, which are given as (name, array).

    For functions in Python that check arrays before they draw."""
    cdef held_arrays held
    begin_holding(&held, True)
    for name, array in named_arrays[:MAX_HELD]:
        hold(&held, array, name)
    cdef Stream stream = stream_of_rng(rng)
    check_held(&held)
    return stream
