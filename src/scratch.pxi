"""From checked arrays to jobs, which parallel_run.pxi runs. Arrays that are not plain (C-contiguous, native byte order)
go through scratch memory. Callers allocate it with scratch_for before the stream advances, so that MemoryError leaves
the stream unchanged, and pass it to run_on_arrays or apply_mask. Callers hold the arrays (held_arrays.pxi)."""

# The axes of a mask for a job_request.
ctypedef struct mask_axes:
    int n
    size_t lens[MAX_AXES]
    uint64_t strides[MAX_AXES]


cdef int set_axes(mask_axes *axes, cnp.ndarray a, tuple strides) except -1:
    """Set the lengths of an array's axes, and their strides in positions. Allocates nothing."""
    cdef int axis
    axes.n = cnp.PyArray_NDIM(a)
    for axis in range(axes.n):
        axes.lens[axis] = cnp.PyArray_DIM(a, axis)
        axes.strides[axis] = strides[axis]
    return 0


cdef int set_shape(mask_axes *axes, tuple shape, tuple strides) except -1:
    """The same for a shape without an array."""
    cdef int axis
    axes.n = len(shape)
    for axis in range(axes.n):
        axes.lens[axis] = shape[axis]
        axes.strides[axis] = strides[axis]
    return 0


cdef class Scratch:
    """The memory of a call besides its arrays; both are None if the arrays are plain."""

    cdef cnp.ndarray plain  # for masks with axes: a copy of x to compute on in place; out itself if that is plain
    cdef object chunks  # for one run of positions: a numpy.nditer over out, x and residual with buffers of a few blocks


cdef Scratch NO_SCRATCH = Scratch()


cdef Scratch scratch_for(cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual, bint has_axes, held_arrays *held):
    """Allocate the memory that a call on these arrays needs. residual may be None. has_axes: the mask is not one run of
    positions."""
    cdef size_t n_elems = cnp.PyArray_SIZE(out)
    if may_use_threads(n_elems):
        watch(held)
        prepare_threads()
    if is_plain(x) and is_plain(out) and (residual is None or is_plain(residual)):
        return NO_SCRATCH
    watch(held)
    cdef Scratch scratch = Scratch()
    dtype = x.dtype.newbyteorder("=")
    if has_axes:
        scratch.plain = out if is_plain(out) else cnp.PyArray_EMPTY(
            cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0
        )
        check_held(held)
        return scratch
    arrays = [out, x] if residual is None else [out, x, residual]
    if cnp.PyArray_NDIM(out) == 0:
        arrays = [array.reshape(1) for array in arrays]  # before NumPy 2.2, nditer leaves buffers of no axes unfilled
    scratch.chunks = np.nditer(
        arrays,
        flags=["external_loop", "buffered", "delay_bufalloc", "ranged", "zerosize_ok"],
        op_flags=[["writeonly", "contig", "nbo"]] + [["readonly", "contig", "nbo"]] * (len(arrays) - 1),
        op_dtypes=[dtype] * len(arrays),
        order="C",
        casting="equiv",
        buffersize=64 * ELEMS_PER_BLOCK,
    )
    # This allocates the buffers, and leaves them empty: nditer would write their contents to out even if no job ran.
    scratch.chunks.iterrange = 0, 0
    check_held(held)  # the iterator has the addresses and sizes of the arrays
    return scratch


cdef int copy_elems(cnp.ndarray out, cnp.ndarray x, held_arrays *held) except -1:
    """out = x, handling signals between slices of large arrays. Slices are cut along the axis of out's largest stride,
    so that none of them touches every page of out."""
    cdef Py_ssize_t middle
    if <size_t>cnp.PyArray_SIZE(x) <= limits.max_elems_per_slice:
        check_held(held)
        cnp.PyArray_CopyInto(out, x)
        return 0
    strides = [abs(stride) if n > 1 else -1 for stride, n in zip((<object>out).strides, (<object>out).shape)]
    axis = strides.index(max(strides))
    middle = cnp.PyArray_DIM(x, axis) // 2
    for half in (slice(middle), slice(middle, None)):
        index = (slice(None),) * axis + (half,)
        copy_elems(out[index], x[index], held)
        PyErr_CheckSignals()
    return 0


cdef inline void set_arrays(job_request *request, cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual) noexcept:
    request.out = cnp.PyArray_BYTES(out)
    request.x = cnp.PyArray_BYTES(x)
    request.residual = cnp.PyArray_BYTES(residual) if residual is not None else NULL
    request.n_elems = cnp.PyArray_SIZE(out)


cdef int run_in_chunks(job_request *request, object chunks, held_arrays *held) except -1:
    cdef size_t n_done = 0
    cdef uint64_t first = request.first
    whole = (0, chunks.itersize)
    try:
        check_held(held)
        chunks.iterrange = whole
        for chunk in chunks:
            check_held(held)
            set_arrays(request, chunk[0], chunk[1], chunk[2] if len(chunk) > 2 else None)
            request.first = first + n_done
            request.bias_first = n_done
            run_request(request, held)
            n_done += request.n_elems
            PyErr_CheckSignals()
            check_held(held)
    finally:
        if are_changed(held):
            Py_INCREF(chunks)  # the iterator must not end: it would write its buffers to memory that out had
        else:
            chunks.close()
    return 0


cdef int run_on_arrays(job_request *request, cnp.ndarray out, cnp.ndarray x, cnp.ndarray residual,
                       Scratch scratch, held_arrays *held) except -1:
    """Run a request on checked arrays, with the result of scratch_for for them, after check_held. residual may be None.
    """
    if cnp.PyArray_SIZE(out) == 0:
        return 0
    if scratch is NO_SCRATCH:
        set_arrays(request, out, x, residual)
        return run_request(request, held)
    if job_is_copy(request):
        return 0 if out is x else copy_elems(out, x, held)
    if scratch.plain is None:
        return run_in_chunks(request, scratch.chunks, held)
    copy_elems(scratch.plain, x, held)
    check_held(held)
    set_arrays(request, scratch.plain, scratch.plain, None)
    run_request(request, held)
    return 0 if scratch.plain is out else copy_elems(out, scratch.plain, held)


# A kept element becomes x * scale + shift, a dropped one fill.
ctypedef struct affine:
    double scale, shift, fill


cdef inline job_request mask_request(const stream_key *key, uint64_t first, double p, const affine *map,
                                     cnp.ndarray x) noexcept:
    """Return a request of apply_mask for one run of positions, without arrays."""
    cdef job_request request
    request = blank_request(OPERATION_apply_mask, dtype_index(x))
    request.key = key[0]
    request.first = first
    request.p = p
    request.scale = map.scale
    request.shift = map.shift
    request.fill = map.fill
    return request


cdef int apply_mask(const stream_key *key, uint64_t first, double p, const affine *map, tuple strides, cnp.ndarray out,
                    cnp.ndarray x, Scratch scratch, held_arrays *held) except -1:
    """out = x, masked and mapped, after check_held. strides is None if the elements of x take one run of positions in C
    order."""
    cdef job_request request
    cdef mask_axes axes
    request = mask_request(key, first, p, map, x)
    if strides is not None:
        set_axes(&axes, x, strides)
        request.n_axes = axes.n
        request.lens = axes.lens
        request.strides = axes.strides
    return run_on_arrays(&request, out, x, None, scratch, held)
