"""Arrays of other libraries: an ndarray on the memory that an object shares by the buffer protocol, DLPack or NumPy's
array interface. arguments.pxi calls readable_array and writable_array. Part of _kernels.pyx."""

# Errors that these protocols raise if an object does not share its memory.
REFUSALS = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)

# ---- DLPack ---------------------------------------------------------------------------------------------------------
# The types and numbers are those of DLPack 1.1 (https://dmlc.github.io/dlpack/latest/c_api.html). Of another major
# version, only the members before `flags` have a known meaning.

ctypedef struct dlpack_dtype:
    uint8_t code
    uint8_t n_bits
    uint16_t n_lanes

# The members up to the element type: the others are not read.
ctypedef struct dlpack_tensor:
    void *data
    int32_t device_type
    int32_t device_id
    int32_t n_dims
    dlpack_dtype dtype

# A capsule "dltensor_versioned" points to this, a capsule "dltensor" to the tensor itself.
ctypedef struct dlpack_versioned:
    uint32_t major
    uint32_t minor
    void *context
    void (*deleter)(void *) noexcept
    uint64_t flags
    dlpack_tensor tensor

cdef enum:
    DLPACK_MAJOR = 1
    DLPACK_IS_READ_ONLY = 1  # a flag
    DLPACK_IS_COPIED = 2  # a flag
    DLPACK_UINT = 1
    DLPACK_BFLOAT = 4

DLPACK_DEVICES = {
    1: "CPU", 2: "CUDA", 3: "CUDA host", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 9: "VPI", 10: "ROCm", 11: "ROCm host",
    12: "extension", 13: "CUDA managed", 14: "oneAPI", 15: "WebGPU", 16: "Hexagon", 17: "MAIA", 18: "Trainium",
}
# Device types whose memory the CPU can read and write; numpy.from_dlpack accepts the same.
DEVICES_OF_A_CPU = (1, 3, 11, 13)


cdef class Dlpack:
    """Passes an array to numpy.from_dlpack, which does not know bfloat16, with bfloat16 replaced by uint16."""

    cdef object source
    cdef bint is_bfloat16, is_null, is_copied
    cdef bint is_writable  # False for a capsule from before DLPack 1.0, which does not tell

    def __cinit__(self, source):
        self.source = source

    def __dlpack__(self, **keywords):
        cdef dlpack_tensor *tensor
        cdef dlpack_versioned *versioned
        capsule = self.source.__dlpack__(**keywords)
        if PyCapsule_IsValid(capsule, "dltensor_versioned"):
            versioned = <dlpack_versioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
            if versioned.major != DLPACK_MAJOR:
                raise BufferError(f"it must be of DLPack version {DLPACK_MAJOR}, got version {versioned.major}")
            self.is_copied = versioned.flags & DLPACK_IS_COPIED
            self.is_writable = not versioned.flags & DLPACK_IS_READ_ONLY
            tensor = &versioned.tensor
        else:
            tensor = <dlpack_tensor *>PyCapsule_GetPointer(capsule, "dltensor")
        # NumPy would allocate memory for the null pointer of a fake, zero or freed tensor.
        self.is_null = tensor.data == NULL
        if tensor.dtype.code == DLPACK_BFLOAT and tensor.dtype.n_bits == 16:
            # This changes no array: the capsule belongs to its receiver, numpy.from_dlpack.
            tensor.dtype.code = DLPACK_UINT
            self.is_bfloat16 = True
        return capsule

    def __dlpack_device__(self):
        return self.source.__dlpack_device__()


cdef int check_device(object a, str name) except -1:
    """Raise ValueError, with the name of the device, unless the CPU can access the memory of a DLPack object."""
    try:
        device_type, device_id = (int(number) for number in a.__dlpack_device__())
    except REFUSALS as error:
        raise refusal(a, name, error) from error
    if device_type not in DEVICES_OF_A_CPU:
        device = DLPACK_DEVICES.get(device_type, f"type {device_type}")
        raise ValueError(f"{name} must be on the CPU, got a {type(a).__name__} on device {device}:{device_id}")
    return 0


cdef object without_negative_bit(object a, str name, bint must_share):
    """Return a tensor whose memory holds its values. PyTorch negates them lazily and exports them without the sign."""
    is_neg = getattr(a, "is_neg", None)
    if not callable(is_neg) or not is_neg():
        return a
    if must_share:
        raise ValueError(f"{name} must hold its values as they are, got a {type(a).__name__} with the negative bit")
    return a.resolve_neg()


