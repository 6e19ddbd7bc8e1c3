/* This library's dropout behind PyTorch's own operators, for cdropout/torch/switch.py. While the switch is on, these
 * functions are the kernels of aten::dropout and its relatives for tensors on the CPU, with and without autograd; what
 * they do not take, they pass to PyTorch's implementation. */
#include "attention.h"
#include "dropout.h"

#include <atomic>
#include <memory>
#include <mutex>

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/alpha_dropout_native.h>
#include <ATen/ops/bernoulli_native.h>
#include <ATen/ops/dropout_native.h>
#include <ATen/ops/feature_alpha_dropout_native.h>
#include <ATen/ops/feature_dropout_native.h>
#include <ATen/ops/native_dropout.h>
#include <ATen/ops/scaled_dot_product_attention_native.h>
#include <ATen/record_function.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

namespace cdropout_torch
{

namespace
{

/* What is on. The kernels stay registered after the first time, because calls of other threads read the dispatcher's
 * table while it changes; when they are off, they pass everything to PyTorch's implementation. */
std::atomic<bool> dropout_is_on{false}, bernoulli_is_on{false};
thread_local int n_entered = 0; /* blocks of this thread in which both are on */

bool is_dropout_ours()
{
    return dropout_is_on.load(std::memory_order_relaxed) || n_entered > 0;
}

/* Whether a compiler records operators now. It gets `cdropout::draw`; other modes get PyTorch's operators, which they
 * may know by name. */
bool is_compiled()
{
    using c10::impl::TorchDispatchModeKey;
    using c10::impl::TorchDispatchModeTLS;
    return TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::PROXY).has_value() ||
           TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FUNCTIONAL).has_value();
}

/* Call an operator that Python defines. */
Tensor recorded(const Tensor &x, double p, bool is_alpha, uint64_t shared_axes)
{
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("cdropout::record", "")
                               .typed<Tensor(const Tensor &, double, at::IntArrayRef, bool)>();
    std::vector<int64_t> axes;
    for (int64_t axis = 0; axis < x.dim(); axis++)
        if (shared_axes >> axis & 1)
            axes.push_back(axis);
    return op.call(x, p, axes, is_alpha);
}

bool is_recorded(const Tensor &x, double p, bool train)
{
    return train && p > 0.0 && p <= 1.0 && is_compiled() && x.is_cpu() && dtype_of(x) >= 0;
}

/* What compilers record for aten::dropout where no kernel of ours is registered (torch/_decomp/decompositions.py). */
Tensor decomposed_dropout(const Tensor &x, double p, bool train)
{
    return train && p != 0.0 ? std::get<0>(at::native_dropout(x, p, train)) : x.clone();
}

template <bool is_alpha, bool is_feature, Tensor (*of_torch)(const Tensor &, double, bool)>
Tensor dropout(const Tensor &x, double p, bool train)
{
    if (is_dropout_ours() && (!is_feature || x.dim() >= 2)) {
        const uint64_t shared_axes = is_feature ? axes_from(2, x.dim()) : 0;
        if (train && is_ours(x, p))
            return with_mask(x, new_map(p, is_alpha, shared_axes, std::nullopt));
        if (is_recorded(x, p, train))
            return recorded(x, p, is_alpha, shared_axes);
    }
    if (!is_alpha && !is_feature && is_compiled())
        return decomposed_dropout(x, p, train);
    return of_torch(x, p, train);
}

template <bool is_alpha, bool is_feature, Tensor &(*of_torch)(Tensor &, double, bool)>
Tensor &dropout_in_place(Tensor &x, double p, bool train)
{
    if (is_dropout_ours() && (!is_feature || x.dim() >= 2)) {
        const uint64_t shared_axes = is_feature ? axes_from(2, x.dim()) : 0;
        if (train && is_ours(x, p)) {
            mask_in_place(x, new_map(p, is_alpha, shared_axes, std::nullopt));
            return x;
        }
        if (is_recorded(x, p, train))
            return x.copy_(recorded(x, p, is_alpha, shared_axes));
    }
    return of_torch(x, p, train);
}

