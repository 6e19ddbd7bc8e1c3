"""Masks and noise: values without a buffer, and what they do to arrays."""

cdef object NOT_GIVEN = object()


cdef class DrawnCore:
    """What everything drawn from a stream has: where it was drawn, and its shape."""

    cdef stream_key words
    cdef uint64_t first
    cdef readonly tuple shape

    @property
    def key(self):
        """The 128 bits that name the stream it was drawn from, an int."""
        return key_number(&self.words)

    @property
    def start(self):
        """The stream's position of its first element, an int."""
        return self.first


cdef int place(DrawnCore drawn, object key, object start, object n_positions) except -1:
    """Sets where something was drawn, from a caller's arguments; its last position is start + n_positions - 1."""
    for name, value, limit in (("key", key, 1 << 128), ("start", start, LIMIT)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be in [0, {limit}), got {shown(int(value))}")
    key, start = int(key), int(start)
    if start + n_positions > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got shape {shown(drawn.shape)} at start {start}")
    set_key(&drawn.words, key)
    drawn.first = start
    return 0


cdef class MaskCore(DrawnCore):
    """A mask's fields, fixed on creation, and what it does to arrays; cdropout.Mask adds what a value needs."""

    cdef readonly double p
    cdef readonly tuple shared_axes
    cdef tuple part_strides  # None where the mask takes one run of positions

    def __cinit__(self, key=NOT_GIVEN, start=NOT_GIVEN, p=NOT_GIVEN, shape=NOT_GIVEN, shared_axes=(), strides=None):
        self.shape = self.shared_axes = ()
        if key is not NOT_GIVEN:
            if shape is NOT_GIVEN:
                raise TypeError("Mask needs key, start, p and shape")
            define_mask(self, key, start, p, shape, shared_axes, strides)

    def __init__(self, key, start, p, shape, shared_axes=(), strides=None):
        """The fields are set in __cinit__, which draw_mask passes nothing: a mask that exists never changes."""

    @property
    def strides(self):
        """How many positions neighbours along each axis are apart, a tuple of int; 0 along shared axes."""
        return run_strides(self.shape, self.shared_axes) if self.part_strides is None else self.part_strides

    @property
    def is_run(self):
        """Whether the mask takes one run of positions, as `draw_mask` draws it: not so where a part has gaps."""
        return self.part_strides is None

    def apply(self, a, out=None, *, scale=None, shift=0.0, fill=0.0):
        """Scale what is kept and zero what is dropped.

        Parameters
        ----------
        a : array_like of float16, bfloat16, float32 or float64
            Of the mask's shape, in any memory layout and byte order; from elsewhere as in `dropout`.
        out : ndarray, or an object that shares its memory, optional
            Where the result goes: of a's shape and dtype, either a itself (in place) or apart from it in memory.
        scale : float, optional
            What kept elements are multiplied by; 1/(1-p) unless given.
        shift : float, optional
            What is then added to them.
        fill : float, optional
            What dropped elements become.

        Returns
        -------
        ndarray
            out, or a new array of a's shape and dtype. A dropped element is `fill` (+0.0) whatever it was, NaN and
            infinity included; a kept one is a * scale, rounded once (for the 16-bit types the scale is first rounded to
            13 or 16 bits, so that this can hold), and plus shift, rounded again, where there is a shift or a fill. At
            p = 0 with scale 1 and no shift the result is a copy, bit for bit.

        Raises
        ------
        TypeError
            For a dtype other than float16, bfloat16, float32 and float64, before anything is written.
        ValueError
            For another shape, an out that does not fit, or a scale, shift or fill that is not finite, before anything
            is written.

        """
        cdef cnp.ndarray x = checked_array(a, "a")
        if not has_shape(x, self.shape):
            raise ValueError(f"a must have the mask's shape {self.shape}, got {(<object>x).shape}")
        cdef affine map
        map.scale = kept_scale(self.p) if scale is None else checked_finite(scale, "scale")
        map.shift = checked_finite(shift, "shift")
        map.fill = checked_finite(fill, "fill")
        cdef cnp.ndarray result = checked_out(out, x, "a")
        strides = self.strides if self.shared_axes else self.part_strides
        cdef Scratch scratch = scratch_for(result, x, None, strides is not None)
        apply_mask(&self.words, self.first, self.p, &map, strides, result, x, scratch)
        return result if out is None else out

    cdef object fill(self, int kernel, object dtype, double scale):
        """A new array of the mask's shape, filled by a kernel that reads no input; scale is that of fill_scaled."""
        cdef job_request request
        cdef mask_axes axes
        cdef cnp.ndarray drawn
        drawn_shape = tuple([1 if axis in self.shared_axes else n for axis, n in enumerate(self.shape)])
        if is_zero(self.p) or self.p == 1.0:
            drawn = np.full(drawn_shape, scale if is_zero(self.p) else 0, dtype)
        else:
            drawn = np.empty(drawn_shape, dtype)
            request = blank_request(kernel, dtype_index(drawn))
            request.key = self.words
            request.first = self.first
            request.p = self.p
            request.scale = scale
            request.out = cnp.PyArray_BYTES(drawn)
            request.n_elems = cnp.PyArray_SIZE(drawn)
            if self.part_strides is not None:
                set_axes(&axes, drawn_shape, self.part_strides)
                request.n_axes = axes.n
                request.lens = axes.lens
                request.strides = axes.strides
            run_request(&request)
        if not self.shared_axes:
            return drawn
        filled = np.empty(self.shape, dtype)
        copy_elems(filled, np.broadcast_to(drawn, self.shape))
        return filled

    def keep(self):
        """Return a new bool array of the mask's shape: True where an element is kept."""
        return self.fill(OPERATION_fill_keep, np.bool_, 1.0)

    def scaled(self, dtype=np.float32):
        """Return what other libraries call the mask: a new array of 0 where dropped and 1/(1-p) where kept.

        Parameters
        ----------
        dtype : float16, bfloat16, float32 or float64
            The dtype of the result; TypeError for another.

        """
        numpy_dtype = check_dtype(dtype)
        scaled = self.fill(OPERATION_fill_scaled, numpy_dtype.newbyteorder("="), kept_scale(self.p))
        return scaled.astype(numpy_dtype, copy=False)


# ---- noise ----------------------------------------------------------------------------------------------------------

cdef class NoiseCore(DrawnCore):
    """The fields of a row of normal numbers, fixed on creation, and what it does to arrays; cdropout.Noise adds what a
    value needs."""

    cdef readonly double std

    def __cinit__(self, key, start, std, shape):
        self.std = checked_std(std)
        self.shape = checked_shape(shape)
        place(self, key, start, n_drawn(self.shape, ()))

    def __init__(self, key, start, std, shape):
        """The fields are set in __cinit__: noise that exists never changes."""

    cdef object run(self, bint is_factor, object a, object out):
        cdef cnp.ndarray x = checked_array(a, "a")
        if not has_shape(x, self.shape):
            raise ValueError(f"a must have the noise's shape {self.shape}, got {(<object>x).shape}")
        cdef cnp.ndarray result = checked_out(out, x, "a")
        apply_noise(self, is_factor, result, x, scratch_for(result, x, None, False))
        return result if out is None else out

    def multiply(self, a, out=None):
        """Return a * (1 + std n), with n the noise's normal numbers.

        Parameters
        ----------
        a : array_like of float16, bfloat16, float32 or float64
            Of the noise's shape, in any memory layout and byte order; from elsewhere as in `dropout`.
        out : ndarray, or an object that shares its memory, optional
            Where the result goes: of a's shape and dtype, either a itself (in place) or apart from it in memory.

        Returns
        -------
        ndarray
            out, or a new array of a's shape and dtype. n and the factor are float32, and so is, for the 16-bit types,
            the product before it is rounded.

        Raises
        ------
        TypeError, ValueError
            As in `Mask.apply`.

        """
        return self.run(True, a, out)

    def add(self, a, out=None):
        """Return a + std n; parameters, result and errors as in `multiply`."""
        return self.run(False, a, out)


cdef int apply_noise(NoiseCore noise, bint is_factor, cnp.ndarray out, cnp.ndarray x, Scratch scratch) except -1:
    """out = x, with noise; every argument has been checked."""
    cdef job_request request
    request = blank_request(OPERATION_multiply_by_noise if is_factor else OPERATION_add_noise, dtype_index(x))
    request.key = noise.words
    request.first = noise.first
    request.scale = noise.std
    return run_on_arrays(&request, out, x, None, scratch)


cpdef double kept_scale(double p) noexcept:
    """1/(1-p); 1 at p = 1, where nothing is kept to be scaled."""
    return kept_scale_of(p)


def alpha_map(double p):
    """What alpha dropout does: the scale and the shift of what is kept, and what becomes of what is dropped."""
    cdef double scale, shift, fill
    alpha_dropout_map(p, &scale, &shift, &fill)
    return scale, shift, fill


cdef int define_mask(MaskCore mask, object key, object start, object p, object shape, object shared_axes,
                     object strides) except -1:
    """Sets a new mask's fields from a caller's."""
    mask.p = checked_p(p)
    mask.shape = checked_shape(shape)
    mask.shared_axes = checked_axes(shared_axes, len(mask.shape))
    if strides is not None:
        mask.part_strides = checked_strides(strides, mask.shape, mask.shared_axes)
    if mask.part_strides is None:
        return place(mask, key, start, n_drawn(mask.shape, mask.shared_axes))
    reach = sum([(length - 1) * stride for length, stride in zip(mask.shape, mask.part_strides)])
    return place(mask, key, start, reach + 1)
