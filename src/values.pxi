"""The base class of masks and noise: where they were drawn, their shape, and what makes them immutable values."""

cdef object NOT_GIVEN = object()


cdef class Drawn:
    """A value drawn from a stream: key, first position and shape. Subclasses return all their fields from `_fields`.

    A new version of a class's pickles may add fields at the end; pickles of older versions leave them out.
    """

    cdef object __weakref__
    cdef stream_key key_words
    cdef uint64_t first
    cdef readonly tuple shape

    @property
    def key(self):
        """The 128 bits that identify the stream it was drawn from, an int."""
        return key_number(&self.key_words)

    @property
    def start(self):
        """The stream's position of its first element, an int."""
        return self.first

    cdef int place(self, object key, object start, object n_positions) except -1:
        """Set key and first position from a caller's arguments; the last position is start + n_positions - 1."""
        key, start = placed_int("key", key, 1 << 128), placed_int("start", start, LIMIT)
        if start + n_positions > LIMIT:
            raise OverflowError(f"the stream must hold what is drawn, got shape {shown(self.shape)} at start {start}")
        set_key(&self.key_words, key)
        self.first = start
        return 0

    def _fields(self):
        raise NotImplementedError

    def __eq__(self, other):
        if isinstance(other, type(self)) or (isinstance(other, Drawn) and isinstance(self, type(other))):
            return self._fields() == other._fields()
        return NotImplemented

    def __hash__(self):
        return hash(self._fields())

    def __bool__(self):
        return True

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        added = self.__getstate__()  # by a subclass; None for the classes of this library
        fields = (type(self), self.PICKLE_VERSION, *self._fields())
        return (restore, fields) if added is None else (restore, fields, added)


cdef object placed_int(str name, object value, object limit):
    try:
        number = exact_int(value) if is_integer(value) else None
    except TypeError:  # from __index__ of a subclass of NumPy's integers
        number = None
    if number is None:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not 0 <= number < limit:
        raise ValueError(f"{name} must be in [0, {limit}), got {shown(number)}")
    return number


def restore(value_type, version, *fields):
    """Return the value of a pickle's fields; ValueError for a version that is not known."""
    versions = range(1, value_type.PICKLE_VERSION + 1)
    if type(version) is not int or version not in versions:
        known = " or ".join(map(str, versions))
        raise ValueError(f"a pickled {value_type.__name__} must be of version {known}, got version {shown(version)}")
    return value_type(*fields)


cdef object checked_n_drawn(tuple shape, tuple shared_axes):
    """Return how many positions a draw takes; OverflowError for more than any stream has."""
    n = n_drawn(shape, shared_axes)
    if n > LIMIT:
        raise OverflowError(f"the stream must hold what is drawn, got {shown(n)} elements")
    check_lengths(shape)
    return n


cdef object MAX_LENGTH = PY_SSIZE_T_MAX


cdef int check_lengths(tuple shape) except -1:
    """Raise ValueError for an axis that no array can have; the stream's limit does not refuse it if it is shared, or if
    the shape is empty."""
    for n in shape:
        if n > MAX_LENGTH:
            raise ValueError(f"shape must have axes below 2**63, as arrays have, got {shown(shape)}")
    return 0
