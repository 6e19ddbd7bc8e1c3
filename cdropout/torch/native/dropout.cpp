/* Dropout as operators that autograd differentiates in C++. cdropout/torch/tensors.py calls `cdropout::drop` and
 * `cdropout::drop_`; `draw` and `apply` are the operators that compilers record (cdropout/torch/recorded.py). */
#include "dropout.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/alpha_dropout.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/feature_alpha_dropout.h>
#include <ATen/ops/feature_dropout.h>
#include <ATen/ops/mul.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#if __has_include(<torch/headeronly/version.h>)
#include <torch/headeronly/version.h>
#else
#include <torch/version.h>
#endif

namespace cdropout_torch
{

namespace
{

namespace autograd = torch::autograd;

/* Whether a gradient may be overwritten: nothing else refers to it or to its memory. The engine adds gradients in place
 * under the same conditions. A new tensor of some megabytes costs more page faults than its computation takes. */
bool is_last_use(const Tensor &dy)
{
    return !at::GradMode::is_enabled() && dy.use_count() == 1 && dy.storage().use_count() == 1 &&
           dy.is_non_overlapping_and_dense() && !dy.is_inference();
}

/* dx = dy * scale where kept, 0 where dropped. The node keeps the mask as a value and saves no tensor. */
struct CdropoutBackward : autograd::Node {
    MaskMap map;
    std::vector<int64_t> shape; /* of the mask; a batched gradient has more axes */

    autograd::variable_list apply(autograd::variable_list &&grads) override
    {
        Tensor dy = std::move(grads[0]);
        if (!dy.defined())
            return {Tensor()};
        /* Batched, sparse and recorded gradients take PyTorch's operators. A tracer records the factor as a constant.
         */
        if (is_intercepted() || !is_plain(dy))
            return {at::mul(dy, factor_of(map, shape, dy.scalar_type()))};
        if (!is_last_use(dy))
            return {with_mask(dy, map)};
        mask_in_place(dy, map);
        return {std::move(dy)};
    }

    std::string name() const override
    {
        return "CdropoutBackward";
    }
};

/* PyTorch 2.13 counts references to nodes in the node. */
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13)
using NodePointer = c10::intrusive_ptr<CdropoutBackward>;
NodePointer new_node()
{
    return c10::make_intrusive<CdropoutBackward>();
}
#else
using NodePointer = std::shared_ptr<CdropoutBackward>;
NodePointer new_node()
{
    return {new CdropoutBackward(), autograd::deleteNode};
}
#endif

/* Return a node for the backward pass, or null if x needs no gradient. */
NodePointer node_for(const Tensor &x, const MaskMap &map)
{
    if (!at::GradMode::is_enabled() || !x.requires_grad())
        return {};
    NodePointer node = new_node();
    node->map = map.of_gradient();
    node->shape = x.sizes().vec();
    node->set_next_edges(autograd::collect_next_edges(x));
    return node;
}

uint64_t bits_of(at::IntArrayRef axes)
{
    uint64_t bits = 0;
    for (const int64_t axis : axes)
        bits |= UINT64_C(1) << axis;
    return bits;
}

/* PyTorch's own dropout of tensors that are not this library's. Its shared axes are the last ones: all after the
 * channels, which are axis 1, or axis 0 where there is no batch. */
Tensor dropout_of_torch(const Tensor &x, double p, at::IntArrayRef shared_axes, bool is_alpha)
{
    if (shared_axes.empty())
        return is_alpha ? at::alpha_dropout(x, p, true) : at::dropout(x, p, true);
    if (shared_axes[0] == 1)
        return dropout_of_torch(x.unsqueeze(0), p, {2}, is_alpha).squeeze(0);
    return is_alpha ? at::feature_alpha_dropout(x, p, true) : at::feature_dropout(x, p, true);
}

void check_generator(const std::optional<at::Generator> &generator)
{
    TORCH_CHECK_VALUE(
        !generator.has_value(),
        "generator must be None unless input is a dense tensor on the CPU, of a floating dtype and outside "
        "torch.func, forward-mode differentiation and tracing, got ",
        generator->device(), " generator");
}

Tensor drop(const Tensor &x, double p, at::IntArrayRef shared_axes, bool is_alpha,
            const std::optional<at::Generator> &generator)
{
    if (is_ours(x, p))
        return with_mask(x, new_map(p, is_alpha, bits_of(shared_axes), generator));
    check_generator(generator);
    return dropout_of_torch(x, p, shared_axes, is_alpha);
}

Tensor &drop_in_place(Tensor &x, double p, at::IntArrayRef shared_axes, bool is_alpha,
                      const std::optional<at::Generator> &generator)
{
    if (is_ours(x, p)) {
        mask_in_place(x, new_map(p, is_alpha, bits_of(shared_axes), generator));
        return x;
    }
    check_generator(generator);
    return x.copy_(dropout_of_torch(x, p, shared_axes, is_alpha));
}

/* ---- operators that compilers record: the key is a tensor, (low word, high word) ---- */

MaskMap recorded_map(const cdropout_key &key, double p, at::IntArrayRef shared_axes, bool is_alpha)
{
    MaskMap map = map_of_dropout(p, is_alpha, bits_of(shared_axes));
    map.key = key;
    return map;
}

std::tuple<Tensor, Tensor> draw(const Tensor &x, double p, at::IntArrayRef shared_axes, bool is_alpha, int64_t site)
{
    (void)site; /* makes two calls with equal arguments differ for compilers, which would merge them */
    RECORD_FUNCTION("cdropout::masked", std::vector<c10::IValue>());
    const MaskMap map = new_map(p, is_alpha, bits_of(shared_axes), std::nullopt);
    Tensor key = at::detail::empty_cpu({2}, at::kLong, std::nullopt, std::nullopt, std::nullopt, std::nullopt);
    std::copy_n(map.key.word, 2, static_cast<uint64_t *>(key.data_ptr()));
    return {apply_map(x, map), key};
}

Tensor apply(const Tensor &dy, const Tensor &key, double p, at::IntArrayRef shared_axes, bool is_alpha)
{
    cdropout_key words;
    const Tensor dense = key.contiguous();
    std::copy_n(static_cast<const uint64_t *>(dense.const_data_ptr()), 2, words.word);
    return apply_map(dy, recorded_map(words, p, shared_axes, is_alpha).of_gradient());
}

} // namespace

