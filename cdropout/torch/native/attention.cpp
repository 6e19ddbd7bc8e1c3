/* Attention with dropout of its weights as an operator that autograd differentiates in C++. cdropout/torch/attention.py
 * calls `cdropout::attention` for arguments that this file takes, and is the reference that tests compare it with. */
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/saved_variable.h>
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

/* What a call and its backward pass share, beside the tensors. */
struct Options {
    cdropout_key key;
    double p, scale;
    bool is_causal;
};

Rows rows_of(const Tensor &tensor)
{
    return {static_cast<char *>(tensor.data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

/* The kernels find the features of a row in neighbouring memory. */
Tensor with_dense_rows(const Tensor &tensor)
{
    return tensor.stride(-1) == 1 || tensor.size(-1) == 1 ? tensor : tensor.contiguous();
}

Attention task_of(const Tensor &query, const Tensor &key, const Tensor &value, const Tensor &bias, const Tensor &out,
                  const Tensor &log_sum, const Options &options)
{
    Attention task{};
    task.n_batch = query.size(0);
    task.n_heads = query.size(1);
    task.n_key_heads = key.size(1);
    task.n_rows = query.size(2);
    task.n_keys = key.size(2);
    task.width = query.size(3);
    task.value_width = value.size(3);
    task.is_causal = options.is_causal;
    task.scale = options.scale;
    task.dtype = query.scalar_type();
    functions().define_mask(&task.mask, &options.key, 0, options.p);
    task.query = rows_of(query);
    task.key = rows_of(key);
    task.value = rows_of(value);
    task.out = rows_of(out);
    if (bias.defined()) {
        const Tensor added = bias.expand({task.n_batch, task.n_heads, task.n_rows, task.n_keys});
        task.bias = {static_cast<const char *>(added.const_data_ptr()), added.scalar_type(), added.stride(0),
                     added.stride(1), added.stride(2), added.stride(3)};
    }
    task.log_sum = log_sum.data_ptr();
    return task;
}

/* Return out and the logarithms of the sums of exponentials. */
std::pair<Tensor, Tensor> forward(const Tensor &query, const Tensor &key, const Tensor &value, const Tensor &bias,
                                  const Options &options)
{
    const bool is_double = query.scalar_type() == at::kDouble;
    /* Heads of a row are neighbours, as PyTorch's kernel returns them: networks join them next. */
    const Tensor out =
        at::empty({query.size(0), query.size(2), query.size(1), value.size(3)}, query.options()).transpose(1, 2);
    const Tensor log_sum = at::empty({query.size(0), query.size(1), query.size(2)},
                                     query.options().dtype(is_double ? at::kDouble : at::kFloat));
    const Attention task = task_of(query, key, value, bias, out, log_sum, options);
    const AttentionKernels &kernels = attention_kernels(task.dtype);
    const int64_t n_blocks = (task.n_rows + kernels.rows_at_once - 1) / kernels.rows_at_once;
    at::parallel_for(0, task.n_batch * task.n_heads * n_blocks, 1,
                     [&](int64_t begin, int64_t end) { kernels.forward(task, begin, end); });
    return {out, log_sum};
}

autograd::variable_list backward(const Tensor &dout, const Tensor &query, const Tensor &key, const Tensor &value,
                                 const Tensor &bias, const Tensor &out, const Tensor &log_sum, const Options &options)
{
    const Tensor dense_dout = with_dense_rows(dout);
    const autograd::variable_list found = {at::empty_like(query), at::empty_like(key), at::empty_like(value)};
    Attention task = task_of(query, key, value, bias, out, log_sum, options);
    task.dout = rows_of(dense_dout);
    task.dquery = rows_of(found[0]);
    task.dkey = rows_of(found[1]);
    task.dvalue = rows_of(found[2]);
    const AttentionKernels &kernels = attention_kernels(task.dtype);
    const int64_t n_blocks = (task.n_rows + kernels.rows_at_once - 1) / kernels.rows_at_once;
    const int64_t n_groups = task.n_batch * task.n_key_heads, n_threads = at::get_num_threads();
    const int64_t n_row_blocks = n_blocks * (task.n_heads / task.n_key_heads);
    task.n_parts = 1;
    if (n_groups % n_threads != 0 && n_groups < 4 * n_threads)
        task.n_parts = std::min(n_row_blocks, (2 * n_threads + n_groups - 1) / n_groups);
    Tensor partial;
    if (task.n_parts > 1) {
        partial = at::empty({n_groups, task.n_parts, kernels.n_sum_elems(task)}, log_sum.options());
        task.partial = partial.data_ptr();
    }
    at::parallel_for(0, n_groups * task.n_parts, 1,
                     [&](int64_t begin, int64_t end) { kernels.backward(task, begin, end); });
    if (task.n_parts > 1)
        at::parallel_for(0, n_groups, 1, [&](int64_t begin, int64_t end) { kernels.add_parts(task, begin, end); });
    return found;
}

/* Call Python, which computes all weights by PyTorch's operators: for second derivatives, and for gradients that are
 * batched or recorded. */
autograd::variable_list backward_by_operators(const Tensor &dout, const Tensor &query, const Tensor &key,
                                              const Tensor &value, const Tensor &bias, const Options &options)
{
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("cdropout::attention_backward", "")
            .typed<std::vector<Tensor>(const Tensor &, const Tensor &, const Tensor &, const Tensor &,
                                       const std::optional<Tensor> &, int64_t, int64_t, double, bool, double)>();
    const std::optional<Tensor> given = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
    return op.call(dout, query, key, value, given, static_cast<int64_t>(options.key.word[0]),
                   static_cast<int64_t>(options.key.word[1]), options.p, options.is_causal, options.scale);
}

/* The gradients of query, key and value. The node keeps the mask as a value. */
struct CdropoutAttentionBackward : autograd::Node {
    autograd::SavedVariable query, key, value, bias, out, log_sum;
    Options options;
    bool has_bias = false;

    autograd::variable_list apply(autograd::variable_list &&grads) override
    {
        const std::scoped_lock<std::mutex> lock(mutex_);
        const Tensor &dout = grads[0];
        if (!dout.defined())
            return {Tensor(), Tensor(), Tensor()};
        const Tensor q = query.unpack(), k = key.unpack(), v = value.unpack();
        const Tensor added = has_bias ? bias.unpack() : Tensor();
        if (at::GradMode::is_enabled() || is_intercepted() || !is_plain(dout))
            return backward_by_operators(dout, q, k, v, added, options);
        const at::AutoDispatchBelowADInplaceOrView below;
        return backward(dout, q, k, v, added, out.unpack(), log_sum.unpack(), options);
    }

    void release_variables() override
    {
        const std::scoped_lock<std::mutex> lock(mutex_);
        for (autograd::SavedVariable *saved : {&query, &key, &value, &bias, &out, &log_sum})
            saved->reset_data();
    }

    std::string name() const override
    {
        return "CdropoutAttentionBackward";
    }
};

/* PyTorch 2.13 counts references to nodes in the node. */
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13)
using NodePointer = c10::intrusive_ptr<CdropoutAttentionBackward>;
NodePointer new_node()
{
    return c10::make_intrusive<CdropoutAttentionBackward>();
}
#else
using NodePointer = std::shared_ptr<CdropoutAttentionBackward>;
NodePointer new_node()
{
    return {new CdropoutAttentionBackward(), autograd::deleteNode};
}
#endif

/* Whether the shapes are (batch, heads, rows, features) and match; with groups, heads of query share those of key. */
bool has_matching_shapes(const Tensor &query, const Tensor &key, const Tensor &value, bool enable_gqa)
{
    if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4)
        return false;
    if (query.numel() == 0 || key.numel() == 0 || value.numel() == 0 || query.scalar_type() != key.scalar_type() ||
        query.scalar_type() != value.scalar_type())
        return false;
    const bool has_heads = enable_gqa ? query.size(1) % key.size(1) == 0 : query.size(1) == key.size(1);
    return has_heads && key.size(1) == value.size(1) && query.size(0) == key.size(0) &&
           query.size(0) == value.size(0) && query.size(3) == key.size(3) && key.size(2) == value.size(2);
}

/* Whether the bias broadcasts to the scores, and is a constant in memory. */
bool is_constant_bias(const Tensor &bias, const Tensor &query, const Tensor &key)
{
    if (bias.scalar_type() != at::kBool && bias.scalar_type() != at::kFloat &&
        bias.scalar_type() != query.scalar_type())
        return false;
    if (!bias.is_cpu() || bias.layout() != at::kStrided || bias.is_neg() || !bias.has_storage() || bias.dim() > 4 ||
        bias.requires_grad())
        return false;
    const int64_t scores[] = {query.size(0), query.size(1), query.size(2), key.size(2)};
    for (int64_t axis = 1; axis <= bias.dim(); axis++)
        if (bias.size(-axis) != 1 && bias.size(-axis) != scores[4 - axis])
            return false;
    return true;
}

/* Return whether `attention` takes the arguments; query, key and value are plain. */
bool fits(const Tensor &query, const Tensor &key, const Tensor &value, const std::optional<Tensor> &bias,
          bool is_causal, bool enable_gqa)
{
    if (!has_matching_shapes(query, key, value, enable_gqa))
        return false;
    return !bias.has_value() || !bias->defined() || (!is_causal && is_constant_bias(*bias, query, key));
}

Tensor attention(const Tensor &query, const Tensor &key, const Tensor &value, const std::optional<Tensor> &bias,
                 double p, bool is_causal, std::optional<double> scale, bool enable_gqa,
                 const std::optional<at::Generator> &generator)
{
    TORCH_CHECK(p >= 0.0 && p <= 1.0, "p must be in [0, 1], got ", p);
    TORCH_CHECK(is_plain(query) && is_plain(key) && is_plain(value) &&
                    fits(query, key, value, bias, is_causal, enable_gqa),
                "query, key, value and bias must be dense CPU tensors (batch, heads, rows, features) that match");
    RECORD_FUNCTION("cdropout::masked", std::vector<c10::IValue>());
    const Tensor q = with_dense_rows(query), k = with_dense_rows(key), v = with_dense_rows(value);
    const Tensor added = bias.has_value() ? *bias : Tensor();
    const Options options{draw_key(generator), p,
                          scale.has_value() ? *scale : 1.0 / std::sqrt(static_cast<double>(q.size(3))), is_causal};
    Tensor out, log_sum;
    {
        const at::AutoDispatchBelowADInplaceOrView below;
        std::tie(out, log_sum) = forward(q, k, v, added, options);
    }
    if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
        const NodePointer node = new_node();
        node->options = options;
        node->query = autograd::SavedVariable(q, false);
        node->key = autograd::SavedVariable(k, false);
        node->value = autograd::SavedVariable(v, false);
        node->has_bias = added.defined();
        node->bias = autograd::SavedVariable(added, false);
        node->log_sum = autograd::SavedVariable(log_sum, false);
        /* An alias without history: the output itself would keep the node alive that keeps it. Both notice if the
         * program writes to the output. */
        node->out = autograd::SavedVariable(out.detach(), false);
        node->set_next_edges(autograd::collect_next_edges(q, k, v));
        autograd::set_history(out, node);
    }
    return out;
}

} // namespace

