"""Checks of arguments. An error names the argument, the rule and the value, before anything is written or drawn.

Functions named checked_... return the argument converted; those named check_... are for Python. Part of _kernels.pyx.
"""

# ---- p --------------------------------------------------------------------------------------------------------------

# Types that float() accepts and that are not meant as numbers. p=True would drop everything.
cdef tuple NOT_REAL = (
    bool, np.bool_, str, bytes, bytearray, memoryview, complex, np.complexfloating, np.flexible
)


cdef double checked_real(object value, str name) except? -1.0:
    """Return a real number (of Python, NumPy, or an object with __float__) as a double."""
    if PyFloat_CheckExact(value):
        return value
    is_foreign = isinstance(value, NOT_REAL) or (
        isinstance(value, np.ndarray) and (value.ndim > 0 or value.dtype.kind not in "iuf")
    )
    if not is_foreign:
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
        except OverflowError:
            if isinstance(value, Real):
                return float("inf") if value > 0 else -float("inf")
    raise TypeError(f"{name} must be a real number, got {shown(value)}")


cdef double checked_p(object p) except -1.0:
    cdef double value = checked_real(p, "p")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"p must be in [0, 1], got {shown(p)}")
    return value


def check_p(p):
    """Return p as a float. Raise TypeError if it is not a real number, ValueError if it is outside [0, 1]."""
    return checked_p(p)


cdef double checked_finite(object number, str name) except? -1.0:
    cdef double value = checked_real(number, name)
    if not isfinite(value):
        raise ValueError(f"{name} must be finite, got {shown(number)}")
    return value


cdef double checked_std(object std) except -1.0:
    cdef double value = checked_finite(std, "std")
    if not 0.0 <= value <= MAX_STD:
        raise ValueError(f"std must be in [0, 1e37], got {shown(std)}")
    return value


def check_std(std):
    """Return std as a float. Raise TypeError if it is not a real number, ValueError if it is outside [0, 1e37]."""
    return checked_std(std)


# ---- arrays ---------------------------------------------------------------------------------------------------------

def join_names(names):
    return " or ".join((", ".join(names[:-1]), names[-1]))


# NumPy's names of the catalog's dtypes, the smallest dtype first.
FLOATS = tuple([
    dtype_table[dtype].numpy_name.decode()
    for dtype in sorted(range(N_DTYPES), key=lambda dtype: (dtype_table[dtype].n_bytes, dtype))
])
DTYPE_NAMES = join_names(FLOATS)


def check_dtype(dtype, names=FLOATS):
    """Return a dtype argument as a NumPy dtype. Raise TypeError unless its name is in `names`."""
    try:
        numpy_dtype = None if dtype is None else np.dtype(dtype)
    except (SyntaxError, TypeError, ValueError):  # from NumPy, which raises SyntaxError for some strings
        numpy_dtype = None
    # The catalog's name: `numpy_dtype.name` imports a module, which fails while the interpreter ends.
    cdef int dtype_number = -1
    if numpy_dtype is not None and numpy_dtype.subdtype is None:
        dtype_number = dtype_index(np.empty(0, numpy_dtype))
    if dtype_number < 0 or dtype_table[dtype_number].numpy_name.decode() not in names:
        got = shown(dtype) if numpy_dtype is None else numpy_dtype
        raise TypeError(f"dtype must be {join_names(names)}, got {got}")
    return numpy_dtype


# NumPy's type number of each dtype of the catalog. Those of ml_dtypes are assigned when ml_dtypes is imported: they are
# -1 until an array of the dtype has been seen.
cdef int numpy_type_nums[N_DTYPES]


cdef object set_type_nums():
    cdef int dtype
    for dtype in range(N_DTYPES):
        name = dtype_table[dtype].numpy_name.decode()
        numpy_type_nums[dtype] = np.dtype(name).num if hasattr(np, name) else -1


set_type_nums()


