/* Handlers of XLA's foreign function interface (xla/ffi/api/c_api.h), which cdropout.jax registers. xla_ffi.c defines
 * them; xla_ffi.pxi makes capsules of their addresses. */
#ifndef CDROPOUT_XLA_FFI_H
#define CDROPOUT_XLA_FFI_H

#include "xla/ffi/api/c_api.h"

/* Masks are buffers of 8 numbers of 32 bits each, the lower words first: the key of the stream (4 words), the position
 * of element 0 (2), and p, the probability of dropping, as a double (2). A buffer of shape [..., 8] holds a mask for
 * each index of its leading axes.
 *
 *   cdropout_apply   (masks, strides, x) -> y      Mask.apply: x * scale where kept, 0 where dropped
 *   cdropout_relu    (masks, strides, x) -> y      relu_dropout: max(x, 0) * scale where kept, 0 where dropped
 *   cdropout_keep    (masks, strides) -> keep      Mask.keep: a byte for each element, 1 where kept
 *   cdropout_bits    (masks, strides) -> bits      the stream's raw output: unsigned numbers of 8, 16, 32 or 64 bits
 *
 * scale is 1/(1-p). The leading axes of x, y and keep are those of the masks. strides, of shape [n, 2], has a number of
 * 64 bits for each of the n further axes: the distance in positions between neighbours along it, 0 where they share a
 * decision. It is a buffer, not an attribute: jaxlib 0.6 ends the process if a call with attributes is partitioned. */
XLA_FFI_Error *xla_apply(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *xla_relu(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *xla_keep(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *xla_bits(XLA_FFI_CallFrame *frame);

#endif
