"""The fused operations: dropout with a bias, ReLU or residual in the same pass, and the gradient that ReLU needs."""

# Each operation, and whether it has a bias and a residual.
OPERATIONS = {
    "relu_dropout": (OPERATION_relu_dropout, False, False),
    "bias_relu_dropout": (OPERATION_bias_relu_dropout, True, False),
    "dropout_add": (OPERATION_dropout_add, False, True),
    "bias_dropout_add": (OPERATION_bias_dropout_add, True, True),
    "choose": (OPERATION_choose, False, True),
}


def fused(mask_type, str name, x, bias, residual, p, rng, out):
    """(y, mask) of an operation; y alone where mask_type is None. Bias and residual are not looked at where it has
    none. With rng = None, checks the arguments and stops there."""
    cdef int operation
    cdef bint has_bias, has_residual
    operation, has_bias, has_residual = OPERATIONS[name]
    cdef job j
    cdef StreamCore stream
    cdef MaskCore mask
    cdef stream_key key
    cdef uint64_t first
    cdef char bias_room[BIAS_ROOM_BYTES]
    x_name, residual_name = ("new", "previous") if operation == OPERATION_choose else ("x", "residual")
    cdef cnp.ndarray array = checked_array(x, x_name)
    cdef double p_checked = checked_p(p)
    cdef cnp.ndarray plain_bias = checked_bias(bias, array) if has_bias else None
    cdef cnp.ndarray added = checked_partner(residual, array, residual_name, x_name) if has_residual else None
    if rng is None and out is None:
        return None
    cdef cnp.ndarray result = checked_out(out, array, x_name)
    if out is not None and added is not None:
        checked_out(out, added, residual_name)
    if out is not None and plain_bias is not None and cnp.PyArray_SIZE(result) > 0:
        check_bias_is_apart(plain_bias, result)
    if rng is None:
        return None
    memory = memory_for(result, array, added, None)
    stream = checked_stream(rng)
    if mask_type is None:
        first = stream.take(cnp.PyArray_SIZE(array), &key)
    else:
        mask = new_mask(mask_type, p_checked, (<object>array).shape, (), stream, cnp.PyArray_SIZE(array))
        first, key = mask.first, mask.words
    if cnp.PyArray_SIZE(array) > 0:
        set_job(&j, operation, array, p_checked, kept_scale(p_checked))
        j.rule.key = key
        j.first = first
        if plain_bias is not None:
            lay_bias(
                &j.arrays, bias_room, cnp.PyArray_BYTES(plain_bias), cnp.PyArray_SIZE(plain_bias), j.elem_bytes
            )
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
    run_on_arrays(&j, result, gradient, output, memory_for(result, gradient, output, None))
    return result if out is None else out
