"""Masks: the class `Mask`, and how one is drawn."""

cdef class Mask(Drawn):
    """Mask(key, start, p, shape, shared_axes=(), strides=None)\n--\n
    The elements that one call of dropout drops: an immutable value that stores no bits.

    A mask holds a stream's key and position, p and a shape. Its bits are a function of these. They are generated again,
    in registers, each time the mask is applied: the forward and the backward pass, other threads, other processes and
    other machines get the same bits. `draw_mask` returns masks; two masks are equal if all their fields are.

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

        Parameters
        ----------
        a : array_like of float16, bfloat16, float32 or float64
            An array of the mask's shape, in any memory layout and byte order. Objects of other libraries are accepted
            as in `dropout`.
        out : ndarray, or an object that shares its memory, optional
            Array for the result, of a's shape and dtype: either a itself (in place) or memory apart from a.
        scale : float, optional
            Factor for kept elements; 1/(1-p) by default.
        shift : float, optional
            Number added to kept elements after scaling.
        fill : float, optional
            Value of dropped elements.

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
            For a dtype other than float16, bfloat16, float32 and float64.
        ValueError
            For another shape, an out that does not fit, or a scale, shift or fill that is not finite.

        Notes
        -----
        Errors are raised before anything is written, except for errors that a signal handler raises.

        """
        cdef held_arrays held
        begin_holding(&held, not (
            cnp.PyArray_CheckExact(a) and is_exact(out) and (scale is None or PyFloat_CheckExact(scale))
            and PyFloat_CheckExact(shift) and PyFloat_CheckExact(fill)
        ) or self.shared_axes)  # for shared axes strides are computed, and an allocation may run finalizers
        cdef cnp.ndarray x = checked_array(a, "a")
        hold(&held, x, "a")
        if not has_shape(x, self.shape):
            raise ValueError(f"a must have the mask's shape {self.shape}, got {(<object>x).shape}")
        cdef affine map
        map.scale = kept_scale(self.p) if scale is None else checked_finite(scale, "scale")
        map.shift = checked_finite(shift, "shift")
        map.fill = checked_finite(fill, "fill")
        cdef cnp.ndarray result = checked_out(out, x, "a")
        hold(&held, result, "out", True, True)
        cdef Container container = container_for(result, out, a, None, None)
        cdef tuple strides = self.all_strides() if self.shared_axes else self.part_strides
        cdef Scratch scratch = scratch_for(result, x, None, strides is not None, &held)
        check_held(&held)
        apply_mask(&self.key_words, self.first, self.p, &map, strides, result, x, scratch, &held)
        return in_container(result, container)

    # ---- a mask as an array -----------------------------------------------------------------------------------------

    def keep(self):
        """Return a new bool array of the mask's shape: True where an element is kept."""
        return self.filled(OPERATION_fill_keep, np.bool_, 1.0)

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
        scaled = self.filled(OPERATION_fill_scaled, numpy_dtype.newbyteorder("="), kept_scale(self.p))
        return scaled.astype(numpy_dtype, copy=False)

    cdef object filled(self, int operation, object dtype, double scale):
        """Return a new array of the mask's shape, filled by an operation that reads no array.

        scale is the value of kept elements, 1 for OPERATION_fill_keep.
        """
        cdef job_request request
        cdef mask_axes axes
        cdef cnp.ndarray drawn
        drawn_shape = tuple([1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape)])
        drawn = self.empty_array(drawn_shape, dtype)
        if is_zero(self.p) or self.p == 1.0:  # no random bits are needed
            drawn.fill(scale if is_zero(self.p) else 0)
        else:
            if may_use_threads(cnp.PyArray_SIZE(drawn)):
                prepare_threads()
            request = blank_request(operation, dtype_index(drawn))
            request.key = self.key_words
            request.first = self.first
            request.p = self.p
            request.scale = scale
            request.out = cnp.PyArray_BYTES(drawn)
            request.n_elems = cnp.PyArray_SIZE(drawn)
            if self.part_strides is not None:
                set_axes(&axes, drawn, self.part_strides)
                request.n_axes = axes.n
                request.lens = axes.lens
                request.strides = axes.strides
            run_request(&request, &nothing_held)
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
            low, high, step = part.indices(length)
            if step < 1:
                raise ValueError(f"a mask's slice must have a step of 1 or more, got {part!r}")
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
            raise TypeError(f"a mask's index must be a slice, or a slice for each axis, got {index!r}")
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
