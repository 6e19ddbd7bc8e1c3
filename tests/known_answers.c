/* Runs every kernel of every instruction set that this processor has, on inputs that need no file, and prints a hash of
 * each result. tests/test_cross_compiled.py builds it for other processors, runs it under emulation, and compares what
 * it prints with the model and with this machine's own. Plain C, without Python. */
#include "../src/catalog.h"

#include <stdio.h>
#include <string.h>

enum {
    N_ELEMS = 3 * 4096 + 7,
    N_BYTES = N_ELEMS * 8,
    FIRST = 70,
    N_TO_GROUP = 2 * ELEMS_PER_GROUP - FIRST, /* elements before the first whole group */
    N_REPEATS = 72, /* more than a group, and a multiple of STREAM_ALIGN bytes in every dtype */
};

static char x[N_BYTES], residual[N_BYTES], bias[N_BYTES];
static _Alignas(STREAM_ALIGN) char out[N_BYTES + 64];
static uint8_t raw[2 * RAW_BYTES_PER_BLOCK];
static uint64_t words[N_ELEMS / 64 + 1];

/* FNV-1a of 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_of(const void *bytes, size_t n_bytes)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3u;
    return hash;
}

/* Small multiples of 1/8, which every dtype holds exactly; their bits are written by hand for the 16-bit types. */
static void set_number(char *array, int dtype, size_t i, int eighths)
{
    const float value = (float)eighths / 8;
    const double wide = value;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t bf16 = (uint16_t)(bits >> 16);
    const uint16_t f16 =
        (uint16_t)(eighths == 0 ? 0 : (bits >> 16 & 0x8000u) | (((bits >> 13) & 0x3FFFFu) - (112u << 10)));
    switch (dtype) {
    case DTYPE_f32:
        memcpy(array + 4 * i, &value, 4);
        break;
    case DTYPE_f64:
        memcpy(array + 8 * i, &wide, 8);
        break;
    case DTYPE_f16:
        memcpy(array + 2 * i, &f16, 2);
        break;
    default:
        memcpy(array + 2 * i, &bf16, 2);
        break;
    }
}

/* Fills the output with rubbish and gives it an address: for streaming stores, one from which n_bytes on lies a
 * multiple of STREAM_ALIGN; else an odd one. */
static void place(operands *arrays, int is_streaming, size_t n_bytes)
{
    memset(out, 0xA5, sizeof out);
    arrays->out = out + (is_streaming ? STREAM_ALIGN - n_bytes % STREAM_ALIGN : 3);
}

static void print_answer(const char *isa, const char *name, int is_streaming, const char *result, size_t n_bytes)
{
    printf("%s %s%s %016llx\n", isa, name, is_streaming ? "_streaming" : "",
           (unsigned long long)hash_of(result, n_bytes));
}

