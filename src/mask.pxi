"""Masks: the class `Mask`, and how one is drawn."""

cdef class Mask(Drawn):
    """Mask(key, start, p, shape, shared_axes=(), strides=None)\n--\n
    The elements that one call of dropout drops: an immutable value that stores no bits.

    A mask holds a stream's key and position, p and a shape. Its bits are a function of these. They are generated again,
    in registers, each time the mask is applied: the forward and the backward pass, other threads, other processes and
    other machines get the same bits. (With AVX2, where that takes more time than reading bits, the mask of a layer
    keeps them from the forward pass on, one bit for each element, for float32 and float64 arrays of 1024 to 2^20
    elements.) `draw_mask` returns masks; two masks are equal if all their fields are.

    Parameters
    ----------
    key : int
        The 128 bits of `Stream.key`.
    start : int
        The stream's position of the first element.
    p : float
        The probability of dropping an element, in [0, 1].
    shape : int or tuple of int
        The shape of the arrays that the mask applies to.
    shared_axes : int or tuple of int
        Axes along which all elements share one decision.
    strides : tuple of int, optional
        Distance in positions between neighbours along each axis, 0 along shared axes. By default, the elements take
        consecutive positions, in C order. Slicing sets other strides.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of its range.

    """

    PICKLE_VERSION = 2

    cdef readonly double p
    cdef readonly tuple shared_axes
    cdef tuple part_strides  # None if the mask takes one run of positions
    cdef bytes record  # of the decisions, by `record_and_apply`; or None
    cdef const kernel_table *recorded_by  # the only kernels that can read the record

    def __cinit__(self, key=NOT_GIVEN, start=NOT_GIVEN, p=NOT_GIVEN, shape=NOT_GIVEN, shared_axes=(), strides=None):
        self.shape = self.shared_axes = ()
        if key is NOT_GIVEN:
            return  # place_mask sets the fields
        if shape is NOT_GIVEN:
            raise TypeError("Mask needs key, start, p and shape")
        self.p = checked_p(p)
        self.shape = checked_shape(shape)
        self.shared_axes = checked_axes(shared_axes, len(self.shape))
        if strides is not None:
            self.part_strides = checked_strides(strides, self.shape, self.shared_axes)
        if self.part_strides is None:
            self.place(key, start, n_drawn(self.shape, self.shared_axes))
        else:
            reach = sum([(length - 1) * stride for length, stride in zip(self.shape, self.part_strides)])
            self.place(key, start, reach + 1)
        check_lengths(self.shape)

    def __init__(self, key, start, p, shape, shared_axes=(), strides=None):
        """__cinit__ or place_mask sets the fields; a mask never changes afterwards."""

    # ---- applying a mask --------------------------------------------------------------------------------------------

    def apply(self, a, out=None, *, scale=None, shift=0.0, fill=0.0):
        """Scale the kept elements of an array and replace the dropped ones.

        Bool and integer arrays are not scaled: for them this is `select`.

        Parameters
        ----------
        a : array_like of float16, bfloat16, float32, float64, bool or integers
            An array of the mask's shape, in any memory layout and byte order. Objects of other libraries are accepted
            as in `dropout`.
        out : ndarray, or an object that shares its memory, optional
            Array for the result, of a's shape and dtype: either a itself (in place) or memory apart from a.
        scale : float, optional
            Factor for kept elements; 1/(1-p) by default. Not for bool and integers.
        shift : float, optional
            Number added to kept elements after scaling. Not for bool and integers.
        fill : float, optional
            Value of dropped elements. For bool and integers, values of their dtype as in `select`.

        Returns
        -------
        ndarray
            out, or a new array of a's shape and dtype. A dropped element is `fill`, +0.0 by default, whatever its value
            was, NaN and infinity included. A kept element is a * scale, rounded once; if shift or fill is not 0, shift
            is added and the sum is rounded again. For the 16-bit types the scale is
            first rounded to 13 bits (float16) or 16 bits (bfloat16), so that the product is exact before its one
            rounding. At p = 0 with scale 1 and no shift the result is a copy, bit for bit.

        Raises
        ------
        TypeError
            For a dtype other than those above, or a scale or shift for bool or integers.
        ValueError
            For another shape, an out that does not fit, or a scale, shift or fill that is not finite.

        Notes
        -----
        Errors are raised before anything is written, except for errors that a signal handler raises.

        Bool and integer arrays have no gradient, so there is no backward pass for them.

        """
        if cnp.PyArray_CheckExact(a) and width_of(a) >= 0:
            return self.select_unscaled(a, a, out, scale, shift, fill)
        return self.applied(a, "a", True, out, scale, shift, fill)

    cdef object applied(self, object a, str name, bint takes_integers, object out, object scale, object shift,
                        object fill):
        """Return `apply` for an array that errors call `name`. takes_integers: whether bool and integers are copied."""
        cdef held_arrays held
        begin_holding(&held, not (
            cnp.PyArray_CheckExact(a) and is_exact(out) and (scale is None or PyFloat_CheckExact(scale))
            and PyFloat_CheckExact(shift) and PyFloat_CheckExact(fill)
        ) or self.shared_axes)  # for shared axes strides are computed, and an allocation may run finalizers
        cdef cnp.ndarray x = checked_selectable(a, name) if takes_integers else checked_array(a, name)
        if takes_integers and width_of(x) >= 0:
            return self.select_unscaled(a, x, out, scale, shift, fill)
        hold(&held, x, name)
        if not has_shape(x, self.shape):
            raise ValueError(f"{name} must have the mask's shape {self.shape}, got {(<object>x).shape}")
        cdef affine map
        map.scale = kept_scale(self.p) if scale is None else checked_finite(scale, "scale")
        map.shift = checked_finite(shift, "shift")
        map.fill = checked_finite(fill, "fill")
        cdef cnp.ndarray result = checked_out(out, x, name)
        hold(&held, result, "out", True, True)
        cdef Container container = container_for(result, out, a, None, None)
        cdef tuple strides = self.all_strides() if self.shared_axes else self.part_strides
        cdef Scratch scratch = scratch_for(result, x, None, strides is not None, &held)
        check_held(&held)
        if self.record is None or scratch is not NO_SCRATCH or not self.apply_record(&map, result, x, &held):
            apply_mask(&self.key_words, self.first, self.p, &map, strides, result, x, scratch, &held)
        return in_container(result, container)

    cdef int record_and_apply(self, const affine *map, cnp.ndarray out, cnp.ndarray x, held_arrays *held) except -1:
        """out = x, masked and mapped, for plain arrays and a mask of one run of positions, after check_held. Records
        the decisions for later calls of `apply_record`, where that saves time."""
        cdef bytes record = None
        cdef job_request request
        request = mask_request(&self.key_words, self.first, self.p, map, x)
        set_arrays(&request, out, x, None)
        cdef size_t n_words = job_record_words(&request)
        if n_words > 0:
            try:
                record = PyBytes_FromStringAndSize(NULL, n_words * sizeof(uint64_t))
                request.record = <uint64_t *>PyBytes_AS_STRING(record)
            except MemoryError:
                pass  # the decisions will be made again
        run_request(&request, held)
        self.record, self.recorded_by = record, kernels
        return 0

    cdef int apply_record(self, const affine *map, cnp.ndarray out, cnp.ndarray x, held_arrays *held) except -1:
        """out = x, masked and mapped, for plain arrays, after check_held, by the record. Return 0, and write nothing,
        if the record does not serve this call."""
        cdef job_request request
        request = mask_request(&self.key_words, self.first, self.p, map, x)
        set_arrays(&request, out, x, None)
        if kernels != self.recorded_by or job_record_words(&request) * sizeof(uint64_t) != <size_t>len(self.record):
            return 0
        request.record = <uint64_t *>PyBytes_AS_STRING(self.record)
        request.has_record = True
        run_request(&request, held)
        return 1

    def select(self, a, fill=0, out=None):
        """Copy the kept elements of an array and replace the dropped ones, without arithmetic.

        Parameters
        ----------
        a : array_like of bool, integers, float16, bfloat16, float32 or float64
            An array of the mask's shape, in any memory layout and byte order. Objects of other libraries are accepted
            as in `dropout`.
        fill : scalar or array_like, optional
            Value of dropped elements: a value of a's dtype, or an array of them that broadcasts to a's shape, such as
            one for each channel. Numbers of another type are accepted if the dtype has their value; for floats they are
            rounded to the dtype.
        out : ndarray, or an object that shares its memory, optional
            Array for the result, of a's shape and dtype: either a itself (in place) or memory apart from a.

        Returns
        -------
        ndarray
            out, or a new array of a's shape and dtype. Kept elements have the bits of a.

        Raises
        ------
        TypeError
            For another dtype, or a fill that is not of numbers or a masked array.
        ValueError
            For another shape, an out that does not fit, a fill that a's dtype does not have, or one that does not
            broadcast.

        Notes
        -----
        Errors are raised before anything is written, except for errors that a signal handler raises. The time is that
        of copying a, plus the mask's bits (docs/performance.md). There is no backward pass: kept elements are copied,
        and bool and integer arrays have no gradient.

        """
        return self.selected(a, "a", checked_selectable(a, "a"), out, fill, NOT_GIVEN)

    cdef object select_unscaled(self, object a, cnp.ndarray x, object out, object scale, object shift, object fill):
        """Return `select` for the arguments of `apply`, which must leave out those of its arithmetic."""
        if scale is not None or checked_real(shift, "shift") != 0.0:
            name, got = ("scale", scale) if scale is not None else ("shift", shift)
            raise TypeError(f"{name} must be left out for an array of {x.dtype}, which is not scaled, got {shown(got)}")
        return self.selected(a, "a", x, out, fill, NOT_GIVEN)

    cdef object selected(self, object a, str name, cnp.ndarray x, object out, object fill, object rng):
        """Return `select` for a checked array x, the memory of a, which errors call `name`. If rng is given, the mask
        is new, with p, shape and shared axes: it takes the stream's next positions after all checks."""
        cdef job_request request
        cdef mask_axes axes
        cdef held_arrays held
        begin_holding(&held, True)  # conversions of fill may run code
        hold(&held, x, name)
        if not has_shape(x, self.shape):
            raise ValueError(f"{name} must have the mask's shape {self.shape}, got {(<object>x).shape}")
        cdef cnp.ndarray fills = checked_fill(fill, x, name)
        cdef cnp.ndarray result = checked_out(out, x, name)
        hold(&held, result, "out", True, True)
        cdef Container container = container_for(result, out, a, None, None)
        cdef tuple strides = None if self.is_run_of_elems() else self.all_strides()
        cdef Scratch scratch = scratch_for(result, x, None, strides is not None, &held)
        cdef Stream stream = None
        cdef uint64_t n_positions = 0
        if rng is not NOT_GIVEN:
            n_positions = checked_n_drawn(self.shape, self.shared_axes)
            stream = stream_of_rng(rng)
        check_held(&held)
        if stream is not None:
            self.first = stream.take(n_positions, &self.key_words)
        request = blank_request(OPERATION_select, width_of_bytes(cnp.PyArray_ITEMSIZE(x)))
        request.key = self.key_words
        request.first = self.first
        request.p = self.p
        request.bias = cnp.PyArray_BYTES(fills)
        request.n_bias = cnp.PyArray_SIZE(fills)
        if strides is not None:
            set_axes(&axes, x, strides)
            request.n_axes = axes.n
            request.lens = axes.lens
            request.strides = axes.strides
        run_on_arrays(&request, result, x, None, scratch, &held)
        if container is None or stream is None:
            return in_container(result, container)
        return container.holding_drawn(result, stream, n_positions, self.first)

    cdef bint is_run_of_elems(self) noexcept:
        """Whether the elements take one run of positions, one each."""
        return self.part_strides is None and len(self.shared_axes) == 0

    # ---- a mask as an array -----------------------------------------------------------------------------------------

    def keep(self, out=None, dtype=None):
        """Return an array of the mask's shape that tells which elements are kept.

        Parameters
        ----------
        out : ndarray, or an object that shares its memory, optional
            Array for the result, of the mask's shape.
        dtype : bool, integer or float dtype, optional
            The dtype of the result, with its byte order: that of out, or bool without one.

        Returns
        -------
        ndarray
            out, or a new array: True or 1 where an element is kept, False or 0 where it is dropped.

        Raises
        ------
        TypeError
            For another dtype.
        ValueError
            For an out that does not fit.

        """
        return self.decisions(out, dtype, False)

    def dropped(self, out=None, dtype=None):
        """Return the opposite of `keep`, with its arguments: True or 1 where an element is dropped."""
        return self.decisions(out, dtype, True)

    def packed(self):
        """Return `numpy.packbits(mask.keep())` without making that array: one bit for each element, 1 where it is kept.

        Returns
        -------
        ndarray of uint8
            The elements in C order, eight to a byte, the first one in its highest bit. Unused bits of the last byte are
            0.

        """
        cdef keep_bits bits
        words = self.empty_array(((math.prod(self.shape) + 63) // 64,), np.uint64)
        set_bits(&bits, words, None)
        bits.is_packed = True
        self.make_bits(&bits)
        n_bytes = (math.prod(self.shape) + 7) // 8
        return words.astype("<u8", copy=False).view(np.uint8)[:n_bytes]

    def count(self):
        """Return the number of kept elements, an int, without making an array of elements."""
        cdef keep_bits bits
        cdef size_t i, n_kept = 0
        n_elems = math.prod(self.shape)
        if is_zero(self.p) or self.p == 1.0:
            return n_elems if is_zero(self.p) else 0
        counts = self.empty_array((n_elems // ELEMS_PER_COUNT + 1,), np.uintp)
        counts.fill(0)  # a job that only counts does not set all
        set_bits(&bits, None, counts)
        self.make_bits(&bits)
        for i in range(<size_t>counts.size):  # NumPy's sum raises SystemError where memory runs out
            n_kept += bits.counts[i]
        return n_kept

    def indices(self):
        """Return the indices of the kept elements in C order, an int64 array: `numpy.flatnonzero(mask.keep())`."""
        return self.listed(False)

    cdef cnp.ndarray listed(self, bint of_dropped):
        """Return the indices of kept elements, or those of dropped ones."""
        cdef keep_bits bits
        cdef job j
        cdef held_arrays held
        cdef size_t i, n_here, n_elems, n_counts, n_listed = 0
        n = math.prod(self.shape)
        words = self.empty_array(((n + 63) // 64,), np.uint64)
        n_elems = n
        n_counts = (n_elems + ELEMS_PER_COUNT - 1) // ELEMS_PER_COUNT
        counts = np.empty(n_counts, np.uintp)
        set_bits(&bits, words, counts)
        bits.of_dropped = of_dropped
        self.make_bits(&bits)
        for i in range(n_counts):
            n_here = bits.counts[i]
            bits.counts[i] = n_listed
            n_listed += n_here
        indices = np.empty(n_listed, np.int64)
        bits.indices = <int64_t *>cnp.PyArray_DATA(indices)
        if may_use_threads(LISTED_ELEM_COST * n_elems):
            prepare_threads()
        job_plan_list(&j, &bits, n_elems)
        begin_holding(&held, False)
        run_job(&j, &held)
        return indices

    cdef int make_bits(self, const keep_bits *bits) except -1:
        """Write the mask's decisions as bits, or count them."""
        cdef job_request request
        cdef mask_axes axes
        cdef job j
        cdef held_arrays held
        cdef tuple strides = None if self.is_run_of_elems() else self.all_strides()
        request = blank_request(OPERATION_fill_keep, 0)
        request.key = self.key_words
        request.first = self.first
        request.p = self.p
        request.n_elems = math.prod(self.shape)
        if strides is not None:
            set_shape(&axes, self.shape, strides)
            request.n_axes = axes.n
            request.lens = axes.lens
            request.strides = axes.strides
        if may_use_threads(request.n_elems):
            prepare_threads()
        if job_plan_bits(&j, &request, bits) != 0:
            raise SystemError("a mask must be one that can be planned: please report this")
        begin_holding(&held, False)
        return run_job(&j, &held)

    cdef object decisions(self, object out, object dtype, bint is_dropped):
        """Return `keep` or `dropped`."""
        cdef held_arrays held
        cdef cnp.ndarray array, made
        if out is None:
            value_dtype = checked_value_dtype(np.bool_ if dtype is None else dtype)
            native = value_dtype.newbyteorder("=")
            return self.filled(OPERATION_fill_values, native, 1.0, is_dropped).astype(value_dtype, copy=False)
        begin_holding(&held, True)
        array = checked_decisions_out(out, self.shape, dtype)
        hold(&held, array, "out", False, True)
        native = array.dtype.newbyteorder("=")
        made = array if is_plain(array) and not self.shared_axes else None
        if made is None:
            made = self.filled(OPERATION_fill_values, native, 1.0, is_dropped)
            copy_elems(array, made, &held)
        else:
            self.fill(made, OPERATION_fill_values, 1.0, is_dropped, &held)
        return handed_back(array, out)

    def scaled(self, dtype=np.float32):
        """Return a new array of 0 where an element is dropped and 1/(1-p) where it is kept.

        Other libraries call this array the mask.

        Parameters
        ----------
        dtype : float16, bfloat16, float32 or float64
            The dtype of the result; TypeError for another.

        Notes
        -----
        For float32 and float64, the kept elements of `x * mask.scaled(x.dtype)` equal those of `mask.apply(x)`. For the
        16-bit types they can differ by one unit in the last place: this array holds 1/(1-p) rounded to the dtype, and
        `apply` computes with more of its bits.

        """
        numpy_dtype = check_dtype(dtype)
        scaled = self.filled(OPERATION_fill_scaled, numpy_dtype.newbyteorder("="), kept_scale(self.p), False)
        return scaled.astype(numpy_dtype, copy=False)

    cdef int fill(self, cnp.ndarray drawn, int operation, double scale, bint is_dropped, held_arrays *held) except -1:
        """Fill a plain array of the mask's decisions, without copies along shared axes, by an operation that reads no
        array. scale is the value of kept elements; if is_dropped, that of dropped ones."""
        cdef job_request request
        cdef mask_axes axes
        cdef cnp.ndarray values
        if is_zero(self.p) or self.p == 1.0:  # no random bits are needed
            drawn.fill(scale if is_zero(self.p) != is_dropped else 0)
            return 0
        values = np.array([1, 0] if is_dropped else [0, 1]).astype(drawn.dtype)
        if may_use_threads(cnp.PyArray_SIZE(drawn)):
            prepare_threads()
        if operation == OPERATION_fill_values:
            request = blank_request(operation, width_of_bytes(cnp.PyArray_ITEMSIZE(drawn)))
            request.bias = cnp.PyArray_BYTES(values)
            request.n_bias = 2
        else:
            request = blank_request(operation, dtype_index(drawn))
            request.scale = scale
        request.key = self.key_words
        request.first = self.first
        request.p = self.p
        request.out = cnp.PyArray_BYTES(drawn)
        request.n_elems = cnp.PyArray_SIZE(drawn)
        if self.part_strides is not None:
            set_axes(&axes, drawn, self.part_strides)
            request.n_axes = axes.n
            request.lens = axes.lens
            request.strides = axes.strides
        check_held(held)
        return run_request(&request, held)

    cdef object filled(self, int operation, object dtype, double scale, bint is_dropped):
        """Return a new array of the mask's shape, filled by an operation that reads no array; see `fill`."""
        cdef cnp.ndarray drawn
        drawn_shape = tuple([1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape)])
        drawn = self.empty_array(drawn_shape, dtype)
        self.fill(drawn, operation, scale, is_dropped, &nothing_held)
        if not self.shared_axes:
            return drawn
        whole = self.empty_array(self.shape, dtype)
        copy_elems(whole, np.broadcast_to(drawn, self.shape), &nothing_held)
        return whole

    cdef object empty_array(self, tuple shape, object dtype):
        try:
            return np.empty(shape, dtype)
        except ValueError:  # from NumPy, for more bytes than addresses; it gives no shape
            raise ValueError(f"shape must be one that an array can have, got {self.shape}") from None

    # ---- parts of a mask --------------------------------------------------------------------------------------------

    @property
    def strides(self):
        """Distance in positions between neighbours along each axis, a tuple of int; 0 along shared axes."""
        return self.all_strides()

    cdef tuple all_strides(self):
        """Return `strides`, which a subclass may define in another way."""
        return strides_of_run(self.shape, self.shared_axes) if self.part_strides is None else self.part_strides

    @property
    def is_run(self):
        """Whether the elements take one run of positions, in C order: False for a part with gaps."""
        return self.part_strides is None

    def __getitem__(self, index):
        """Return the mask of a part of the array: `mask[index].apply(a[index])` is `mask.apply(a)[index]`, bit for bit.

        Parameters
        ----------
        index : slice, or tuple of slices
            One slice for each axis, from the first one on; `...` stands for the axes that are not named. Steps are
            positive: `mask[rank::n_ranks]` is the mask of rows dealt out in turn.

        Returns
        -------
        Mask
            A mask of the part's shape, with as many dimensions as this one.

        Raises
        ------
        TypeError, IndexError, ValueError
            For an index of another kind, for too many slices, and for a step below 1.

        """
        start, lengths, strides = <object>self.first, [], []
        for length, stride, part in zip(self.shape, self.all_strides(), slices_of(index, self.shape)):
            if part.step is not None and part.step < 1:
                raise ValueError(f"a mask's slice must have a step of 1 or more, got {part!r}")
            low, high, step = part.indices(length)
            start += low * stride
            lengths.append(len(range(low, high, step)))
            strides.append(step * stride)
        if 0 in lengths and start >= LIMIT:
            start = <object>self.first  # the end of the stream is no position
        return Mask(key_number(&self.key_words), start, self.p, tuple(lengths), self.shared_axes, tuple(strides))

    def __len__(self):
        if not self.shape:
            raise TypeError("a mask of shape () has no length")
        return self.shape[0]

    # ---- a mask is no array: without these, NumPy would take it for a sequence --------------------------------------

    __array_ufunc__ = None

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a mask is no array: mask.apply(x) applies it, mask.keep() and mask.scaled() make one")

    def __mul__(self, other):
        raise TypeError("a mask is applied by mask.apply(x), not by *; mask.keep() and mask.scaled() make an array")

    def __rmul__(self, other):
        return self * other

    # ---- a mask as text, HTML and a picture -------------------------------------------------------------------------

    def _fields(self):
        strides = None if self.part_strides is None else self.strides
        return self.key, self.start, self.p, self.shape, self.shared_axes, strides

    def __repr__(self):
        shared = f", shared_axes={self.shared_axes}" if self.shared_axes else ""
        strides = "" if self.part_strides is None else f", strides={self.strides}"
        return f"Mask(key={self.key:#034x}, start={self.start}, p={self.p}, shape={self.shape}{shared}{strides})"

    def _repr_html_(self):
        from cdropout.display import mask_html

        return mask_html(self)

    def plot(self, ax=None, *, limit=256):
        """Plot kept and dropped elements with matplotlib.

        A mask of one dimension is drawn as a row. Of a mask with more than two dimensions, up to 16 two-dimensional
        slices, each over the last two axes, are drawn side by side.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; those of a new figure by default.
        limit : int
            The most elements drawn along each side of the picture, counted from the first. The title says how many are
            drawn. Only these are generated, whatever the mask's size.

        Returns
        -------
        matplotlib.axes.Axes
            ax, or the new one.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra "plot" installs.
        TypeError, ValueError
            For a limit that is not an integer of at least 1.

        """
        from cdropout.display import plot_mask

        return plot_mask(self, ax, limit)


cdef list slices_of(object index, tuple shape):
    """Return an index of a mask as one slice for each axis of its shape."""
    parts = list(index) if isinstance(index, tuple) else [index]
    slices = []
    for part in parts:
        if isinstance(part, slice):
            slices.append(slice(slice_int(part.start), slice_int(part.stop), slice_int(part.step)))
        elif part is not ...:
            raise TypeError(f"a mask's index must be a slice, or a slice for each axis, got {shown(index)}")
    n_whole = len(shape) - len(slices)
    if n_whole < 0:
        raise IndexError(f"a mask of shape {shape} has {len(shape)} axes to slice, got {index!r}")
    if len(parts) > len(slices) + 1:
        raise IndexError(f"a mask's index must have at most one ..., got {index!r}")
    at = parts.index(...) if ... in parts else len(parts)
    return [*slices[:at], *[slice(None)] * n_whole, *slices[at:]]


cdef object slice_int(object number):
    try:
        return None if number is None else exact_int(number)
    except TypeError:
        raise TypeError(f"a mask's slice must have integers or None, got {shown(number)}") from None


# ---- decisions as arrays --------------------------------------------------------------------------------------------

cdef int set_bits(keep_bits *bits, cnp.ndarray words, cnp.ndarray counts) except -1:
    """Set the arrays of a job on bits, each of which may be None; all else is 0."""
    memset(bits, 0, sizeof(keep_bits))
    if words is not None:
        bits.words = <uint64_t *>cnp.PyArray_DATA(words)
    if counts is not None:
        bits.counts = <size_t *>cnp.PyArray_DATA(counts)
    return 0


cdef object checked_value_dtype(object dtype):
    """Return a dtype of decisions. TypeError unless it is bool, an integer or a float."""
    try:
        numpy_dtype = np.dtype(dtype)
    except (SyntaxError, TypeError, ValueError):
        numpy_dtype = None
    if numpy_dtype is not None and numpy_dtype.subdtype is None:
        example = np.empty(0, numpy_dtype)
        if width_of(example) >= 0 or dtype_index(example) >= 0:
            return numpy_dtype
    got = shown(dtype) if numpy_dtype is None else numpy_dtype
    raise TypeError(f"dtype must be {', '.join(FLOATS)}, bool or an integer, got {got}")


cdef cnp.ndarray checked_decisions_out(object out, tuple shape, object dtype):
    """Return an output for decisions of a shape as an array. dtype, unless it is None, must be that of out."""
    cdef cnp.ndarray array = out if cnp.PyArray_CheckExact(out) else writable_array(out)
    if not has_shape(array, shape):
        raise ValueError(f"out must have the shape {shape}, got {(<object>array).shape}")
    if width_of(array) < 0 and dtype_index(array) < 0:
        raise TypeError(f"out must be an array of {', '.join(FLOATS)}, bool or integers, got dtype {array.dtype}")
    if dtype is not None and checked_value_dtype(dtype).newbyteorder("=") != array.dtype.newbyteorder("="):
        raise ValueError(f"out must have the dtype {np.dtype(dtype)}, got {array.dtype}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"out must be writable, got a read-only {type(out).__name__} of shape {shape}")
    is_contiguous = cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)
    if not is_contiguous and overlaps_itself(array):
        raise ValueError(f"out must not overlap itself, got strides {(<object>array).strides} for shape {shape}")
    return array


# ---- drawing --------------------------------------------------------------------------------------------------------

cdef int place_mask(Mask mask, double p, tuple shape, tuple shared_axes, Stream stream, uint64_t n_positions,
                    const held_arrays *held) except -1:
    """Make a new mask that of the stream's next positions; the arguments have been checked."""
    mask.p = p
    mask.shape = shape
    mask.shared_axes = shared_axes
    check_held(held)
    mask.first = stream.take(n_positions, &mask.key_words)
    return 0


def draw_mask(shape, p, rng, shared_axes):
    """Draw a mask, for cdropout.draw_mask."""
    cdef double p_checked = checked_p(p)
    cdef tuple lengths = checked_shape(shape)
    cdef tuple axes = checked_axes(shared_axes, len(lengths))
    cdef uint64_t n_positions = checked_n_drawn(lengths, axes)
    cdef Mask mask = Mask.__new__(Mask)
    place_mask(mask, p_checked, lengths, axes, stream_of_rng(rng), n_positions, &nothing_held)
    return mask


def record_bytes(Mask mask not None):
    """Return the size in bytes of a mask's record of its decisions, for tests; 0 if it has none."""
    return 0 if mask.record is None else len(mask.record)


def dropped_indices(Mask mask not None):
    """Return the indices of a mask's dropped elements in C order, an int64 array."""
    return mask.listed(True)


def check_selection(a, str name, fill, out):
    """Check the arguments of a selection without writing; return the array and its output, a new one if out is None."""
    cdef cnp.ndarray x = checked_selectable(a, name)
    checked_fill(fill, x, name)
    return x, checked_out(out, x, name)


def draw_selection(a, str name, p, fill, rng, out, shared_axes):
    """Draw a mask for a and return (result, mask), with the result of `Mask.select`; errors call the array `name`."""
    cdef cnp.ndarray x = checked_selectable(a, name)
    cdef Mask mask = Mask.__new__(Mask)
    mask.p = checked_p(p)
    mask.shape = (<object>x).shape
    mask.shared_axes = checked_axes(shared_axes, cnp.PyArray_NDIM(x))
    return mask.selected(a, name, x, out, fill, rng), mask


def apply_to_floats(Mask mask not None, a, str name, out=None, scale=None, shift=0.0, fill=0.0):
    """Return `mask.apply`, but refuse bool and integers with an error that calls the array `name`: they have no
    gradient, and a layer scales."""
    return mask.applied(a, name, False, out, scale, shift, fill)


cpdef double kept_scale(double p) noexcept:
    """Return 1/(1-p); 1 at p = 1, where no element is kept."""
    return kept_scale_of(p)


def check_finite(number, name):
    """Return a factor or value as a float. Raise TypeError if it is not a real number, ValueError if not finite."""
    return checked_finite(number, name)


def alpha_map(double p):
    """Return (scale, shift, fill) of alpha dropout: kept elements become scale * x + shift, dropped ones fill."""
    cdef double scale, shift, fill
    alpha_dropout_map(p, &scale, &shift, &fill)
    return scale, shift, fill


# ---- Bernoulli trials -----------------------------------------------------------------------------------------------

def bernoulli(shape, p, rng, out):
    """Draw bools, for cdropout.bernoulli."""
    cdef held_arrays held
    cdef job j
    cdef Mask mask
    cdef tuple lengths = checked_shape(shape)
    cdef uint64_t n_positions = checked_n_drawn(lengths, ())
    cdef cnp.ndarray chances = None
    cdef double p_checked = 0.0
    begin_holding(&held, True)
    if isinstance(p, (list, tuple)) or (not isinstance(p, np.generic) and getattr(p, "ndim", 0)):
        chances = checked_chances(p, lengths)
        hold(&held, chances, "p")
    else:
        p_checked = checked_p(p)
    cdef cnp.ndarray array = None
    if out is not None:
        array = checked_decisions_out(out, lengths, None)
        if cnp.PyArray_TYPE(array) != cnp.NPY_BOOL:
            raise TypeError(f"out must be an array of bool, got dtype {array.dtype}")
        hold(&held, array, "out", False, True)
    mask = Mask.__new__(Mask)
    mask.shape = lengths  # for the error of empty_array
    cdef cnp.ndarray drawn = array if array is not None and is_plain(array) else mask.empty_array(lengths, np.bool_)
    if may_use_threads(cnp.PyArray_SIZE(drawn)):
        prepare_threads()
    place_mask(mask, p_checked, lengths, (), stream_of_rng(rng), n_positions, &held)
    if chances is None:
        mask.fill(drawn, OPERATION_fill_values, 1.0, True, &held)
    else:
        job_plan_draws(
            &j, <uint8_t *>cnp.PyArray_DATA(drawn), <const double *>cnp.PyArray_DATA(chances), &mask.key_words,
            mask.first, cnp.PyArray_SIZE(drawn)
        )
        run_job(&j, &held)
    if array is not None and drawn is not array:
        copy_elems(array, drawn, &held)
    return drawn if out is None else handed_back(array, out)


cdef cnp.ndarray checked_chances(object p, tuple shape):
    """Return an array of probabilities as a plain float64 array of a shape, to which it broadcasts."""
    check_unmasked(p, "p", "masked values would be used")
    cdef cnp.ndarray given = as_array(p, "p")
    if not (cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(given)) or dtype_index(given) >= 0):
        raise TypeError(f"p must be a real number or an array of them, got dtype {given.dtype}")
    # A copy, so that the probabilities are those that were checked, also if out shares memory with p.
    cdef cnp.ndarray chances = np.array(given, np.float64, order="C", ndmin=1)
    if cnp.PyArray_SIZE(chances) and not (chances.min() >= 0.0 and chances.max() <= 1.0):  # false for NaN
        raise ValueError(f"p must be in [0, 1], got {chances[~((chances >= 0.0) & (chances <= 1.0))].flat[0]}")
    lengths = (<object>chances).shape
    skip = len(shape) - len(lengths)
    if skip < 0 or any(n != 1 and n != length for n, length in zip(lengths, shape[max(skip, 0):])):
        raise ValueError(f"p must broadcast to the shape {shape}, got {lengths}")
    try:
        return np.ascontiguousarray(np.broadcast_to(chances, shape))
    except ValueError:  # from NumPy, for more bytes than addresses
        raise ValueError(f"shape must be one that an array can have, got {shape}") from None