cdef int index_of_user_dtype(cnp.ndarray a):
    """Return the catalog's number of a dtype of ml_dtypes, -1 for another dtype. ml_dtypes is not imported: an array of
    its dtypes exists only if it has been."""
    cdef int dtype
    ml_dtypes = sys.modules.get("ml_dtypes")
    for dtype in range(N_DTYPES):
        defined = getattr(ml_dtypes, dtype_table[dtype].numpy_name.decode(), None)
        if defined is not None and a.dtype.newbyteorder("=") == np.dtype(defined):
            store_int(&numpy_type_nums[dtype], cnp.PyArray_TYPE(a))
            return dtype
    return -1


cdef inline int dtype_index(cnp.ndarray a):
    """Return the catalog's number of the array's dtype, in any byte order; -1 if there is none."""
    cdef int dtype, type_num = cnp.PyArray_TYPE(a)
    # Equal dtypes for NumPy: C's long double on Windows, and on macOS with ARM64.
    if type_num == cnp.NPY_LONGDOUBLE and cnp.PyArray_ITEMSIZE(a) == sizeof(double):
        type_num = cnp.NPY_DOUBLE
    for dtype in range(N_DTYPES):
        if load_int(&numpy_type_nums[dtype]) == type_num:
            return dtype
    return index_of_user_dtype(a) if cnp.PyTypeNum_ISUSERDEF(type_num) else -1


cdef inline bint is_plain(cnp.ndarray a) noexcept:
    """Whether the kernels can work on the array's memory: C-contiguous and in native byte order."""
    return cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef cnp.ndarray checked_array(object a, str name):
    cdef cnp.ndarray array = a if cnp.PyArray_CheckExact(a) else readable_array(a, name)
    if dtype_index(array) < 0:
        raise TypeError(f"{name} must be an array of {DTYPE_NAMES}, got dtype {array.dtype}{advice_for(array, name)}")
    return array


cdef str advice_for(cnp.ndarray array, str name):
    """Return the end of an error about an array's dtype: what takes integers, or that these have no gradient."""
    if width_of(array) < 0:
        return ""
    if name == "x":
        return ": cdropout.draw_mask(x.shape, p).apply(x, fill=...) drops elements of bool and integer arrays"
    return ": bool and integer arrays have no gradient" if name == "dy" else ""


cdef inline int width_of(cnp.ndarray a) noexcept:
    """Return the number of the width (core/kernel_table.h) of a bool or integer array's elements, or -1."""
    cdef int type_num = cnp.PyArray_TYPE(a)
    if not (cnp.PyTypeNum_ISBOOL(type_num) or cnp.PyTypeNum_ISINTEGER(type_num)):
        return -1
    return width_of_bytes(cnp.PyArray_ITEMSIZE(a))


cdef inline int width_of_bytes(Py_ssize_t n_bytes) noexcept:
    return 0 if n_bytes == 1 else 1 if n_bytes == 2 else 2 if n_bytes == 4 else 3 if n_bytes == 8 else -1


cdef cnp.ndarray checked_selectable(object a, str name):
    """Return an argument as an array of bool, integers or floats, whose bits the select kernels copy."""
    cdef cnp.ndarray array = a if cnp.PyArray_CheckExact(a) else readable_array(a, name)
    if dtype_index(array) < 0 and width_of(array) < 0:
        raise TypeError(f"{name} must be an array of {DTYPE_NAMES}, bool or integers, got dtype {array.dtype}")
    return array


