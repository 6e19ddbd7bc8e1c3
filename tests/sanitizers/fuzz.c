/* Any bytes as a call of a kernel: its dtype, operation, positions, probability, bias, repeats, alignments and
 * elements. Every instruction set must give what the portable kernels give, byte for byte, and leave the canaries
 * around its output as they were. Inputs and room are blocks of exactly the right size, for AddressSanitizer and
 * valgrind.
 *
 * With -DONE_TOO_MANY the kernels are told of one element more than there is, which whoever watches must see.
 * With -fsanitize=fuzzer this is libFuzzer's target; with -DSTANDALONE a program that takes the number of random
 * inputs to go through and the number of the first. tests/sanitizers/memory runs it. */
#include "../kernel_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ELEMS = 9000, N_CANARIES = 80, CANARY = 0xA5 };

/* What is left of the input; where it has ended, zeros follow. */
typedef struct {
    const uint8_t *at;
    size_t n_left;
} bytes;

static uint64_t take(bytes *input, size_t n_bytes)
{
    uint64_t number = 0;
    for (size_t i = 0; i < n_bytes && input->n_left > 0; i++, input->n_left--)
        number = number << 8 | *input->at++;
    return number;
}

/* The numbers that a caller may pass: all but NaN and infinity. */
static double take_finite(bytes *input)
{
    const uint64_t number = take(input, 8);
    double value;
    memcpy(&value, &number, sizeof value);
    return isfinite(value) ? value : 1.25;
}

static double take_p(bytes *input)
{
    const uint64_t number = take(input, 8);
    double p;
    memcpy(&p, &number, sizeof p);
    if (p >= 0.0 && p <= 1.0)
        return p;
    return number % 8 == 0 ? 1.0 : (double)(number >> 11) * 0x1p-53;
}

static kernel_call take_call(bytes *input)
{
    kernel_call call = {.kernel = (int)(take(input, 1) % N_KERNELS), .dtype = (int)(take(input, 1) % N_DTYPES)};
    size_t n_elems = (size_t)(take(input, 1) % 4 ? take(input, 1) : take(input, 2) % MOST_ELEMS);
    /* Near the beginning, anywhere, and in the last block, which a stream does not use. */
    const uint64_t first = take(input, 8), near = take(input, 1) % 3;
    call.first = near == 0 ? first % 10000 : near == 1 ? first : UINT64_MAX - 2 * MOST_ELEMS - first % 10000;
    if (call.first > UINT64_MAX - 2 * MOST_ELEMS)
        call.first = UINT64_MAX - 2 * MOST_ELEMS;
    call.rule.key.word[0] = take(input, 8);
    call.rule.key.word[1] = take(input, 8);
    set_threshold(&call.rule, take_p(input));
    call.scale = scale_in(call.dtype, take_finite(input));
    call.shift = take_finite(input);
    call.fill = take_finite(input);
    if (call.kernel == MULTIPLY_BY_NOISE || call.kernel == ADD_NOISE)
        call.scale = fabs(call.scale) <= MAX_STD ? fabs(call.scale) : 0.5;
    call.n_bias = 1 + (size_t)take(input, 2) % 700;
    call.bias_at = (size_t)take(input, 2);
    call.n_repeats = 1;
    if (call.kernel == FILL_RAW)
        n_elems %= 4;
    if (repeats(call.kernel)) {
        call.n_repeats = 1 + (size_t)take(input, 2) % 3000;
        n_elems = n_elems / call.n_repeats;
    }
    call.n_positions = n_elems;
    return call;
}

/* ---- arrays ---- */

/* A block of memory whose last byte is the array's last; it begins where the array is as misaligned as was asked. */
typedef struct {
    char *block;
    char *array;
} held;

static held hold(size_t n_bytes, size_t misalignment)
{
    held made = {.block = malloc(n_bytes + misalignment + 1)};
    if (made.block == NULL)
        abort();
    char *exact = realloc(made.block, n_bytes + misalignment > 0 ? n_bytes + misalignment : 1);
    if (exact == NULL)
        abort();
    made.block = exact;
    made.array = made.block + misalignment;
    return made;
}

/* The input's bytes over and over, each time changed, so that short inputs have elements too. */
static held hold_elements(bytes *input, size_t n_bytes, size_t misalignment)
{
    held made = hold(n_bytes, misalignment);
    const size_t n_given = input->n_left < 256 ? input->n_left : 256;
    for (size_t i = 0; i < n_bytes; i++)
        made.array[i] = (char)(n_given > 0 ? input->at[i % n_given] + i / n_given * 29 : i * 37);
    return made;
}

/* ---- comparison ---- */

static int is_nan(const char *elem, int dtype)
{
    uint16_t bits16;
    uint32_t bits32;
    uint64_t bits64;
    switch (dtype) {
    case DTYPE_f64:
        memcpy(&bits64, elem, 8);
        return (bits64 & ~((uint64_t)1 << 63)) > (uint64_t)0x7FF << 52;
    case DTYPE_f32:
        memcpy(&bits32, elem, 4);
        return (bits32 & 0x7FFFFFFFu) > 0x7F800000u;
    default:
        memcpy(&bits16, elem, 2);
        return (bits16 & 0x7FFFu) > (dtype == DTYPE_f16 ? 0x7C00u : 0x7F80u);
    }
}

