"""The handlers of XLA's foreign function interface, called with frames that XLA would build, and with wrong ones."""

import ctypes
import struct
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import partial

import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels

# ---- xla/ffi/api/c_api.h, version 0.1 -------------------------------------------------------------------------------

PRED, S32, U32, F16, F32, F64, BF16 = 1, 4, 8, 10, 11, 12, 16
INSTANTIATE, EXECUTE = 0, 3
METADATA = 1
INVALID_ARGUMENT = 3
NUMBERS = {np.float16: F16, np.float32: F32, np.float64: F64, np.uint32: U32, np.bool_: PRED, np.int32: S32}


def struct_type(name, **fields):
    """Return a struct of the interface: its size, a list of extensions, and these fields."""
    head = {"struct_size": c_size_t, "extensions": c_void_p}
    return type(name, (ctypes.Structure,), {"_fields_": [*(head | fields).items()]})


Buffer = struct_type("Buffer", dtype=c_int, data=c_void_p, rank=c_int64, dims=POINTER(c_int64))
Operands = struct_type("Operands", size=c_int64, types=POINTER(c_int), buffers=POINTER(c_void_p))
Attributes = struct_type("Attributes", size=c_int64, types=c_void_p, names=c_void_p, values=c_void_p)
Version = struct_type("Version", major=c_int, minor=c_int)
ErrorArgs = struct_type("ErrorArgs", message=c_char_p, code=c_int)
DestroyArgs = struct_type("DestroyArgs", error=c_void_p)
ScheduleArgs = struct_type("ScheduleArgs", context=c_void_p, task=c_void_p, data=c_void_p)
NumThreadsArgs = struct_type("NumThreadsArgs", context=c_void_p, n_threads=POINTER(c_int64))

CREATE = ctypes.CFUNCTYPE(c_void_p, POINTER(ErrorArgs))
DESTROY = ctypes.CFUNCTYPE(None, POINTER(DestroyArgs))
SCHEDULE = ctypes.CFUNCTYPE(c_void_p, POINTER(ScheduleArgs))
NUM_THREADS = ctypes.CFUNCTYPE(c_void_p, POINTER(NumThreadsArgs))
TASK = ctypes.CFUNCTYPE(None, c_void_p)


Api = struct_type(
    "Api",
    version=Version,
    internal=c_void_p,
    create=CREATE,
    message=c_void_p,
    destroy=DESTROY,
    unused=c_void_p * 8,
    schedule=SCHEDULE,
    num_threads=NUM_THREADS,
)
Frame = struct_type(
    "Frame",
    api=POINTER(Api),
    context=c_void_p,
    stage=c_int,
    args=Operands,
    rets=Operands,
    attrs=Attributes,
    future=c_void_p,
)


class Metadata(ctypes.Structure):
    """The handler's answer."""

    _fields_ = (("struct_size", c_size_t), ("version", Version), ("traits", ctypes.c_uint32))


class MetadataExtension(ctypes.Structure):
    """XLA's question, in the list of extensions of a frame."""

    _fields_ = (
        *(("struct_size", c_size_t), ("type", c_int), ("next", c_void_p)),
        ("metadata", POINTER(Metadata)),
    )


def handler(name):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    address = get(_kernels.XLA_HANDLERS[name], b"xla._CUSTOM_CALL_TARGET")
    return ctypes.CFUNCTYPE(c_void_p, POINTER(Frame))(address)


# ---- a replacement of XLA -------------------------------------------------------------------------------------------