cdef cnp.ndarray checked_fill(object fill, cnp.ndarray x, str x_name):
    """Return the values of dropped elements of x as a new plain array of x's dtype: element i takes value i modulo its
    size. Raise TypeError or ValueError unless they are values of the dtype and broadcast to x's shape."""
    if PyLong_CheckExact(fill) and width_of(x) >= 0 and not cnp.PyTypeNum_ISBOOL(cnp.PyArray_TYPE(x)):
        n_bits = 8 * cnp.PyArray_ITEMSIZE(x) - (0 if cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(x)) else 1)
        if (0 if n_bits % 2 == 0 else -(1 << n_bits)) <= fill < 1 << n_bits:
            return np.array([fill], x.dtype.newbyteorder("="))
    check_unmasked(fill, "fill", "masked values would be used")
    cdef cnp.ndarray given = as_array(fill, "fill")
    dtype = x.dtype.newbyteorder("=")
    kind = dtype.kind if width_of(x) >= 0 else "f"
    wide_int = int_beyond_64_bits(given)
    if wide_int is not None:
        given = floats_of_ints(given) if kind == "f" else None
        if given is None:
            raise ValueError(f"fill must be values of {dtype}, got {shown(wide_int)}")
    is_number = cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(given)) or dtype_index(given) >= 0
    if not (is_number or (cnp.PyTypeNum_ISBOOL(cnp.PyArray_TYPE(given)) and kind == "b")):
        raise TypeError(f"fill must be values of {dtype}, got {shown(fill) if given.ndim == 0 else given.dtype}")
    with np.errstate(all="ignore"):
        values = np.array(given, dtype, order="C", subok=False)
        # float64 does not hold all integers of 64 bits: integers are compared as such.
        if is_number and dtype_index(given) >= 0:
            wide = given.astype(np.float64)
            is_exact_value = (
                np.isinf(wide) | np.isfinite(values.astype(np.float64)) | np.isnan(wide) if kind == "f"
                else np.isin(wide, (0.0, 1.0)) if kind == "b"
                else is_whole_within(wide, dtype)
            )
        elif kind == "f":
            is_exact_value = np.isfinite(values.astype(np.float64))
        elif kind == "b":
            is_exact_value = (given == 0) | (given == 1)
        else:
            info = np.iinfo(dtype)
            is_exact_value = (given >= info.min) & (given <= info.max)
    if not is_exact_value.all():
        wrong = given[~is_exact_value].flat[0] if given.ndim else given[()]
        raise ValueError(f"fill must be values of {dtype}, got {wrong}")
    lengths, skip = (<object>x).shape, x.ndim - values.ndim
    if skip < 0 or any(n != 1 and n != length for n, length in zip(values.shape, lengths[max(skip, 0):])):
        raise ValueError(f"fill must broadcast to the shape of {x_name}, {lengths}, got {values.shape}")
    if values.size == 1:
        return values.reshape(1)
    if values.size == 0 or cnp.PyArray_SIZE(x) == 0:
        return np.resize(values, 1)
    while lengths[skip] == 1 or values.shape[0] == 1:
        values, skip = values[0], skip + 1
    if values.shape == lengths[skip:]:
        return values.reshape(-1)
    return np.array(np.broadcast_to(values, lengths[skip:]), order="C").reshape(-1)


cdef object int_beyond_64_bits(cnp.ndarray given):
    """Return an int for which NumPy has no integer dtype, if an array holds ints and one of them is too large."""
    if cnp.PyArray_TYPE(given) != cnp.NPY_OBJECT or any(type(n) is not int for n in given.flat):
        return None
    return next((n for n in given.flat if not -1 << 63 <= n < 1 << 64), None)


cdef object floats_of_ints(cnp.ndarray given):
    """Return an array of ints as float64, None if one of them is too large."""
    try:
        return given.astype(np.float64)
    except OverflowError:
        return None


cdef object is_whole_within(object numbers, object dtype):
    """Return where floats are integers of a dtype. Its largest number plus 1 is a power of 2, which float64 holds."""
    info = np.iinfo(dtype)
    return (numbers == np.floor(numbers)) & (numbers >= float(info.min)) & (numbers < float(info.max + 1))


def check_array(a, name):
    """Return an argument as an array. Raise TypeError, with its name, if no kernel has its dtype."""
    return checked_array(a, name)


def check_out(out, x):
    """Return out, or a new array if it is None. Raise TypeError or ValueError if no result for x can go there."""
    return checked_out(out, x, "x")


cdef bint has_shape(cnp.ndarray a, tuple shape):
    """Whether an array has this shape, a tuple of ints."""
    cdef int axis
    if cnp.PyArray_NDIM(a) != len(shape):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if shape[axis] != cnp.PyArray_DIM(a, axis):
            return False
    return True


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef bint overlaps_itself(cnp.ndarray a):
    """Whether elements of an array that is not contiguous may share memory, as in a view with a stride of 0."""
    cdef Py_ssize_t reach = a.itemsize
    for stride, length in sorted((abs(a.strides[axis]), a.shape[axis]) for axis in range(a.ndim)):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


