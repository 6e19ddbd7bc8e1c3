"""Capsules of the handlers of xla_ffi.c, under the name that XLA gives to such capsules. cdropout.jax registers them.
Part of _kernels.pyx, because the handlers run the kernels that this module selects."""

XLA_HANDLERS = {
    "cdropout_apply": PyCapsule_New(<void *>xla_apply, "xla._CUSTOM_CALL_TARGET", NULL),
    "cdropout_relu": PyCapsule_New(<void *>xla_relu, "xla._CUSTOM_CALL_TARGET", NULL),
    "cdropout_keep": PyCapsule_New(<void *>xla_keep, "xla._CUSTOM_CALL_TARGET", NULL),
    "cdropout_bits": PyCapsule_New(<void *>xla_bits, "xla._CUSTOM_CALL_TARGET", NULL),
}
