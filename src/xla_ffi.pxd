"""Declarations of xla_ffi.h, for _kernels.pyx."""


cdef extern from "xla_ffi.h" nogil:
    ctypedef struct XLA_FFI_Error:
        pass

    ctypedef struct XLA_FFI_CallFrame:
        pass

    XLA_FFI_Error *xla_apply(XLA_FFI_CallFrame *frame)
    XLA_FFI_Error *xla_relu(XLA_FFI_CallFrame *frame)
    XLA_FFI_Error *xla_keep(XLA_FFI_CallFrame *frame)
    XLA_FFI_Error *xla_bits(XLA_FFI_CallFrame *frame)
