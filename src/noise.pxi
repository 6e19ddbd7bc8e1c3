"""Normal noise: the class `Noise`, and how it is drawn and applied."""

cdef class Noise(Drawn):
    """Noise(key, start, std, shape)\n--\n
    Normal numbers for the elements of an array: an immutable value that stores no numbers.

    The numbers are a function of key, position and shape. They are generated again, in registers, each time the noise
    is applied: the same bits in the forward and the backward pass, for every number of threads, instruction set and
    machine. `draw_noise` returns noise; `multiply` and `add` apply it.

    Parameters
    ----------
    key : int
        The 128 bits of `Stream.key`.
    start : int
        The stream's position of the first number.
    std : float
        The standard deviation, in [0, 1e37].
    shape : int or tuple of int
        The shape of the arrays that the noise applies to.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of its range.

    Notes
    -----
    The numbers come from the transform of Box and Muller, "A note on the generation of random normal deviates", Ann.
    Math. Stat. 29(2), 1958, in float32. None lies further than 6.7 standard deviations from 0; a normal number would
    with probability 3e-11. docs/design.md specifies them.

    """

    PICKLE_VERSION = 1

    cdef readonly double std

    def __cinit__(self, key=NOT_GIVEN, start=NOT_GIVEN, std=NOT_GIVEN, shape=NOT_GIVEN):
        self.shape = ()
        if key is NOT_GIVEN:
            return  # place_noise sets the fields
        if shape is NOT_GIVEN:
            raise TypeError("Noise needs key, start, std and shape")
        self.std = checked_std(std)
        self.shape = checked_shape(shape)
        self.place(key, start, n_drawn(self.shape, ()))
        check_lengths(self.shape)

    def __init__(self, key, start, std, shape):
        """__cinit__ or place_noise sets the fields; noise never changes afterwards."""

    def multiply(self, a, out=None):
        """Return a * (1 + std n), with n the noise's normal numbers.

        Parameters
        ----------
        a : array_like of float16, bfloat16, float32 or float64
            An array of the noise's shape, in any memory layout and byte order. Objects of other libraries are accepted
            as in `dropout`.
        out : ndarray, or an object that shares its memory, optional
            Array for the result, of a's shape and dtype: either a itself (in place) or memory apart from a.

        Returns
        -------
        ndarray
            out, or a new array of a's shape and dtype. n and the factor are float32; for the 16-bit types so is the
            product before it is rounded.

        Raises
        ------
        TypeError, ValueError
            As in `Mask.apply`.

        """
        return self.applied(True, a, out)

    def add(self, a, out=None):
        """Return a + std n; parameters, result and errors as in `multiply`."""
        return self.applied(False, a, out)

    cdef object applied(self, bint is_factor, object a, object out):
        cdef held_arrays held
        begin_holding(&held, not (cnp.PyArray_CheckExact(a) and is_exact(out)))
        cdef cnp.ndarray x = checked_array(a, "a")
        hold(&held, x, "a")
        if not has_shape(x, self.shape):
            raise ValueError(f"a must have the noise's shape {self.shape}, got {(<object>x).shape}")
        cdef cnp.ndarray result = checked_out(out, x, "a")
        hold(&held, result, "out", True, True)
        cdef Container container = container_for(result, out, a, None, None)
        cdef Scratch scratch = scratch_for(result, x, None, False, &held)
        check_held(&held)
        apply_noise(self, is_factor, result, x, scratch, &held)
        return in_container(result, container)

    def _fields(self):
        return self.key, self.start, self.std, self.shape

    def __repr__(self):
        return f"Noise(key={self.key:#034x}, start={self.start}, std={self.std}, shape={self.shape})"

    def _repr_html_(self):
        from cdropout.display import noise_html

        return noise_html(self)


cdef int apply_noise(Noise noise, bint is_factor, cnp.ndarray out, cnp.ndarray x, Scratch scratch,
                     held_arrays *held) except -1:
    """Write x times, or plus, the noise to out, after check_held; the arguments have been checked."""
    cdef job_request request
    request = blank_request(OPERATION_multiply_by_noise if is_factor else OPERATION_add_noise, dtype_index(x))
    request.key = noise.key_words
    request.first = noise.first
    request.scale = noise.std
    return run_on_arrays(&request, out, x, None, scratch, held)


cdef int place_noise(Noise noise, tuple shape, double std, Stream stream, uint64_t n_positions,
                     const held_arrays *held) except -1:
    """Make new noise that of the stream's next positions; the arguments have been checked."""
    noise.std = std
    noise.shape = shape
    check_held(held)
    noise.first = stream.take(n_positions, &noise.key_words)
    return 0


def draw_noise(shape, std, rng):
    """Draw noise, for cdropout.draw_noise."""
    cdef double std_checked = checked_std(std)
    cdef tuple lengths = checked_shape(shape)
    cdef uint64_t n_positions = checked_n_drawn(lengths, ())
    cdef Noise noise = Noise.__new__(Noise)
    place_noise(noise, lengths, std_checked, stream_of_rng(rng), n_positions, &nothing_held)
    return noise


def with_noise(bint is_factor, x, std, rng, out):
    """Draw noise and return (y, noise), with y = x times, or plus, the noise."""
    cdef held_arrays held
    begin_holding(
        &held, not (cnp.PyArray_CheckExact(x) and is_exact(out) and PyFloat_CheckExact(std)) or runs_code(rng)
    )
    # Before the arrays are checked, because an allocation may run finalizers.
    cdef Noise noise = Noise.__new__(Noise)
    cdef cnp.ndarray array = checked_array(x, "x")
    cdef tuple shape = (<object>array).shape
    hold(&held, array, "x")
    cdef double std_checked = checked_std(std)
    cdef cnp.ndarray result = checked_out(out, array, "x")
    hold(&held, result, "out", True, True)
    cdef Container container = container_for(result, out, x, None, None)
    cdef Scratch scratch = scratch_for(result, array, None, False, &held)
    cdef uint64_t n_positions = cnp.PyArray_SIZE(array)
    cdef Stream stream = stream_of_rng(rng)
    place_noise(noise, shape, std_checked, stream, n_positions, &held)
    apply_noise(noise, is_factor, result, array, scratch, &held)
    if container is None:
        return result, noise
    return container.holding_drawn(result, stream, n_positions, noise.first), noise