/* A sum or product of NaNs is a NaN, and IEEE 754 does not say which. */
static int same_result(const kernel_call *call, const char *a, const char *b)
{
    const size_t n_bytes = bytes_written(call), elem_bytes = bytes_of_dtype(call->dtype);
    if (memcmp(a, b, n_bytes) == 0)
        return 1;
    if (call->kernel >= FILL_KEEP || call->kernel == OPERATION_choose)
        return 0;
    for (size_t i = 0; i < n_bytes; i += elem_bytes)
        if (memcmp(a + i, b + i, elem_bytes) != 0 && !(is_nan(a + i, call->dtype) && is_nan(b + i, call->dtype)))
            return 0;
    return 1;
}

static void end_with(const char *what, const char *isa, int is_streaming, const kernel_call *call)
{
    fprintf(stderr, "%s%s %s_%s %s: %zu positions of %zu from %llu\n", isa, is_streaming ? " streaming" : "",
            kernel_names[call->kernel], dtype_names[call->dtype], what, call->n_positions, call->n_repeats,
            (unsigned long long)call->first);
    abort();
}

static void check_table(const kernel_table *table, const kernel_call *call, const places *at, const char *expected)
{
    const size_t n_bytes = bytes_written(call);
    for (int is_streaming = 0; is_streaming < 2; is_streaming++) {
        if (is_streaming && !streams(call, at->out))
            continue;
        memset(at->out - N_CANARIES, CANARY, n_bytes + 2 * N_CANARIES);
        kernel_call told = *call;
#ifdef ONE_TOO_MANY
        told.n_positions++;
#endif
        run_call(table, is_streaming, &told, at);
        for (size_t i = 0; i < N_CANARIES; i++)
            if ((uint8_t)at->out[-1 - (ptrdiff_t)i] != CANARY || (uint8_t)at->out[n_bytes + i] != CANARY)
                end_with("wrote outside its output", table->isa, is_streaming, call);
        if (!same_result(call, at->out, expected))
            end_with("gave another result than portable", table->isa, is_streaming, call);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes_given)
{
    bytes input = {data, n_bytes_given};
    const kernel_call call = take_call(&input);
    const size_t n_bytes = bytes_written(&call), elem_bytes = bytes_of_dtype(call.dtype);
    const size_t misalignment = (size_t)take(&input, 1) % 64;
    const size_t out_misalignment = call.kernel == FILL_WORDS ? misalignment / 8 * 8 : misalignment;
    const held x = hold_elements(&input, n_bytes, (size_t)take(&input, 1) % 64);
    const held residual = hold_elements(&input, n_bytes, (size_t)take(&input, 1) % 64);
    const held bias = hold_elements(&input, call.n_bias * elem_bytes, (size_t)take(&input, 1) % 64);
    const held words = hold_elements(&input, words_for(call.n_positions) * sizeof(uint64_t), 0);
    const held room = hold(bytes_of_room(&call), 0);
    const held expected = hold(n_bytes, 0);
    const held out = hold(n_bytes + 2 * N_CANARIES, out_misalignment);
    places at = {.out = expected.array,
                 .x = x.array,
                 .residual = residual.array,
                 .bias = bias.array,
                 .room = room.array,
                 .words = (const uint64_t *)(const void *)words.array};
    run_call(&kernels_portable, 0, &call, &at);
    at.out = out.array + N_CANARIES;
    for (size_t t = 0; kernels_at(t) != NULL; t++)
        if (kernels_at(t)->is_supported())
            check_table(kernels_at(t), &call, &at, expected.array);
    const held all[] = {x, residual, bias, words, room, expected, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
    return 0;
}

#ifdef STANDALONE
/* Marsaglia's xorshift with the shifts 13, 7, 17 (J. Stat. Soft. 8(14), 2003). */
static uint64_t xorshift(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int main(int n_arguments, char **arguments)
{
    const size_t n_inputs = n_arguments > 1 ? strtoull(arguments[1], NULL, 10) : 1000;
    const size_t first = n_arguments > 2 ? strtoull(arguments[2], NULL, 10) : 0;
    for (size_t i = first; i < first + n_inputs; i++) {
        uint8_t data[400];
        uint64_t state = (i + 1) * 0x9E3779B97F4A7C15u;
        for (size_t at = 0; at < sizeof data; at++)
            data[at] = (uint8_t)(xorshift(&state) >> 32);
        LLVMFuzzerTestOneInput(data, xorshift(&state) % sizeof data);
    }
    printf("%zu calls:", n_inputs);
    for (size_t t = 0; kernels_at(t) != NULL; t++)
        if (kernels_at(t)->is_supported())
            printf(" %s", kernels_at(t)->isa);
    printf(", the same bits everywhere\n");
    return 0;
}
#endif
