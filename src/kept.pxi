"""Kept rows and columns of a matrix, by keep words, for cdropout.compact. Part of _kernels.pyx."""

# The numbers of the verbs (core/kernel_table.h), by the names that cdropout.compact uses.
KEPT_VERBS = {
    "gather": GATHER_KEPT, "zero": SCATTER_KEPT_ZERO, "set": SCATTER_KEPT_SET, "add": SCATTER_KEPT_ADD,
}


cdef const uint64_t *checked_words(cnp.ndarray words, Py_ssize_t n_elems, str name) except? NULL:
    """Return the memory of keep words for n_elems elements, NULL for None; ValueError for another number of words."""
    if words is None:
        return NULL
    if not (cnp.PyArray_TYPE(words) == cnp.NPY_UINT64 and is_plain(words) and cnp.PyArray_NDIM(words) == 1):
        raise TypeError(f"{name} must be a contiguous array of uint64, got {shown(words)}")
    if cnp.PyArray_SIZE(words) != (n_elems + 63) // 64:
        raise ValueError(f"{name} must have a word for each 64 of {n_elems}, got {cnp.PyArray_SIZE(words)} words")
    return <const uint64_t *>cnp.PyArray_DATA(words)


def move_kept(verb, cnp.ndarray x not None, cnp.ndarray out not None, cnp.ndarray row_words, cnp.ndarray column_words,
              double scale):
    """Move the kept elements of a matrix, with checked arrays (cdropout.compact.gather_kept, scatter_kept).

    x is the matrix for "gather", and out the dense smaller one; for the other verbs out is the matrix. Both are
    C-contiguous, in native byte order, and apart from each other. Words are None where all rows or columns are kept."""
    cdef submatrix request
    cdef job j
    cdef held_arrays held
    begin_holding(&held, True)
    hold(&held, x, "x")
    hold(&held, out, "out", False, True)
    request.verb = KEPT_VERBS[verb]
    cdef cnp.ndarray whole = x if request.verb == GATHER_KEPT else out
    cdef cnp.ndarray dense = out if request.verb == GATHER_KEPT else x
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_NDIM(out) != 2 or not (is_plain(x) and is_plain(out)):
        raise ValueError("x and out must be C-contiguous matrices in native byte order")
    if cnp.PyArray_TYPE(x) != cnp.PyArray_TYPE(out):
        raise TypeError(f"out must have the dtype of x, got {out.dtype} for {x.dtype}")
    if not cnp.PyArray_ISWRITEABLE(out):
        raise ValueError("out must be writable")
    request.n_rows, request.n_columns = cnp.PyArray_DIM(whole, 0), cnp.PyArray_DIM(whole, 1)
    request.row_words = checked_words(row_words, cnp.PyArray_DIM(whole, 0), "row_words")
    request.column_words = checked_words(column_words, cnp.PyArray_DIM(whole, 1), "column_words")
    cdef size_t n_kept_rows = count_kept(request.row_words, request.n_rows)
    cdef size_t n_kept_columns = count_kept(request.column_words, request.n_columns)
    if <size_t>cnp.PyArray_DIM(dense, 0) != n_kept_rows or <size_t>cnp.PyArray_DIM(dense, 1) != n_kept_columns:
        raise ValueError(
            f"{'out' if dense is out else 'x'} must have the shape of what is kept, {(n_kept_rows, n_kept_columns)}, "
            f"got {(<object>dense).shape}"
        )
    if may_use_threads(cnp.PyArray_SIZE(whole)):
        prepare_threads()
    request.x, request.out = cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(out)
    request.scale = scale
    check_held(&held)
    if job_plan_submatrix(&j, &request, dtype_index(x)) != 0:
        raise TypeError(f"x must be an array of float32 or float64 and scale finite, got {x.dtype} and {scale}")
    run_job(&j, &held)
    return out


def relu_in_place(cnp.ndarray x not None, Mask mask):
    """x = max(x, 0), and dropout by a mask of x's shape unless it is None, for a plain array. NaN stays where kept."""
    cdef job_request request
    cdef mask_axes axes
    cdef held_arrays held
    begin_holding(&held, True)
    hold(&held, x, "x", False, True)
    if not (is_plain(x) and cnp.PyArray_ISWRITEABLE(x)) or dtype_index(x) < 0:
        raise ValueError("x must be a C-contiguous, writable array of floats in native byte order")
    if mask is not None and not has_shape(x, mask.shape):
        raise ValueError(f"x must have the mask's shape {mask.shape}, got {(<object>x).shape}")
    cdef tuple strides = mask.all_strides() if mask is not None else None
    if may_use_threads(cnp.PyArray_SIZE(x)):
        prepare_threads()
    request = blank_request(OPERATION_relu_dropout, dtype_index(x))
    request.scale = 1.0
    if mask is not None:
        request.key, request.first, request.p, request.scale = mask.key_words, mask.first, mask.p, kept_scale(mask.p)
        set_axes(&axes, x, strides)
        request.n_axes, request.lens, request.strides = axes.n, axes.lens, axes.strides
    request.out, request.x, request.n_elems = cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(x), cnp.PyArray_SIZE(x)
    check_held(&held)
    run_request(&request, &held)
    return x