int main(void)
{
    static const char *const dtype_names[] = {
#define X(dtype) [DTYPE_##dtype] = #dtype,
        CDROPOUT_DTYPES(X)
#undef X
    };
    static const char *const operation_names[] = {
#define X(operation, parts) [OPERATION_##operation] = #operation,
        CDROPOUT_OPERATIONS(X)
#undef X
    };
    static const size_t elem_bytes[] = {[DTYPE_f32] = 4, [DTYPE_f64] = 8, [DTYPE_f16] = 2, [DTYPE_bf16] = 2};
    /* The key is 0123456789ABCDEF FEDCBA9876543210; P(drop) = 0.3 = (19660 + 0x99999999 / 2^32) / 2^16. */
    const mask_rule rule = {
        .key = {{0xFEDCBA9876543210u, 0x0123456789ABCDEFu}}, .threshold = 19660 - 32768, .tie_threshold = 0xCCCCCCCCu};
    for (size_t t = 0; kernels_at(t) != NULL; t++) {
        const kernel_table *kernels = kernels_at(t);
        if (!kernels->is_supported())
            continue;
        kernels->fill_raw(raw, &rule.key, ((uint64_t)1 << 32) - 1, 2);
        print_answer(kernels->isa, "raw", 0, (const char *)raw, sizeof raw);
        kernels->fill_keep((uint8_t *)out, &rule, FIRST, N_ELEMS);
        print_answer(kernels->isa, "keep", 0, out, N_ELEMS);
        kernels->fill_words(words, &rule, FIRST, N_ELEMS);
        for (size_t i = 0; i < N_ELEMS; i++)
            if ((words[i / 64] >> i % 64 & 1) != (uint64_t)out[i])
                return 1;
        for (int dtype = 0; dtype < N_DTYPES; dtype++) {
            for (size_t i = 0; i < N_ELEMS; i++) {
                set_number(x, dtype, i, (int)(i % 61) - 30);
                set_number(residual, dtype, i, (int)(i % 53) - 26);
                set_number(bias, dtype, i, (int)(i % 100) - 50);
            }
            operands arrays = {.x = x,
                               .residual = residual,
                               .bias = bias,
                               .bias_seam = bias + (100 - ELEMS_PER_GROUP) * elem_bytes[dtype],
                               .bias_period = 100,
                               .n_repeats = N_REPEATS,
                               .scale = 1.4287109375 /* 13 bits of 1 / 0.7 */,
                               .shift = 0.375,
                               .fill = -1.25};
            for (int is_streaming = 0; is_streaming < 2; is_streaming++) {
                const dtype_row *row = is_streaming ? kernels->streaming_dtype[dtype] : kernels->dtype[dtype];
                const size_t n_bytes = N_ELEMS * elem_bytes[dtype];
                char name[64];
                for (int operation = 0; operation < N_OPERATIONS; operation++) {
                    place(&arrays, is_streaming, N_TO_GROUP * elem_bytes[dtype]);
                    row->operation[operation](&arrays, &rule, FIRST, N_ELEMS);
                    snprintf(name, sizeof name, "%s_%s", operation_names[operation], dtype_names[dtype]);
                    print_answer(kernels->isa, name, is_streaming, arrays.out, n_bytes);
                }
                for (int is_alpha = 0; is_alpha < 2; is_alpha++) {
                    place(&arrays, is_streaming, 0);
                    (is_alpha ? row->alpha_dropout_words : row->apply_mask_words)(&arrays, words, N_ELEMS);
                    snprintf(name, sizeof name, "%swords_%s", is_alpha ? "alpha_" : "", dtype_names[dtype]);
                    print_answer(kernels->isa, name, is_streaming, arrays.out, n_bytes);
                    place(&arrays, is_streaming, 0);
                    (is_alpha ? row->alpha_dropout_repeat : row->apply_mask_repeat)(&arrays, &rule, FIRST,
                                                                                    N_ELEMS / N_REPEATS);
                    snprintf(name, sizeof name, "%srepeat_%s", is_alpha ? "alpha_" : "", dtype_names[dtype]);
                    print_answer(kernels->isa, name, is_streaming, arrays.out,
                                 N_ELEMS / N_REPEATS * N_REPEATS * elem_bytes[dtype]);
                }
                for (int is_factor = 0; is_factor < 2; is_factor++) {
                    place(&arrays, is_streaming, N_TO_GROUP * elem_bytes[dtype]);
                    (is_factor ? row->multiply_by_noise : row->add_noise)(&arrays, &rule.key, FIRST, N_ELEMS);
                    snprintf(name, sizeof name, "%s_noise_%s", is_factor ? "multiply" : "add", dtype_names[dtype]);
                    print_answer(kernels->isa, name, is_streaming, arrays.out, n_bytes);
                }
                place(&arrays, is_streaming, 0);
                row->scale_where_positive(&arrays, N_ELEMS);
                snprintf(name, sizeof name, "positive_%s", dtype_names[dtype]);
                print_answer(kernels->isa, name, is_streaming, arrays.out, n_bytes);
            }
        }
    }
    return 0;
}