class Xla:
    """Threads and errors as XLA provides them; tasks wait until `run_tasks`."""

    def __init__(self, n_threads=4, *, has_pool=True, runs_tasks="later"):
        self.errors, self.tasks, self.n_destroyed = [], [], 0
        self.n_threads, self.has_pool, self.runs_tasks = n_threads, has_pool, runs_tasks
        self.api = Api(struct_size=ctypes.sizeof(Api))
        self.api.create, self.api.destroy = CREATE(self.create), DESTROY(self.destroy)
        self.api.schedule, self.api.num_threads = SCHEDULE(self.schedule), NUM_THREADS(self.count)

    def create(self, args):
        assert args[0].code == INVALID_ARGUMENT
        self.errors.append(args[0].message.decode())
        return len(self.errors)

    def destroy(self, args):
        assert args[0].error
        self.n_destroyed += 1

    def schedule(self, args):
        if not self.has_pool:
            return 1
        self.tasks.append(partial(TASK(args[0].task), args[0].data))
        if self.runs_tasks == "at once":
            self.run_tasks()
        return None

    def count(self, args):
        if not self.has_pool:
            return 1
        args[0].n_threads[0] = self.n_threads
        return None

    def run_tasks(self):
        while self.tasks:
            self.tasks.pop()()

    def frame(self, inputs, outputs):
        """Return a frame for arrays, and the objects that it points to."""
        frame = Frame(struct_size=ctypes.sizeof(Frame), api=ctypes.pointer(self.api), stage=EXECUTE)
        held = []
        for field, arrays in ((frame.args, inputs), (frame.rets, outputs)):
            buffers = [
                Buffer(
                    struct_size=ctypes.sizeof(Buffer),
                    dtype=NUMBERS[array.dtype.type],
                    data=array.ctypes.data,
                    rank=array.ndim,
                    dims=(c_int64 * max(array.ndim, 1))(*array.shape),
                )
                for array in arrays
            ]
            field.struct_size, field.size = ctypes.sizeof(Operands), len(arrays)
            field.types = (c_int * 4)(*(1 for _ in arrays))
            field.buffers = (c_void_p * 4)(*(ctypes.addressof(buffer) for buffer in buffers))
            held.append(buffers)
        frame.attrs.struct_size = ctypes.sizeof(Attributes)
        return frame, held

    def call(self, name, inputs, outputs, change=lambda frame, buffers: None):
        """Call a handler; return its error, None if there is none."""
        frame, held = self.frame(inputs, outputs)
        change(frame, held[0] + held[1])
        error = handler(name)(ctypes.byref(frame))
        assert error in (None, len(self.errors))
        return None if error is None else self.errors[-1]


def packed(key=5, start=0, p=0.25):
    return np.frombuffer(key.to_bytes(16, "little") + struct.pack("<Qd", start, p), np.uint32).copy()


def strides_of(*strides):
    return np.array([[stride & 0xFFFFFFFF, stride >> 32] for stride in strides], np.uint32).reshape(-1, 2)


X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
MASK = cd.Mask(5, 0, 0.25, (3, 4))


def arguments(**changes):
    given = {"masks": packed(), "strides": strides_of(4, 1), "x": X, "y": np.zeros_like(X), **changes}
    return [given["masks"], given["strides"], given["x"]], [given["y"]]


# ---- right calls ----------------------------------------------------------------------------------------------------


def test_handlers_apply_a_mask():
    inputs, (y,) = arguments()
    assert Xla().call("cdropout_apply", inputs, [y]) is None
    np.testing.assert_array_equal(y, MASK.apply(X))
    negative = -X
    assert Xla().call("cdropout_relu", [*inputs[:2], negative], [y]) is None
    assert not y.any()
    keep = np.zeros(X.shape, bool)
    assert Xla().call("cdropout_keep", inputs[:2], [keep]) is None
    np.testing.assert_array_equal(keep, MASK.keep())


def test_output_may_be_the_input():
    y = X.copy()
    inputs, outputs = arguments(x=y, y=y)
    assert Xla().call("cdropout_apply", inputs, outputs) is None
    np.testing.assert_array_equal(y, MASK.apply(X))


LARGE = 65536 * 4 + 17


