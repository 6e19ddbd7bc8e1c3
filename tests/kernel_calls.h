/* Kernels by number, and one function that calls any of them: for the C programs of the tests that go through all
 * kernels. Also what these programs have in common: a random generator, and bytes in a fixed order. */
#ifndef CDROPOUT_KERNEL_CALLS_H
#define CDROPOUT_KERNEL_CALLS_H

#include "../src/core/kernel_table.h"
#include "../src/core/rule.h"

#include <stdio.h>
#include <string.h>

/* The i-th table that this processor supports, the best first; NULL after the last. is_supported is called once for
 * each: under a hypervisor, it takes longer than a kernel. */
static inline const kernel_table *supported_at(size_t i)
{
    enum {
#define X(isa) ISA_##isa,
        CDROPOUT_ISAS(X)
#undef X
            N_ISAS
    };
    static const kernel_table *supported[N_ISAS + 1];
    if (supported[0] == NULL)
        for (size_t t = 0, n = 0; kernels_at(t) != NULL; t++)
            if (kernels_at(t)->is_supported())
                supported[n++] = kernels_at(t);
    return i < N_ISAS ? supported[i] : NULL;
}

/* Prints the compiler flags that change results, and returns 0, if there are any. */
static inline int is_arithmetic_unchanged(void)
{
    const char *changed = changed_arithmetic();
    if (changed != NULL)
        fprintf(stderr, "the core must be compiled without %s\n", changed);
    return changed == NULL;
}

/* A kernel's number is one of these plus an operation: an operation on a range, by keep words on many elements to each
 * position, by keep words on one (is_kernel tells which operations have the latter two). Those from FILL_KEEP on have
 * no operation or dtype. */
enum {
    RANGE = 0,
    REPEAT = N_OPERATIONS,
    WORDS = 2 * N_OPERATIONS,
    FILL_KEEP = 3 * N_OPERATIONS,
    FILL_WORDS,
    FILL_RAW,
    N_KERNELS
};

enum { INPUT_X = 1, INPUT_RESIDUAL = 2, INPUT_BIAS = 4, INPUT_WORDS = 8 };

/* The arguments of a call, except its arrays. FILL_RAW counts blocks by n_positions. */
typedef struct {
    int kernel;
    int dtype;
    uint64_t first;
    size_t n_positions;
    size_t n_repeats;
    size_t n_bias;
    size_t bias_at;
    mask_rule rule;
    double scale, shift, fill;
} kernel_call;

/* The arrays of a call; those that it does not read may be NULL. room has bytes_of_room for the seam of the bias. */
typedef struct {
    char *out;
    const char *x;
    const char *residual;
    const char *bias;
    char *room;
    const uint64_t *words;
} call_arrays;

static inline int operation_of(int kernel)
{
    return kernel % N_OPERATIONS;
}

static inline int steps_of_kernel(int kernel)
{
    return kernel >= FILL_KEEP ? WITHOUT_X : operation_table[operation_of(kernel)].steps;
}

static inline int has_repeats(int kernel)
{
    return kernel >= REPEAT && kernel < WORDS;
}

static inline int has_words(int kernel)
{
    return kernel >= WORDS && kernel < FILL_KEEP;
}

static inline int reads_words(int kernel)
{
    return has_repeats(kernel) || has_words(kernel);
}

static inline int is_kernel(int kernel)
{
    if (has_repeats(kernel))
        return operation_of(kernel) == OPERATION_apply_mask || operation_of(kernel) == OPERATION_alpha_dropout;
    return !has_words(kernel) || !(steps_of_kernel(kernel) & WITHOUT_MASK);
}

