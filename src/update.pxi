"""Steps of optimizers in one pass over memory, for cdropout.networks and cdropout.compact. Part of _kernels.pyx.

The rules and the order of their operations are in core/kernel_table.h, and in no other place."""


cdef int check_updated_array(cnp.ndarray array, str name, cnp.ndarray param, bint is_written) except -1:
    """Raise TypeError or ValueError unless an array of a step can be used as it is, next to its parameter."""
    if cnp.PyArray_TYPE(array) not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
        raise TypeError(f"{name} must be an array of float32 or float64, got dtype {array.dtype}")
    if not is_plain(array):
        raise ValueError(f"{name} must be C-contiguous and in native byte order, got {shown(array)}")
    if is_written and not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} must be writable, got a read-only array of shape {(<object>array).shape}")
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(param):
        raise TypeError(f"{name} must have the dtype of param, {param.dtype}, got {array.dtype}")
    if not same_shape(array, param):
        raise ValueError(f"{name} must have the shape of param, {(<object>param).shape}, got {(<object>array).shape}")
    return 0


cdef int run_update(param_update *request, tuple names, tuple arrays) except -1:
    """Check the arrays of a step, of which the second, the gradient, is read only; then make the step."""
    cdef held_arrays held
    cdef job j
    cdef cnp.ndarray array, other
    cdef cnp.ndarray param = arrays[0]
    begin_holding(&held, True)
    for i, array in enumerate(arrays):
        check_updated_array(array, names[i], param, i != 1)
        for k in range(i):
            other = arrays[k]
            if array is other or overlaps_partly(array, other) or (
                cnp.PyArray_BYTES(array) == cnp.PyArray_BYTES(other) and cnp.PyArray_SIZE(array) > 0
            ):
                raise ValueError(f"{names[i]} must be apart from {names[k]}, got arrays that overlap")
        hold(&held, array, names[i], i > 0, i != 1)
    if may_use_threads(cnp.PyArray_SIZE(param)):
        prepare_threads()
    request.param, request.grad = cnp.PyArray_BYTES(param), cnp.PyArray_BYTES(<cnp.ndarray>arrays[1])
    request.first = cnp.PyArray_BYTES(<cnp.ndarray>arrays[2])
    request.second = cnp.PyArray_BYTES(<cnp.ndarray>arrays[3]) if len(arrays) > 3 else NULL
    check_held(&held)
    if job_plan_update(&j, request, cnp.PyArray_SIZE(param), dtype_index(param)) != 0:
        raise SystemError("a checked step must be one that can be planned: please report this")
    return run_job(&j, &held)


def check_updated(cnp.ndarray param not None, cnp.ndarray grad not None):
    """Raise TypeError or ValueError unless a parameter can be updated in place by its gradient."""
    check_updated_array(param, "param", param, True)
    check_updated_array(grad, "grad", param, False)


def step_momentum(cnp.ndarray param not None, cnp.ndarray grad not None, cnp.ndarray velocity not None, *, momentum,
                  scale, factor, l2=0.0, bint is_nesterov=False):
    """Update a parameter and its velocity: ``step = scale * (grad + l2 * param)``, ``velocity = momentum * velocity +
    step``, ``param += factor * velocity``, before which is_nesterov adds step.

    The arrays are C-contiguous, of float32 or float64 and of one shape, and apart from each other. Numbers are rounded
    to their dtype. Raises TypeError or ValueError for other arguments, before anything is written."""
    cdef param_update request
    request.rule = UPDATE_NESTEROV if is_nesterov else UPDATE_MOMENTUM
    request.decay_first, request.add_first = checked_finite(momentum, "momentum"), checked_finite(scale, "scale")
    request.factor, request.l2 = checked_finite(factor, "factor"), checked_finite(l2, "l2")
    request.decay_second = request.add_second = request.eps = 0.0
    run_update(&request, ("param", "grad", "velocity"), (param, grad, velocity))


def step_adam(cnp.ndarray param not None, cnp.ndarray grad not None, cnp.ndarray first not None,
              cnp.ndarray second not None, *, decay_first, add_first, decay_second, add_second, eps, factor, l2=0.0):
    """Update a parameter and its two moments: with ``g = grad + l2 * param``, ``first = decay_first * first + add_first
    * g``, ``second = decay_second * second + add_second * g**2``, ``param += factor * first / (sqrt(second) + eps)``.

    Arrays and errors as in `step_momentum`."""
    cdef param_update request
    request.rule = UPDATE_ADAM
    request.decay_first = checked_finite(decay_first, "decay_first")
    request.add_first = checked_finite(add_first, "add_first")
    request.decay_second = checked_finite(decay_second, "decay_second")
    request.add_second = checked_finite(add_second, "add_second")
    request.eps, request.factor = checked_finite(eps, "eps"), checked_finite(factor, "factor")
    request.l2 = checked_finite(l2, "l2")
    run_update(&request, ("param", "grad", "first", "second"), (param, grad, first, second))
