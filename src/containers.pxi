"""Masked arrays and other subclasses of ndarray. Kernels work on their plain memory; a new result takes their class, as
the result of NumPy's multiplication does (the table is in docs/arrays.md). Part of _kernels.pyx."""


cpdef bint is_masked(object a):
    """Return whether an object is a masked array. numpy.ma is not imported: masked arrays exist only if it has been."""
    return isinstance(a, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


cdef int check_arithmetic(object a, str name) except -1:
    """Raise TypeError for an object whose class defines NumPy's operations, and which no other protocol describes. Its
    units, labels or lazy parts would be lost without a word, and its sums may be no sums of elements."""
    kind = type(a)
    ufunc = getattr(kind, "__array_ufunc__", None)  # also None if the class says that no operation applies
    if isinstance(a, np.ndarray):
        is_foreign = not (ufunc is None or ufunc is np.ndarray.__array_ufunc__ or is_masked(a))
    else:
        is_foreign = ufunc is not None or hasattr(kind, "__array_wrap__")
    if is_foreign:
        raise TypeError(
            f"{name} must be a plain array, got {kind.__name__}, which defines NumPy's operations itself (the result "
            f"would lose its labels, units or lazy parts): pass np.asarray({name})"
        )
    return 0


def zero_where_masked(a, name):
    """Return an array_like as a plain array, 0 where it is masked."""
    return a.filled(0) if is_masked(a) else as_array(a, name)


def check_unmasked(a, name, reason="its elements are summed"):
    """Raise TypeError for a masked array where its mask does not fit the result, for a reason."""
    if is_masked(a):
        raise TypeError(
            f"{name} must not be a masked array, because {reason}, got {type(a).__name__}: "
            f"pass {name}.filled(0), or another value"
        )


cdef inline bint is_exact(object a) noexcept:
    return a is None or cnp.PyArray_CheckExact(a)


@cython.final
cdef class Container:
    """The class and mask of a call's result. A call whose arguments are plain ndarrays has none."""

    cdef object out  # the call's argument, or None
    cdef object hidden  # union of the operands' masks, a bool array of the result's shape; None if they have none
    cdef object masked  # the result as a masked array
    cdef object wrap  # function from the result, a plain ndarray, to what is returned

    cdef object holding(self, cnp.ndarray result):
        """Return what the call returns: out, or the result in its class."""
        if self.out is None:
            return self.masked if self.masked is not None else result if self.wrap is None else self.wrap(result)
        if is_masked(self.out) and not (self.hidden is None and self.out.mask is np.ma.nomask):
            self.out.mask = False if self.hidden is None else self.hidden
        return self.out

    cdef object holding_drawn(self, cnp.ndarray result, Stream stream, uint64_t n_positions, uint64_t first):
        """Return what the call returns. If the class of a new result refuses it, move the stream back, unless something
        has been drawn since."""
        try:
            return self.holding(result)
        except Exception:
            if self.out is None:
                return_blocks(&stream.next_elem, n_positions, first)
            raise


cdef inline Container container_for(cnp.ndarray result, object out, object x, object residual, object bias):
    """Return the container of a call's result, None for plain ndarrays. residual, bias and out may be None.

    Called before positions are drawn, because it may allocate a mask."""
    if cnp.PyArray_CheckExact(x) and is_exact(residual) and is_exact(bias) and is_exact(out):
        return None
    return container_of(result, out, (x, residual, bias))


cdef Container container_of(cnp.ndarray result, object out, tuple operands):
    cdef Container container = Container.__new__(Container)
    container.out = out
    subclassed = [
        # A new array is no file: the result for a memory map is a plain ndarray.
        a for a in operands if isinstance(a, np.ndarray) and type(a) not in (np.ndarray, np.memmap)
    ]
    masked = [a for a in subclassed if is_masked(a)]
    for a in masked:
        if a.mask is np.ma.nomask:
            continue
        if container.hidden is None:
            container.hidden = np.zeros((<object>result).shape, np.bool_)
        container.hidden |= a.mask
    if out is None and subclassed:
        # Of several classes, NumPy takes the first one of the highest priority; a masked array keeps its mask first.
        source = max(masked or subclassed, key=lambda a: a.__array_priority__)
        container.wrap = source.__array_wrap__
        if masked:
            set_masked(container, result, source)
    return container


cdef int set_masked(Container container, cnp.ndarray result, object source) except -1:
    """Make the masked array on the result's memory, with the union of masks and the fill value of a masked array."""
    container.masked = masked = source.__array_wrap__(result)
    if container.hidden is not None:
        masked.mask = container.hidden
    if getattr(masked, "_fill_value", None) is not None:
        masked._fill_value = masked._fill_value.copy()  # NumPy lets both arrays share it
    return 0


cdef inline object in_container(cnp.ndarray result, Container container):
    """Return what a call returns, once its result is there."""
    return result if container is None else container.holding(result)


def handed_back(cnp.ndarray result not None, out, *operands):
    """Return what a function returns: out, or its new result in the class of the operands it was computed from."""
    return container_of(result, out, operands).holding(result)