cdef bint overlaps_partly(cnp.ndarray a, cnp.ndarray b):
    """Whether the arrays overlap, unless each element is at the same address in both."""
    cdef char *a_data = cnp.PyArray_BYTES(a)
    cdef char *b_data = cnp.PyArray_BYTES(b)
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return a_data != b_data and a_data < b_data + cnp.PyArray_NBYTES(b) and b_data < a_data + cnp.PyArray_NBYTES(a)
    if a_data == b_data and all([
        a.strides[axis] == b.strides[axis] for axis in range(a.ndim) if a.shape[axis] > 1
    ]):
        return False
    try:
        return np.shares_memory(a, b, max_work=1_000_000)
    except np.exceptions.TooHardError:
        return True


cdef cnp.ndarray checked_out(object out, cnp.ndarray x, str name):
    """Return out as an ndarray to which a result for x can be written, or a new array if it is None. Errors call x
    `name`."""
    cdef cnp.ndarray array
    if out is None:
        if is_plain(x):
            return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
        return np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)
    array = out if cnp.PyArray_CheckExact(out) else writable_array(out)
    if not same_shape(x, array):
        raise ValueError(
            f"out must have the shape of {name}, got out of {(<object>array).shape} for {name} of {(<object>x).shape}"
        )
    if not cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(array), cnp.PyArray_TYPE(x)):
        raise ValueError(f"out must have the dtype of {name}, got out of {array.dtype} for {name} of {x.dtype}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(
            f"out must be writable, got a read-only {type(out).__name__} for {name} of shape {(<object>x).shape}"
        )
    if (array is x and cnp.PyArray_IS_C_CONTIGUOUS(array)) or cnp.PyArray_SIZE(array) == 0:
        return array
    is_contiguous = cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)
    if not is_contiguous and overlaps_itself(array):
        raise ValueError(
            f"out must not overlap itself, got strides {(<object>array).strides} for shape {(<object>array).shape}"
        )
    if overlaps_partly(x, array):
        raise ValueError(f"out must be {name} itself or apart from it, got an out that partly overlaps {name}")
    return array


cdef cnp.ndarray checked_same_shape(object a, cnp.ndarray x, str name, str x_name):
    """Return an array that is read together with x. Raise ValueError unless it has the shape and dtype of x."""
    cdef cnp.ndarray array = checked_array(a, name)
    if not same_shape(array, x):
        raise ValueError(f"{name} must have the shape of {x_name}, got {(<object>array).shape} for {(<object>x).shape}")
    if dtype_index(array) != dtype_index(x):
        raise ValueError(f"{name} must have the dtype of {x_name}, got {array.dtype} for {x.dtype}")
    return array


cdef int check_bias_is_apart(cnp.ndarray bias, cnp.ndarray out) except -1:
    """Raise ValueError if bias, which is read again for every row, overlaps out. bias is C-contiguous."""
    cdef char *data = cnp.PyArray_BYTES(bias)
    cdef char *out_data = cnp.PyArray_BYTES(out)
    if cnp.PyArray_IS_C_CONTIGUOUS(out):
        is_apart = data + cnp.PyArray_NBYTES(bias) <= out_data or out_data + cnp.PyArray_NBYTES(out) <= data
    else:
        try:
            is_apart = not np.shares_memory(bias, out, max_work=1_000_000)
        except np.exceptions.TooHardError:
            is_apart = False
    if not is_apart:
        raise ValueError(f"out must be apart from bias, got an out that overlaps bias of shape {(<object>bias).shape}")
    return 0


cdef cnp.ndarray checked_bias(object bias, cnp.ndarray x):
    """Return a bias as an array for which is_plain holds: of x's dtype, with one element for each column of x."""
    cdef cnp.ndarray array = checked_array(bias, "bias")
    if dtype_index(array) != dtype_index(x):
        raise ValueError(f"bias must have the dtype of x, got {array.dtype} for {x.dtype}")
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_NDIM(x) == 0 or array.shape[0] != x.shape[cnp.PyArray_NDIM(x) - 1]:
        raise ValueError(
            f"bias must have one element for each of x's columns, got {(<object>array).shape} for {(<object>x).shape}"
        )
    return array if is_plain(array) else np.ascontiguousarray(array, x.dtype.newbyteorder("="))


