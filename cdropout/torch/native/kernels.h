/* How the C++ files of this folder call the library's kernels on tensors.
 *
 * They compile against the headers of the installed PyTorch and against cdropout_table.h alone, without Python.h:
 * cdropout/torch/native_library.py builds them, and passes the address of the C interface's table to `set_functions`.
 */
#ifndef CDROPOUT_TORCH_KERNELS_H
#define CDROPOUT_TORCH_KERNELS_H

#include <cdropout_table.h>

#include <cstdint>
#include <optional>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace cdropout_torch
{

using at::Tensor;

/* The functions of the C interface. */
const cdropout_table &functions();

/* What a mask does to a tensor: x * scale + shift where kept, fill where dropped. Element i of the tensor's logical
 * shape, in C order, takes position i of the key's stream; axes whose bit is set in shared_axes do not count. */
struct MaskMap {
    cdropout_key key;
    double p, scale, shift, fill;
    uint64_t shared_axes;

    /* The gradient's map: the same mask and scale. */
    MaskMap of_gradient() const
    {
        MaskMap map = *this;
        map.shift = map.fill = 0.0;
        return map;
    }
};

/* The map of dropout, or of alpha dropout, with a key that remains to be set. */
MaskMap map_of_dropout(double p, bool is_alpha, uint64_t shared_axes);

/* Draw a key: two numbers of the generator (PyTorch's default one for the CPU if it is absent), each as
 * torch.randint(-2**63, 2**63 - 1, (2,)) computes it, which is what cdropout/torch/tensors.py calls. */
cdropout_key draw_key(const std::optional<at::Generator> &generator);

/* Whether the kernels can read and write the tensor's memory, and find its values there. */
bool is_plain(const Tensor &tensor);

/* Whether operators of PyTorch are recorded or transformed now, by dispatch modes, tracers or torch.func. A kernel that
 * writes to memory would be missing in their result. */
bool is_intercepted();

/* Return a new tensor with the map of x, which is plain. Autograd does not see this. */
Tensor apply_map(const Tensor &x, const MaskMap &map);
/* The same, written to x. */
void apply_map_in_place(const Tensor &x, const MaskMap &map);

/* Return a tensor of this shape and dtype by which a map multiplies: its scale where kept, 0 where dropped. */
Tensor factor_of(const MaskMap &map, at::IntArrayRef shape, at::ScalarType dtype);

/* The same, written to a contiguous tensor. */
void fill_factor(const MaskMap &map, const Tensor &out);
/* Return a uint8 tensor of this shape: 1 where kept, 0 where dropped. */
Tensor keep_of(const MaskMap &map, at::IntArrayRef shape);

/* Tell the operating system that a new tensor will be written as a whole: it may use huge pages. */
void expect_writing(const Tensor &fresh);

/* The element type of the C interface, or -1. */
int dtype_of(const Tensor &tensor);

/* Elements of a range that one thread takes at least. */
constexpr int64_t kElemsPerThread = 1 << 16;

} // namespace cdropout_torch

#endif
