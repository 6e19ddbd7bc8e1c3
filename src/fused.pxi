"""The fused operations: dropout with a bias, ReLU or residual in the same pass, and the gradient that ReLU needs."""

cdef inline size_t bias_period(size_t n_bias) noexcept:
    """The shortest row of whole copies of a bias that a group of 64 elements fits into."""
    return n_bias * ((ELEMS_PER_GROUP + n_bias - 1) // n_bias)


cdef cnp.ndarray laid_for_groups(cnp.ndarray bias):
    """The bias so that a kernel reads 64 neighbours from wherever a group begins, without a thought for where a row
    ends: itself where rows are whole groups, else its period and the beginning of the next one."""
    cdef size_t n_bytes = cnp.PyArray_NBYTES(bias)
    cdef size_t at = 0
    cdef size_t n_laid_bytes
    cdef cnp.npy_intp n_laid
    cdef cnp.ndarray laid
    if cnp.PyArray_SIZE(bias) % ELEMS_PER_GROUP == 0:
        return bias
    n_laid = bias_period(cnp.PyArray_SIZE(bias)) + ELEMS_PER_GROUP
    laid = cnp.PyArray_EMPTY(1, &n_laid, cnp.PyArray_TYPE(bias), 0)
    n_laid_bytes = cnp.PyArray_NBYTES(laid)
    while at < n_laid_bytes:
        memcpy(cnp.PyArray_BYTES(laid) + at, cnp.PyArray_BYTES(bias), min(n_bytes, n_laid_bytes - at))
        at += n_bytes
    return laid


OPERATIONS = {
    "relu_dropout": OPERATION_relu_dropout,
    "bias_relu_dropout": OPERATION_bias_relu_dropout,
    "dropout_add": OPERATION_dropout_add,
    "bias_dropout_add": OPERATION_bias_dropout_add,
    "choose": OPERATION_choose,
}


def fused(mask_type, str name, x, bias, residual, p, rng, out):
    """(y, mask) of an operation; y alone where mask_type is None. Bias and residual are None where it has none. With
    rng = None, checks the arguments and stops there."""
    cdef int operation = OPERATIONS[name]
    cdef job j
    cdef StreamCore stream
    cdef MaskCore mask
    cdef uint64_t first
    x_name, residual_name = ("new", "previous") if operation == OPERATION_choose else ("x", "residual")
    cdef cnp.ndarray array = checked_array(x, x_name)
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray plain_bias = None if bias is None else checked_bias(bias, array)
    cdef cnp.ndarray added = None if residual is None else checked_partner(residual, array, residual_name, x_name)
    if rng is None and out is None:
        return None
    cdef cnp.ndarray result = checked_out(out, array, x_name)
    if out is not None and added is not None:
        checked_out(out, added, residual_name)
    if rng is None:
        return None
    memory = memory_for(result, array, added, ())
    cdef cnp.ndarray laid_bias = None if plain_bias is None else laid_for_groups(plain_bias)
    stream = stream_of(rng)
    if mask_type is None:
        first = stream.take(cnp.PyArray_SIZE(array))
    else:
        mask = new_mask(mask_type, p_checked, (<object>array).shape, (), stream, cnp.PyArray_SIZE(array))
        first = mask.first
    if cnp.PyArray_SIZE(array) == 0:
        pass
    elif p_checked == 1.0 and added is None:
        result[...] = 0
    elif p_checked == 1.0 and operation == OPERATION_choose:
        copy_elems(result, added)
    elif p_checked == 1.0:
        np.add(added, added.dtype.type(0), out=result)
    else:
        set_job(&j, operation, array, p_checked, kept_scale(p_checked))
        j.rule.key = stream.words
        j.first = first
        if plain_bias is not None:
            j.arrays.bias_period = bias_period(cnp.PyArray_SIZE(plain_bias))
            j.arrays.bias = cnp.PyArray_BYTES(laid_bias)
        run_on_arrays(&j, result, array, added, memory)
    y = result if out is None else out
    return y if mask_type is None else (y, mask)


def scale_where_positive(dy, y, p, out):
    """out = dy / (1-p) where y > 0, 0 elsewhere."""
    cdef job j
    cdef cnp.ndarray gradient = checked_array(dy, "dy")
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray output = checked_partner(y, gradient, "y", "dy")
    cdef cnp.ndarray result = checked_out(out, gradient, "dy")
    checked_out(result, output, "y")
    set_job(&j, 0, gradient, 0.0, kept_scale(p_checked))
    j.kind = SCALE_POSITIVE
    j.first = 0
    run_on_arrays(&j, result, gradient, output, memory_for(result, gradient, output, ()))
    return result if out is None else out