cdef object index_of(object value):
    """Return an axis or a length as an int. TypeError for a bool, which is meant as a flag, not as 0 or 1."""
    if PyLong_CheckExact(value):
        return value
    if isinstance(value, bool) or isinstance(value, np.bool_):  # the second has __index__ before NumPy 2.3
        raise TypeError
    return exact_int(value)


cdef tuple checked_shape(object shape):
    try:
        lengths = tuple([index_of(n) for n in shape]) if isinstance(shape, (tuple, list)) else (index_of(shape),)
    except (AttributeError, TypeError):
        raise TypeError(f"shape must be an integer or a tuple of integers, got {shown(shape)}") from None
    if any(n < 0 for n in lengths) or len(lengths) > MAX_AXES:
        raise ValueError(f"shape must be at most {MAX_AXES} non-negative integers, got {shown(shape)}")
    return lengths


cdef list integer_axes(object shared_axes):
    try:
        if isinstance(shared_axes, (tuple, list)):
            return [index_of(axis) for axis in shared_axes]
        return [index_of(shared_axes)]
    except (AttributeError, TypeError):
        raise TypeError(f"shared_axes must be an integer or a tuple of integers, got {shown(shared_axes)}") from None


def check_axes(shared_axes):
    """Raise TypeError if shared_axes is not an integer or a tuple of integers."""
    integer_axes(shared_axes)


cdef inline bint is_not_empty(object shared_axes) noexcept:
    return not (type(shared_axes) is tuple and len(<tuple>shared_axes) == 0)


cdef tuple checked_axes(object shared_axes, int n_dims):
    """Return shared_axes as sorted, non-negative integers."""
    if not is_not_empty(shared_axes):
        return ()
    normal = sorted(axis + n_dims if axis < 0 else axis for axis in integer_axes(shared_axes))
    if any(not 0 <= axis < n_dims for axis in normal) or len(set(normal)) < len(normal):
        raise ValueError(
            f"shared_axes must name different axes of a {n_dims}-dimensional array, got {shown(shared_axes)}"
        )
    return tuple(normal)


cdef object n_drawn(tuple shape, tuple shared_axes):
    """Return how many positions a mask takes: shared axes count as length 1, an empty shape takes none."""
    if 0 in shape:
        return 0
    n = 1
    for axis, length in enumerate(shape):
        if axis not in shared_axes:
            n *= length
    return n


cdef tuple strides_of_run(tuple shape, tuple shared_axes):
    """Return the strides, in positions, of a mask whose elements take one run of positions in C order."""
    strides = []
    n = 1
    for axis in range(len(shape) - 1, -1, -1):
        strides.append(0 if axis in shared_axes else n)
        if axis not in shared_axes:
            n *= shape[axis]
    return tuple(strides[::-1])


cdef tuple checked_strides(object strides, tuple shape, tuple shared_axes):
    """Return the strides of a part of a mask, None if they are those of one run of positions. Strides without effect,
    as along axes of length 1, are replaced by those of a run, so that equal parts have equal strides."""
    try:
        given = [index_of(n) for n in strides]
    except (AttributeError, TypeError):
        raise TypeError(f"strides must be a tuple of integers, got {strides!r}") from None
    if len(given) != len(shape):
        raise ValueError(f"strides must have one number for each axis of {shape}, got {strides!r}")
    normal = list(strides_of_run(shape, shared_axes))
    reach = 0
    for axis in range(len(shape) - 1, -1, -1):
        if axis in shared_axes:
            if given[axis] != 0:
                raise ValueError(f"strides must be 0 along the shared axes {shared_axes}, got {strides!r}")
        elif shape[axis] > 1 and 0 not in shape:
            if given[axis] <= reach:
                raise ValueError(f"strides must go past all that inner axes of {shape} take, got {strides!r}")
            reach += (shape[axis] - 1) * given[axis]
            normal[axis] = given[axis]
    return None if tuple(normal) == strides_of_run(shape, shared_axes) else tuple(normal)