Tensor attention(const Tensor &query, const Tensor &key, const Tensor &value, const std::optional<Tensor> &attn_mask,
                 double dropout_p, bool is_causal, std::optional<double> scale, bool enable_gqa)
{
    if (is_dropout_ours() && dropout_p > 0.0 && is_ours(query, dropout_p) && is_plain(key) && is_plain(value)) {
        if (const std::optional<Tensor> out =
                attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa))
            return *out;
        static const auto op =
            c10::Dispatcher::singleton()
                .findSchemaOrThrow("cdropout::attend", "")
                .typed<std::vector<Tensor>(const Tensor &, const Tensor &, const Tensor &,
                                           const std::optional<Tensor> &, double, bool, std::optional<double>, bool)>();
        const std::vector<Tensor> found =
            op.call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa);
        if (!found.empty())
            return found[0];
    }
    return at::native::scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale,
                                                    enable_gqa);
}

/* Write 1 with probability p and 0 otherwise. */
Tensor &bernoulli_in_place(Tensor &out, double p, std::optional<at::Generator> generator)
{
    const at::ScalarType dtype = out.scalar_type();
    const bool is_float = dtype_of(out) >= 0;
    if (!(bernoulli_is_on || n_entered > 0) || !(p >= 0.0 && p <= 1.0) || out.numel() == 0 ||
        !(is_float || at::isIntegralType(dtype, /*includeBool=*/true)))
        return at::native::bernoulli_(out, p, std::move(generator));
    RECORD_FUNCTION("cdropout::masked", std::vector<c10::IValue>());
    MaskMap map = new_map(1.0 - p, false, 0, generator);
    map.scale = 1.0;
    if (is_float && out.is_contiguous()) {
        fill_factor(map, out);
        return out;
    }
    return out.copy_(is_float ? factor_of(map, out.sizes(), dtype) : keep_of(map, out.sizes()));
}

struct Silent : c10::WarningHandler {
    void process(const c10::Warning &) override
    {
    }
};

std::mutex switch_mutex;
std::vector<std::unique_ptr<torch::Library>> dropout_kernels, bernoulli_kernels; /* empty until the first time */

std::unique_ptr<torch::Library> kernels_of(c10::DispatchKey key)
{
    return std::make_unique<torch::Library>(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
}

/* Register kernels that pass everything on until they are switched on. */
void register_dropout()
{
    const std::scoped_lock<std::mutex> lock(switch_mutex);
    if (!dropout_kernels.empty())
        return;
    /* Autograd's first: with a kernel for the CPU alone, PyTorch would not differentiate the operator. */
    for (const auto key : {c10::DispatchKey::AutogradCPU, c10::DispatchKey::CPU}) {
        auto library = kernels_of(key);
        library->impl("dropout", dropout<false, false, at::native::dropout>);
        library->impl("dropout_", dropout_in_place<false, false, at::native::dropout_>);
        library->impl("feature_dropout", dropout<false, true, at::native::feature_dropout>);
        library->impl("feature_dropout_", dropout_in_place<false, true, at::native::feature_dropout_>);
        library->impl("alpha_dropout", dropout<true, false, at::native::alpha_dropout>);
        library->impl("alpha_dropout_", dropout_in_place<true, false, at::native::alpha_dropout_>);
        library->impl("feature_alpha_dropout", dropout<true, true, at::native::feature_alpha_dropout>);
        library->impl("feature_alpha_dropout_", dropout_in_place<true, true, at::native::feature_alpha_dropout_>);
        library->impl("scaled_dot_product_attention", attention);
        dropout_kernels.push_back(std::move(library));
    }
}

void register_bernoulli()
{
    const std::scoped_lock<std::mutex> lock(switch_mutex);
    if (!bernoulli_kernels.empty())
        return;
    /* PyTorch has a kernel for this key, and would warn that it is replaced. */
    Silent silent;
    const c10::WarningUtils::WarningHandlerGuard guard(&silent);
    auto library = kernels_of(c10::DispatchKey::CPU);
    library->impl("bernoulli_.float", bernoulli_in_place);
    bernoulli_kernels.push_back(std::move(library));
}

void switch_dropout(bool on)
{
    if (on)
        register_dropout();
    dropout_is_on = on;
}

void switch_bernoulli(bool on)
{
    if (on)
        register_bernoulli();
    bernoulli_is_on = on;
}

void enter()
{
    n_entered++;
}

void leave()
{
    n_entered--;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(cdropout, library)
{
    library.def("switch_dropout(bool on) -> ()", switch_dropout);
    library.def("switch_bernoulli(bool on) -> ()", switch_bernoulli);
    library.def("register_dropout() -> ()", register_dropout);
    library.def("register_bernoulli() -> ()", register_bernoulli);
    library.def("enter_native() -> ()", enter);
    library.def("leave_native() -> ()", leave);
}

} // namespace cdropout_torch