@pytest.mark.parametrize("runs_tasks", ["at once", "later", "never"])
@pytest.mark.parametrize("n_masks", [1, 3, 64])
def test_call_ends_whenever_tasks_run(runs_tasks, n_masks):
    """A call does not wait for tasks that have not begun; those find nothing to do and free what they share."""
    xla = Xla(runs_tasks=runs_tasks)
    x = np.ones((n_masks, LARGE // n_masks), np.float32)
    y = np.zeros_like(x)
    masks = np.stack([packed(key) for key in range(n_masks)])
    assert xla.call("cdropout_apply", [masks, strides_of(1), x], [y]) is None
    assert len(xla.tasks) == (0 if runs_tasks == "at once" else 3)
    expected = np.stack([cd.Mask(key, 0, 0.25, row.shape).apply(row) for key, row in enumerate(x)])
    np.testing.assert_array_equal(y, expected)
    xla.run_tasks()
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("xla", [Xla(has_pool=False), Xla(n_threads=1), Xla(n_threads=0), Xla(n_threads=1 << 40)])
def test_call_works_with_any_number_of_threads(xla):
    x = np.ones(LARGE, np.float32)
    y = np.zeros_like(x)
    assert xla.call("cdropout_apply", [packed(), strides_of(1), x], [y]) is None
    np.testing.assert_array_equal(y, cd.Mask(5, 0, 0.25, x.shape).apply(x))
    assert xla.n_destroyed == len(xla.errors) + (not xla.has_pool)
    xla.run_tasks()


def test_an_interface_without_the_number_of_threads_uses_one():
    xla = Xla()
    xla.api.struct_size = Api.num_threads.offset
    x = np.ones(LARGE, np.float32)
    y = np.zeros_like(x)
    assert xla.call("cdropout_apply", [packed(), strides_of(1), x], [y]) is None
    np.testing.assert_array_equal(y, cd.Mask(5, 0, 0.25, x.shape).apply(x))
    assert not xla.tasks


def test_a_pool_that_refuses_tasks_is_not_waited_for():
    xla = Xla()
    x = np.ones(LARGE, np.float32)
    y = np.zeros_like(x)
    xla.api.schedule = SCHEDULE(lambda args: 1)
    assert xla.call("cdropout_apply", [packed(), strides_of(1), x], [y]) is None
    np.testing.assert_array_equal(y, cd.Mask(5, 0, 0.25, x.shape).apply(x))
    assert xla.n_destroyed == 1


@pytest.mark.parametrize("name", _kernels.XLA_HANDLERS)
def test_handler_tells_its_version(name):
    metadata = Metadata(struct_size=ctypes.sizeof(Metadata), version=Version(struct_size=ctypes.sizeof(Version)))
    metadata.version.major = metadata.version.minor = metadata.traits = 99
    extension = MetadataExtension(ctypes.sizeof(MetadataExtension), METADATA, None, ctypes.pointer(metadata))
    other = MetadataExtension(ctypes.sizeof(MetadataExtension), 77, ctypes.addressof(extension), None)
    frame = Frame(struct_size=ctypes.sizeof(Frame), extensions=ctypes.addressof(other))
    assert handler(name)(ctypes.byref(frame)) is None
    assert (metadata.version.major, metadata.version.minor, metadata.traits) == (0, 1, 0)


def test_other_stages_do_nothing():
    inputs, (y,) = arguments()
    assert Xla().call("cdropout_apply", inputs, [y], lambda frame, _: setattr(frame, "stage", INSTANTIATE)) is None
    assert not y.any()


@pytest.mark.parametrize("n_masks", [0, 2])
def test_nothing_is_written_without_elements(n_masks):
    masks = np.zeros((n_masks, 8), np.uint32)
    masks[:] = packed(p=0.5)
    x = np.zeros((n_masks, 0 if n_masks else 5), np.float32)
    assert Xla().call("cdropout_apply", [masks, strides_of(1), x], [np.empty_like(x)]) is None


# ---- wrong calls ----------------------------------------------------------------------------------------------------


def too_small(part):
    def change(frame, buffers):
        parts = {"frame": frame, "args": frame.args, "rets": frame.rets, "api": frame.api[0]}
        target = parts[part] if part in parts else buffers[part]
        target.struct_size = (
            Api.destroy.offset if part == "api" else target.struct_size - (24 if part == "frame" else 8)
        )

    return change


OLD = "XLA must have version 0.1 or later of its foreign function interface"
WRONG = {
    "old frame": ({}, too_small("frame"), OLD),
    "old arguments": ({}, too_small("args"), OLD),
    "old results": ({}, too_small("rets"), OLD),
    "old interface": ({}, too_small("api"), OLD),
    **{f"old buffer {i}": ({}, too_small(i), OLD) for i in range(4)},
    "an argument too few": ({}, lambda frame, _: setattr(frame.args, "size", 2), "must have 3 arguments and 1 result"),
    "a result too many": ({}, lambda frame, _: setattr(frame.rets, "size", 2), "got 3 and 2"),
    "no buffer": ({}, lambda frame, _: frame.args.types.__setitem__(1, 7), "argument 1 must be a buffer"),
    "no result buffer": ({}, lambda frame, _: frame.rets.types.__setitem__(0, 7), "the result must be a buffer"),
    "int32 masks": ({"masks": packed().astype(np.int32)}, None, r"masks must be uint32 numbers of shape [..., 8]"),
    "short masks": ({"masks": packed()[:7]}, None, r"masks must be uint32 numbers of shape [..., 8]"),
    "scalar mask": ({"masks": np.array(1, np.uint32)}, None, r"masks must be uint32 numbers of shape [..., 8]"),
    "int32 strides": ({"strides": strides_of(4, 1).astype(np.int32)}, None, "strides must be uint32 numbers"),
    "flat strides": ({"strides": strides_of(4, 1).ravel()}, None, "strides must be uint32 numbers of shape [n, 2]"),
    "a stride too few": ({"strides": strides_of(1)}, None, "an axis for each of 1 strides"),
    "too many strides": ({"strides": strides_of(*range(65))}, None, "an axis for each of 65 strides"),
    "a mask too many": ({"masks": np.stack([packed()] * 2)}, None, "must have the leading axes of masks"),
    "int x": ({"x": X.astype(np.int32), "y": X.astype(np.int32)}, None, "x must be float16, bfloat16, float32"),
    "another dtype": ({"y": X.astype(np.float64)}, None, "the result has the wrong type, 12 of XLA's"),
    "another shape": ({"y": X[:2].copy()}, None, "x and the result must have the same shape"),
    "another rank": ({"y": X.ravel().copy()}, None, "x and the result must have the same shape"),
    "p above 1": ({"masks": packed(p=1.5)}, None, "must be in [0, 1], got 1.5"),
    "p below 0": ({"masks": packed(p=-0.5)}, None, "must be in [0, 1], got -0.5"),
    "p not a number": ({"masks": packed(p=np.nan)}, None, "must be in [0, 1], got nan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_an_error_and_writes_nothing(name):
    changes, change, message = WRONG[name]
    inputs, (y,) = arguments(**changes)
    before = y.copy()
    error = Xla().call("cdropout_apply", inputs, [y], change or (lambda frame, buffers: None))
    assert error is not None
    assert error.startswith("cdropout_apply: ")
    assert message in error
    np.testing.assert_array_equal(y, before)


def test_no_mask_is_applied_if_one_is_wrong():
    masks = np.stack([packed(), packed(p=2.0)])
    x = np.ones((2, 5), np.float32)
    y = np.zeros_like(x)
    assert "got 2" in Xla().call("cdropout_apply", [masks, strides_of(1), x], [y])
    assert not y.any()


def test_sizes_that_overflow_are_refused():
    def enlarge(frame, buffers):
        for buffer in buffers[2:]:
            buffer.dims[0] = buffer.dims[1] = 1 << 40

    inputs, outputs = arguments()
    assert "too many elements" in Xla().call("cdropout_apply", inputs, outputs, enlarge)

    def negate(frame, buffers):
        for buffer in buffers[2:]:
            buffer.dims[1] = -4

    assert "too many elements" in Xla().call("cdropout_apply", inputs, outputs, negate)
