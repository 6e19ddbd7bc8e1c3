"""Steps of optimizers in one pass over memory, for cdropout.networks and cdropout.compact. Part of _kernels.pyx.

The rules and the order of their operations are in core/kernel_table.h, and in no other place."""


cdef int check_updated_array(cnp.ndarray array, str name, cnp.ndarray param, bint is_written) except -1:
    """Raise TypeError or ValueError unless an array of a step, next to its parameter, can be used as it is."""
    cdef int dtype = dtype_index(array)
    if dtype != DTYPE_f32 and dtype != DTYPE_f64:
        raise TypeError(f"{name} must be an array of float32 or float64, got dtype {array.dtype}")
    if dtype != dtype_index(param):
        raise TypeError(f"{name} must have the dtype of param, {param.dtype}, got {array.dtype}")
    if not is_plain(array):
        raise ValueError(
            f"{name} must be C-contiguous and in native byte order, got strides {(<object>array).strides} for shape "
            f"{(<object>array).shape} and dtype {array.dtype}"
        )
    if is_written and not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} must be writable, got a read-only array of shape {(<object>array).shape}")
    return 0


cdef int check_apart(cnp.ndarray a, str a_name, cnp.ndarray b, str b_name) except -1:
    """Raise ValueError if two contiguous arrays share memory."""
    cdef char *a_data = cnp.PyArray_BYTES(a)
    cdef char *b_data = cnp.PyArray_BYTES(b)
    if a_data < b_data + cnp.PyArray_NBYTES(b) and b_data < a_data + cnp.PyArray_NBYTES(a):
        raise ValueError(f"{a_name} must be apart from {b_name}, got arrays that overlap")
    return 0


cdef int check_shapes(tuple names, tuple arrays, const submatrix *kept) except -1:
    cdef cnp.ndarray param = arrays[0]
    for name, array in zip(names, arrays):
        expected = (<object>param).shape
        if kept != NULL and name == "grad":
            expected = count_kept(kept.row_words, kept.n_rows), count_kept(kept.column_words, kept.n_columns)
        if array.shape != expected:
            what = "of what is kept" if kept != NULL and name == "grad" else "of param"
            raise ValueError(f"{name} must have the shape {what}, {expected}, got {array.shape}")
    return 0


cdef int run_update(param_update *request, tuple names, tuple arrays, kept) except -1:
    """Check the arrays of a step, of which the second, the gradient, is only read; then make the step.

    kept is None, or (row_words, column_words, scale, is_lazy): grad is then the dense matrix of kept rows and columns,
    words as in move_kept. The gradient is grad * scale there, and 0 elsewhere. is_lazy: only kept elements are updated,
    and scale is 1."""
    cdef held_arrays held
    cdef job j
    cdef submatrix matrix
    cdef const submatrix *kept_matrix = NULL
    cdef cnp.ndarray array
    cdef cnp.ndarray param = arrays[0]
    begin_holding(&held, True)
    for i, array in enumerate(arrays):
        check_updated_array(array, names[i], param, i != 1)
        for k in range(i):
            check_apart(array, names[i], <cnp.ndarray>arrays[k], names[k])
        hold(&held, array, names[i], False, i != 1)
    if kept is not None:
        row_words, column_words, scale, is_lazy = kept
        if cnp.PyArray_NDIM(param) != 2:
            raise ValueError(f"param must have the axes (n_rows, n_columns), got shape {(<object>param).shape}")
        matrix.n_rows, matrix.n_columns = cnp.PyArray_DIM(param, 0), cnp.PyArray_DIM(param, 1)
        matrix.row_words = checked_words(row_words, cnp.PyArray_DIM(param, 0), "row_words")
        matrix.column_words = checked_words(column_words, cnp.PyArray_DIM(param, 1), "column_words")
        matrix.verb = SCATTER_KEPT_SET if is_lazy else SCATTER_KEPT_ZERO
        matrix.scale = checked_finite(scale, "scale")
        matrix.x, matrix.out = NULL, NULL
        kept_matrix = &matrix
    check_shapes(names, arrays, kept_matrix)
    if may_use_threads(UPDATE_ELEM_COST * cnp.PyArray_SIZE(param)):
        prepare_threads()
    request.param, request.grad = cnp.PyArray_BYTES(param), cnp.PyArray_BYTES(<cnp.ndarray>arrays[1])
    request.first = cnp.PyArray_BYTES(<cnp.ndarray>arrays[2])
    request.second = cnp.PyArray_BYTES(<cnp.ndarray>arrays[3]) if len(arrays) > 3 else NULL
    check_held(&held)
    if job_plan_update(&j, request, kept_matrix, cnp.PyArray_SIZE(param), dtype_index(param)) != 0:
        raise SystemError("a checked step must be one that can be planned: please report this")
    return run_job(&j, &held)


def check_updated(cnp.ndarray param not None, cnp.ndarray grad not None):
    """Raise TypeError or ValueError unless a parameter can be updated in place by its gradient."""
    for name, array in (("param", param), ("grad", grad)):
        check_unmasked(array, name, "masked elements would be updated")
    check_updated_array(param, "param", param, True)
    check_updated_array(grad, "grad", param, False)
    check_shapes(("param", "grad"), (param, grad), NULL)
    check_apart(grad, "grad", param, "param")


def step_momentum(cnp.ndarray param not None, cnp.ndarray grad not None, cnp.ndarray velocity not None, *, momentum,
                  add, factor, l2=0.0, bint is_nesterov=False, kept=None):
    """Update a parameter and its velocity: ``step = add * (grad + l2 * param)``, ``velocity = momentum * velocity +
    step``, ``param += factor * velocity``, before which is_nesterov adds step.

    The arrays are C-contiguous, of float32 or float64 and of one shape, and apart from each other; kept as in
    run_update. Numbers are rounded to the dtype. Raises TypeError or ValueError for other arguments, before anything is
    written."""
    cdef param_update request
    request.rule = UPDATE_NESTEROV if is_nesterov else UPDATE_MOMENTUM
    request.decay_first, request.add_first = checked_finite(momentum, "momentum"), checked_finite(add, "add")
    request.factor, request.l2 = checked_finite(factor, "factor"), checked_finite(l2, "l2")
    request.decay_second = request.add_second = request.eps = 0.0
    run_update(&request, ("param", "grad", "velocity"), (param, grad, velocity), kept)


def step_adam(cnp.ndarray param not None, cnp.ndarray grad not None, cnp.ndarray first not None,
              cnp.ndarray second not None, *, decay_first, add_first, decay_second, add_second, eps, factor, l2=0.0,
              kept=None):
    """Update a parameter and its two moments: with ``g = grad + l2 * param``, ``first = decay_first * first + add_first
    * g``, ``second = decay_second * second + add_second * g**2``, ``param += factor * first / (sqrt(second) + eps)``.

    Arrays, kept and errors as in `step_momentum`."""
    cdef param_update request
    request.rule = UPDATE_ADAM
    request.decay_first = checked_finite(decay_first, "decay_first")
    request.add_first = checked_finite(add_first, "add_first")
    request.decay_second = checked_finite(decay_second, "decay_second")
    request.add_second = checked_finite(add_second, "add_second")
    request.eps, request.factor = checked_finite(eps, "eps"), checked_finite(factor, "factor")
    request.l2 = checked_finite(l2, "l2")
    run_update(&request, ("param", "grad", "first", "second"), (param, grad, first, second), kept)