std::optional<Tensor> attend(const Tensor &query, const Tensor &key, const Tensor &value,
                             const std::optional<Tensor> &bias, double p, bool is_causal, std::optional<double> scale,
                             bool enable_gqa)
{
    if (!fits(query, key, value, bias, is_causal, enable_gqa) || autograd::isFwGradDefined(key) ||
        autograd::isFwGradDefined(value))
        return std::nullopt;
    /* By way of the dispatcher, so that profilers show it. */
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("cdropout::attention", "")
            .typed<Tensor(const Tensor &, const Tensor &, const Tensor &, const std::optional<Tensor> &, double, bool,
                          std::optional<double>, bool, const std::optional<at::Generator> &)>();
    return op.call(query, key, value, bias, p, is_causal, scale, enable_gqa, std::nullopt);
}

TORCH_LIBRARY_FRAGMENT(cdropout, library)
{
    library.def("attention(Tensor query, Tensor key, Tensor value, Tensor? bias, float p, bool is_causal, float? scale, "
                "bool enable_gqa, Generator? generator) -> Tensor",
                attention);
    library.def("attention_fits(Tensor query, Tensor key, Tensor value, Tensor? bias, bool is_causal, bool enable_gqa) "
                "-> bool",
                fits);
}

} // namespace cdropout_torch