bool is_ours(const Tensor &x, double p)
{
    return p > 0.0 && p <= 1.0 && is_plain(x) && x.numel() > 0 && !is_intercepted() && !autograd::isFwGradDefined(x);
}

uint64_t axes_from(int64_t axis, int64_t n_axes)
{
    uint64_t bits = 0;
    for (; axis < n_axes; axis++)
        bits |= UINT64_C(1) << axis;
    return bits;
}

MaskMap new_map(double p, bool is_alpha, uint64_t shared_axes, const std::optional<at::Generator> &generator)
{
    MaskMap map = map_of_dropout(p, is_alpha, shared_axes);
    map.key = draw_key(generator);
    return map;
}

Tensor with_mask(const Tensor &x, const MaskMap &map)
{
    RECORD_FUNCTION("cdropout::masked", std::vector<c10::IValue>());
    const NodePointer node = node_for(x, map);
    Tensor y;
    {
        const at::AutoDispatchBelowADInplaceOrView below;
        y = apply_map(x, map);
    }
    if (node)
        autograd::set_history(y, node);
    return y;
}

void mask_in_place(const Tensor &x, const MaskMap &map)
{
    RECORD_FUNCTION("cdropout::masked", std::vector<c10::IValue>());
    autograd::check_inplace(x, at::GradMode::is_enabled() && x.requires_grad());
    const NodePointer node = node_for(x, map);
    {
        const at::AutoDispatchBelowADInplaceOrView below;
        apply_map_in_place(x, map);
    }
    if (!x.is_inference())
        autograd::impl::bump_version(x);
    if (node)
        autograd::rebase_history(x, node);
}

TORCH_LIBRARY_FRAGMENT(cdropout, library)
{
    library.def("drop(Tensor x, float p, int[] shared_axes, bool is_alpha, Generator? generator) -> Tensor", drop);
    library.def("drop_(Tensor(a!) x, float p, int[] shared_axes, bool is_alpha, Generator? generator) -> Tensor(a!)",
                drop_in_place);
}

/* cdropout/torch/recorded.py defines these. */
TORCH_LIBRARY_IMPL(cdropout, CPU, library)
{
    library.impl("draw", draw);
    library.impl("apply", apply);
}

} // namespace cdropout_torch
