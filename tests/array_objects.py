"""Arrays of every kind of memory, and objects with arrays in every protocol, also broken ones."""

import ctypes
import mmap
from typing import Any

import numpy as np

# ---- arrays ---------------------------------------------------------------------------------------------------------


def bits(a: Any) -> bytes:
    """Return an array's bytes, in which NaN equals NaN, and -0.0 does not equal 0.0."""
    return np.ascontiguousarray(a).tobytes()


def normals(shape: Any, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Subclass(np.ndarray):
    """A subclass that allows neither universal functions nor access to elements."""

    __array_ufunc__ = None

    def __array_finalize__(self, obj: Any) -> None:
        self.note = "finalized"

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("asked for an element")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise AssertionError("told to set an element")


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a: np.ndarray, n_bytes: int = 1) -> np.ndarray:
    memory = np.zeros(a.nbytes + n_bytes, np.uint8)
    moved = memory[n_bytes:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def every_other(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=1)[:, ::2]


def mapped(a: np.ndarray, access: int = mmap.ACCESS_WRITE) -> np.ndarray:
    """Return an array in an anonymous memory map, or a read-only view of one."""
    memory = np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
    memory[...] = a
    memory.flags.writeable = access != mmap.ACCESS_READ
    return memory


def a_field(a: np.ndarray) -> np.ndarray:
    records = np.zeros(a.shape, [("before", "u1"), ("value", a.dtype), ("behind", "u2")])
    records["value"] = a
    return records["value"]


def in_ctypes(a: np.ndarray) -> Any:
    memory = (ctypes.c_float * a.shape[1] * a.shape[0])()
    np.frombuffer(memory, np.float32).reshape(a.shape)[...] = a
    return memory


def as_subclass(a: np.ndarray) -> Subclass:
    return a.copy().view(Subclass)


# ---- objects with arrays --------------------------------------------------------------------------------------------


class Dlpack:
    """An object with only the protocol DLPack 1."""

    def __init__(self, a, device=(1, 0)):
        self.a, self.device = a, device

    def __dlpack__(self, **keywords):
        return self.a.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.device


class OldDlpack(Dlpack):
    """An object with the DLPack protocol before 1.0, whose capsules have no read-only flag."""

    def __dlpack__(self, stream=None):
        return self.a.__dlpack__()


class OldTensor(OldDlpack):
    """An object that also has __array__, as PyTorch's tensors do."""

    def __array__(self, dtype=None, copy=None):
        return self.a


class CopyingDlpack(Dlpack):
    """An object whose __dlpack__ returns copies, and raises BufferError for copy=False."""

    def __dlpack__(self, *, copy=None, **keywords):
        if copy is False:
            raise BufferError("only copies leave this house")
        return self.a.copy().__dlpack__(**keywords)


class Bfloat16Dlpack(Dlpack):
    """An object that exports uint16 as bfloat16, which NumPy cannot export."""

    def __dlpack__(self, **keywords):
        capsule = self.a.view(np.uint16).__dlpack__(**keywords)
        name = b"dltensor_versioned" if keywords.get("max_version") else b"dltensor"
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        # Version, context, deleter and flags take 32 bytes; the type's code follows 20 bytes of the tensor.
        at = get_pointer(capsule, name) + (32 if keywords.get("max_version") else 0) + 20
        ctypes.memmove(at, bytes([4]), 1)
        return capsule


class Versioned(Dlpack):
    """An object whose capsule has another DLPack version, flags or memory than NumPy's.

    `poisoned` makes all members after the deleter invalid, as those of a version with other members may be.
    """

    def __init__(self, a, *, major=1, flags=0, poisoned=False):
        super().__init__(a)
        self.major, self.flags, self.poisoned = major, flags, poisoned

    def __dlpack__(self, **keywords):
        array, n_dims = self.a, self.a.ndim
        self.lengths = (ctypes.c_int64 * n_dims)(*array.shape)
        self.tensor = DlpackVersioned(
            *(self.major, 0, None, None, self.flags, array.ctypes.data, 1, 0, n_dims, 2, 8 * array.itemsize, 1),
            *(ctypes.addressof(self.lengths), None, 0),
        )
        if self.poisoned:
            at = DlpackVersioned.flags.offset
            ctypes.memset(ctypes.addressof(self.tensor) + at, 0xFF, ctypes.sizeof(self.tensor) - at)
            self.tensor.code, self.tensor.n_bits = 4, 16  # bfloat16 in version 1
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor_versioned", None)


class DlpackVersioned(ctypes.Structure):
    """DLManagedTensorVersioned of DLPack 1."""

    _fields_ = (
        *(("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p)),
        *(("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("data", ctypes.c_void_p)),
        *(("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("n_dims", ctypes.c_int32)),
        *(("code", ctypes.c_uint8), ("n_bits", ctypes.c_uint8), ("n_lanes", ctypes.c_uint16)),
        *(("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64)),
    )


class Interface:
    """An object with NumPy's array interface."""

    def __init__(self, a):
        self.a = a

    @property
    def __array_interface__(self):
        return self.a.__array_interface__


class OnlyArray:
    """An object with __array__, which does not say whether the memory is shared."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class Raises:
    """An object whose __array__ raises."""

    shape = (4, 6)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ValueError("not today")


class Lies(Raises):
    """An object whose __array__ returns a list."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return [1.0]


class NoCapsule(Dlpack):
    """An object whose __dlpack__ returns a string."""

    def __dlpack__(self, **keywords: Any) -> Any:
        return "capsule"


def released() -> memoryview:
    view = memoryview(bytearray(8)).cast("f")
    view.release()
    return view
