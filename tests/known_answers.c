/* Runs every kernel of every instruction set that this processor has, on inputs that need no file, and prints a hash of
 * each result. tests/test_cross_compiled.py builds it for other processors, runs it under emulation, and compares what
 * it prints with the model and with this machine's own. Plain C, without Python. */
#include "../src/catalog.h"

#include <stdio.h>
#include <string.h>

enum { N_ELEMS = 3 * 4096 + 7, N_BYTES = N_ELEMS * 8, FIRST = 70 };

static char x[N_BYTES], residual[N_BYTES], bias[N_BYTES], out[N_BYTES + 64];
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
        printf("%s raw %016llx\n", kernels->isa, (unsigned long long)hash_of(raw, sizeof raw));
        kernels->fill_keep((uint8_t *)out, &rule, FIRST, N_ELEMS);
        printf("%s keep %016llx\n", kernels->isa, (unsigned long long)hash_of(out, N_ELEMS));
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
            operands arrays = {.out = out + 4,
                               .x = x,
                               .residual = residual,
                               .bias = bias,
                               .bias_period = 100,
                               .n_repeats = 1,
                               .scale = 1.4287109375 /* 13 bits of 1 / 0.7 */};
            const size_t n_bytes = N_ELEMS * elem_bytes[dtype];
            for (int operation = 0; operation < N_OPERATIONS; operation++)
                for (int is_streamed = 0; is_streamed < 2; is_streamed++) {
                    memset(out, 0xA5, sizeof out);
                    if (is_streamed)
                        kernels->stream_range(kernels->dtype[dtype]->operation[operation], &arrays, &rule, FIRST,
                                              N_ELEMS, elem_bytes[dtype]);
                    else
                        kernels->dtype[dtype]->operation[operation](&arrays, &rule, FIRST, N_ELEMS);
                    printf("%s %s_%s%s %016llx\n", kernels->isa, operation_names[operation], dtype_names[dtype],
                           is_streamed ? "_streamed" : "", (unsigned long long)hash_of(out + 4, n_bytes));
                }
            kernels->dtype[dtype]->apply_words(&arrays, words, N_ELEMS);
            printf("%s words_%s %016llx\n", kernels->isa, dtype_names[dtype],
                   (unsigned long long)hash_of(out + 4, n_bytes));
            kernels->dtype[dtype]->scale_where_positive(&arrays, N_ELEMS);
            printf("%s positive_%s %016llx\n", kernels->isa, dtype_names[dtype],
                   (unsigned long long)hash_of(out + 4, n_bytes));
            arrays.n_repeats = 66;
            kernels->dtype[dtype]->apply_mask_repeat(&arrays, &rule, FIRST, N_ELEMS / 66);
            printf("%s repeat_%s %016llx\n", kernels->isa, dtype_names[dtype],
                   (unsigned long long)hash_of(out + 4, N_ELEMS / 66 * 66 * elem_bytes[dtype]));
        }
    }
    return 0;
}