/* Marsaglia's xorshift with the shifts 13, 7, 17 (J. Stat. Soft. 8(14), 2003). */
static inline uint64_t xorshift(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Byte i of an array on a little-endian machine. */
static inline uint8_t little_endian_byte(const void *elements, size_t i, size_t elem_bytes)
{
    const uint16_t one = 1;
    const int is_little_endian = *(const uint8_t *)&one;
    return ((const uint8_t *)elements)[is_little_endian ? i : i + elem_bytes - 1 - 2 * (i % elem_bytes)];
}

static inline void store_bits(char *elem, uint64_t bits, size_t elem_bytes)
{
    const uint32_t bits32 = (uint32_t)bits;
    const uint16_t bits16 = (uint16_t)bits;
    const uint8_t bits8 = (uint8_t)bits;
    memcpy(elem,
           elem_bytes == 8   ? (const void *)&bits
           : elem_bytes == 4 ? (const void *)&bits32
           : elem_bytes == 2 ? (const void *)&bits16
                             : &bits8,
           elem_bytes);
}

enum { NAME_BYTES = 64 };

/* Writes the name, as "apply_mask_words_f32" or "fill_raw", to a buffer of NAME_BYTES and returns it. */
static inline const char *name_of_kernel(char *name, int kernel, int dtype)
{
    static const char *const without_dtype[] = {"fill_keep", "fill_words", "fill_raw"};
    if (kernel >= FILL_KEEP)
        snprintf(name, NAME_BYTES, "%s", without_dtype[kernel - FILL_KEEP]);
    else
        snprintf(name, NAME_BYTES, "%s%s_%s", operation_table[operation_of(kernel)].name,
                 has_repeats(kernel) ? "_repeat"
                 : has_words(kernel) ? "_words"
                                     : "",
                 dtype_table[dtype].name);
    return name;
}

static inline int inputs_of(int kernel)
{
    const int steps = steps_of_kernel(kernel);
    return (steps & WITHOUT_X ? 0 : INPUT_X) | (steps & WITH_BIAS ? INPUT_BIAS : 0) |
           (steps & READS_RESIDUAL ? INPUT_RESIDUAL : 0) | (reads_words(kernel) ? INPUT_WORDS : 0);
}

static inline size_t words_for(size_t n_elems)
{
    return (n_elems + ELEMS_PER_GROUP - 1) / ELEMS_PER_GROUP;
}

/* The bytes of out, and of each input that has as many elements. */
static inline size_t bytes_written(const kernel_call *call)
{
    if (call->kernel == FILL_KEEP)
        return call->n_positions;
    if (call->kernel == FILL_WORDS)
        return words_for(call->n_positions) * sizeof(uint64_t);
    if (call->kernel == FILL_RAW)
        return call->n_positions * RAW_BYTES_PER_BLOCK;
    return call->n_positions * call->n_repeats * dtype_table[call->dtype].n_bytes;
}

/* operands.bias_period: the elements of as many copies of the bias as fill a group. */
static inline size_t bias_period(const kernel_call *call)
{
    return (ELEMS_PER_GROUP + call->n_bias - 1) / call->n_bias * call->n_bias;
}

static inline size_t bytes_of_room(const kernel_call *call)
{
    const size_t n_in_room = call->n_bias < ELEMS_PER_GROUP ? bias_period(call) : ELEMS_PER_GROUP;
    return (n_in_room + ELEMS_PER_GROUP) * dtype_table[call->dtype].n_bytes;
}

/* Sets the bias of the operands and fills the room, element by element: the last group of a period and the first, and
 * before them the rest of the period if the bias is shorter than a group. */
static inline void set_bias_in_room(operands *arrays, const kernel_call *call, const call_arrays *at)
{
    const size_t elem_bytes = dtype_table[call->dtype].n_bytes, period = bias_period(call);
    const size_t n_in_room = bytes_of_room(call) / elem_bytes, n_seam = 2 * ELEMS_PER_GROUP;
    for (size_t i = 0; i < n_in_room; i++) {
        const size_t at_bias = (period + ELEMS_PER_GROUP - n_in_room + i) % call->n_bias;
        memcpy(at->room + i * elem_bytes, at->bias + at_bias * elem_bytes, elem_bytes);
    }
    arrays->bias = call->n_bias < ELEMS_PER_GROUP ? at->room : at->bias;
    arrays->bias_seam = at->room + (n_in_room - n_seam) * elem_bytes;
    arrays->bias_period = period;
    arrays->bias_at = call->bias_at % period;
}

/* Whether `out` has the alignment that the call needs for streaming stores. */
static inline int may_be_streamed(const kernel_call *call, const char *out)
{
    const int has_groups = call->kernel < REPEAT && call->kernel != OPERATION_relu_dropout_backward;
    const size_t n_to_group = has_groups ? (size_t)(-call->first % ELEMS_PER_GROUP) : 0;
    const size_t elem_bytes = dtype_table[call->dtype].n_bytes;
    return call->kernel < FILL_KEEP && ((uintptr_t)out + n_to_group * elem_bytes) % STREAM_ALIGN == 0 &&
           (!has_repeats(call->kernel) || call->n_repeats * elem_bytes % STREAM_ALIGN == 0);
}

/* Calls the kernel. Returns the name of the instruction set that it was compiled for. */
static inline const char *run_call(const kernel_table *table, int is_streamed, const kernel_call *call,
                                   const call_arrays *at)
{
    const dtype_kernels *row = table->dtype[call->dtype];
    const mask_rule *rule = &call->rule;
    const int operation = operation_of(call->kernel);
    operands arrays = {.out = at->out,
                       .x = at->x,
                       .residual = at->residual,
                       .n_repeats = call->n_repeats,
                       .scale = call->scale,
                       .shift = call->shift,
                       .fill = call->fill,
                       .is_streamed = is_streamed};
    if (inputs_of(call->kernel) & INPUT_BIAS)
        set_bias_in_room(&arrays, call, at);
    if (call->kernel == FILL_KEEP)
        return table->fill_keep((uint8_t *)at->out, rule, call->first, call->n_positions);
    if (call->kernel == FILL_WORDS)
        return table->fill_words((uint64_t *)(void *)at->out, rule, call->first, call->n_positions);
    if (call->kernel == FILL_RAW)
        return table->fill_raw((uint8_t *)at->out, &rule->key, call->first / ELEMS_PER_BLOCK, call->n_positions);
    if (has_words(call->kernel))
        return row->words(&arrays, at->words, call->n_positions, operation);
    if (has_repeats(call->kernel))
        return row->repeat(&arrays, at->words, call->n_positions, operation);
    return row->range[operation](&arrays, rule, call->first, call->n_positions);
}

#endif
