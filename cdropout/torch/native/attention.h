/* Attention with dropout of its weights: what attention.cpp asks of its kernels. */
#ifndef CDROPOUT_TORCH_ATTENTION_H
#define CDROPOUT_TORCH_ATTENTION_H

#include "kernels.h"

namespace cdropout_torch
{

/* A tensor (batch, heads, rows, features) whose features are neighbours in memory; strides are in elements. */
struct Rows {
    char *data;
    int64_t batch, head, row;
};

/* A tensor that is added to the scores, expanded to (batch, heads, rows, keys). bool: true for the keys to use. */
struct Bias {
    const char *data; /* null if there is none */
    at::ScalarType dtype;
    int64_t batch, head, row, key;
};

/* out = drop(softmax(scale query key^T + bias)) value. Heads of query share a head of key and value in turn: head h uses
 * head h / (n_heads / n_key_heads). Element (batch, head, row, key) of the weights takes a position of the mask, in C
 * order. */
struct Attention {
    int64_t n_batch, n_heads, n_key_heads, n_rows, n_keys, width, value_width;
    bool is_causal; /* row i uses keys 0 to i */
    double scale;
    at::ScalarType dtype;
    cdropout_mask mask;
    Rows query, key, value, out;
    Bias bias;
    void *log_sum; /* (batch, heads, rows), float32 or float64: log2 of the sum of exponentials; inf without keys */
    /* for the backward pass */
    Rows dout, dquery, dkey, dvalue;
    int64_t n_parts; /* of the rows of a head of key, in separate tasks; with more than 1, sums are in `partial` */
    void *partial;   /* (batch, key heads, parts, n_sum_elems), float32 or float64 */
};

/* The kernels of one instruction set and one floating type for sums, float or double. */
struct AttentionKernels {
    int64_t rows_at_once;
    /* Elements of the partial sums of dkey and dvalue of one task. */
    int64_t (*n_sum_elems)(const Attention &);
    /* Tasks are (batch, head, block of rows_at_once rows). */
    void (*forward)(const Attention &, int64_t first_task, int64_t end_task);
    /* Tasks are (batch, key head, part). Computes dquery, and dkey and dvalue or their partial sums. */
    void (*backward)(const Attention &, int64_t first_task, int64_t end_task);
    /* Tasks are (batch, key head): adds the partial sums. */
    void (*add_parts)(const Attention &, int64_t first_task, int64_t end_task);
};

/* The kernels for the processor and the dtype of the tensors. */
const AttentionKernels &attention_kernels(at::ScalarType dtype);

/* Return the attention with a new mask, recorded for autograd, or nothing if Python computes it. query, key and value
 * are plain, and nothing intercepts. */
std::optional<Tensor> attend(const Tensor &query, const Tensor &key, const Tensor &value,
                             const std::optional<Tensor> &bias, double p, bool is_causal, std::optional<double> scale,
                             bool enable_gqa);

} // namespace cdropout_torch

#endif
