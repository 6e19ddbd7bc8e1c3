/* Dropout that autograd differentiates: `dropout.cpp` defines the operators of cdropout.torch, `aten.cpp` puts the same
 * functions behind PyTorch's operators. */
#ifndef CDROPOUT_TORCH_DROPOUT_H
#define CDROPOUT_TORCH_DROPOUT_H

#include "kernels.h"

namespace cdropout_torch
{

/* Whether dropout of x with this p is this library's, and not PyTorch's: x is plain and nothing intercepts. */
bool is_ours(const Tensor &x, double p);

/* Return the map of x, which is plain, recorded for autograd. */
Tensor with_mask(const Tensor &x, const MaskMap &map);
/* The same, written to x. */
void mask_in_place(const Tensor &x, const MaskMap &map);

/* Return the map of dropout with a new key. */
MaskMap new_map(double p, bool is_alpha, uint64_t shared_axes, const std::optional<at::Generator> &generator);

/* The bits of the axes from `axis` on. */
uint64_t axes_from(int64_t axis, int64_t n_axes);

} // namespace cdropout_torch

#endif