cdef cnp.ndarray array_from_dlpack(Dlpack source, bint must_share):
    """Return an array on the memory of a DLPack object. If must_share, an array that may be a copy is read-only."""
    cdef cnp.ndarray array
    if not must_share:
        return np.from_dlpack(source)
    try:
        array = np.from_dlpack(source, copy=False)
        if source.is_writable:
            cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)  # NumPy 2.1 makes every such array read-only
        return array
    except TypeError:  # NumPy 2.0 and older libraries do not have the argument `copy`
        array = np.from_dlpack(source)
        array.setflags(write=False)
        return confirmed_by_numpy(source.source, array)


cdef object confirmed_by_numpy(object a, object array):
    """Return a's array by __array__ if it has the memory of `array`, from DLPack, and `array` otherwise. The former is
    writable with PyTorch before 2.9."""
    if not hasattr(a, "__array__"):
        return array
    try:
        own = np.asarray(a)
    except REFUSALS:
        return array
    is_same = own.ctypes.data == array.ctypes.data and own.strides == array.strides and own.dtype == array.dtype
    return own if is_same else array


cdef cnp.ndarray as_bfloat16(cnp.ndarray array, str name):
    try:
        import ml_dtypes
    except ImportError as error:
        raise TypeError(f"{name} must not be of bfloat16 where ml_dtypes is not installed") from error
    return array.view(ml_dtypes.bfloat16)


# ---- any object -----------------------------------------------------------------------------------------------------

cdef object refusal(object a, str name, object error):
    return TypeError(f"{name} must be usable as an array, got {type(a).__name__}: {error}")


cdef cnp.ndarray shared_array(object a, str name, bint must_share):
    """Return an array on the memory of an object that is not an ndarray, or None if no protocol shares it."""
    cdef Dlpack source
    cdef cnp.ndarray array
    if isinstance(a, np.generic) or isinstance(a, type):
        return None
    if PyObject_CheckBuffer(a):
        try:
            return np.asarray(memoryview(a))
        except REFUSALS as error:  # JAX has the buffer protocol, except for bfloat16 and other devices
            if not hasattr(a, "__dlpack__"):
                raise refusal(a, name, error) from error
    if hasattr(a, "__dlpack__") and hasattr(a, "__dlpack_device__"):
        check_device(a, name)
        a = without_negative_bit(a, name, must_share)
        source = Dlpack(a)
        try:
            array = array_from_dlpack(source, must_share)
        except REFUSALS as error:
            if must_share or not hasattr(a, "__array__"):
                raise refusal(a, name, error) from error
        else:
            if must_share and source.is_copied:
                raise ValueError(f"{name} must share its memory, got a {type(a).__name__} that exports a copy")
            if source.is_null and cnp.PyArray_SIZE(array) > 0:
                shape = (<object>array).shape
                raise ValueError(f"{name} must have memory, got a {type(a).__name__} without, of shape {shape}")
            return as_bfloat16(array, name) if source.is_bfloat16 else array
    if not must_share and not hasattr(a, "__dlpack__"):
        check_arithmetic(a, name)
    if hasattr(a, "__array_interface__") or hasattr(a, "__array_struct__"):
        return np.asarray(a)
    return None


cdef cnp.ndarray readable_array(object a, str name):
    """Return an array_like as a plain array, on the object's memory if it shares it."""
    if isinstance(a, np.ndarray):
        check_arithmetic(a, name)
    is_for_numpy = isinstance(a, np.ndarray) or isinstance(a, (list, tuple))
    cdef cnp.ndarray array = None if is_for_numpy else shared_array(a, name, False)
    if array is not None:
        return array
    try:
        return np.asarray(a)
    except REFUSALS as error:
        raise refusal(a, name, error) from error


cdef cnp.ndarray writable_array(object out):
    """Return an array on the memory of out; it may be read-only. Raise TypeError if out does not share its memory."""
    # As a plain ndarray: a subclass may assign elements in another way.
    cdef cnp.ndarray array = np.asarray(out) if isinstance(out, np.ndarray) else shared_array(out, "out", True)
    if array is None:
        raise TypeError(f"out must be an array, got {type(out).__name__}, which shares its memory by no protocol")
    return array


def as_array(a, name):
    """Return an array_like as an array of any dtype, on its memory if it shares it. Raise TypeError if it is none."""
    return a if cnp.PyArray_CheckExact(a) else readable_array(a, name)
