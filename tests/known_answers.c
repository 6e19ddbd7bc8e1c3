/* Runs every kernel of every instruction set that this processor supports, and jobs of every layout, on computed
 * inputs, and prints a hash of each result. tests/test_cross_compiled.py builds it for several processors, runs it
 * under emulation, and compares the hashes with those of tests/reference.py and of this machine. Plain C without
 * Python.
 *
 *     known_answers        prints "ISA NAME HASH" for each result
 *     known_answers jobs   prints the positions of the jobs, a line of JSON each */
#include "job_calls.h"
#include "kernel_calls.h"

#include <stdio.h>
#include <string.h>

enum {
    N_ELEMS = 3 * 4096 + 7,
    N_BYTES = N_ELEMS * 8,
    FIRST = 70,
    N_TO_GROUP = 2 * ELEMS_PER_GROUP - FIRST, /* elements before the first whole group */
    N_REPEATS = 72, /* more than a group, and a multiple of STREAM_ALIGN bytes in every dtype */
    N_BIAS = 100,
    N_RANGES = 3, /* of a job */
};

#define P 0.3
#define SCALE 1.4287109375 /* 13 bits of 1 / 0.7 */

static const stream_key key = {{0xFEDCBA9876543210u, 0x0123456789ABCDEFu}};

static char x[N_BYTES], residual[N_BYTES], bias[N_BYTES], room[BIAS_ROOM_BYTES];
static _Alignas(STREAM_ALIGN) char out[N_BYTES + 64];
static char whole[N_BYTES];
static uint64_t words[N_ELEMS / 64 + 1];

/* ---- jobs ---- */

/* The shape of jobs, which is used with every operation that permits it. apply_mask must then have this layout. */
typedef struct {
    const char *name;
    job_layout layout;
    double p;
    size_t n_elems; /* where there are no axes */
    size_t n_repeats;
    int n_axes;
    size_t lens[MAX_TEST_AXES];
    uint64_t strides[MAX_TEST_AXES];
} job_shape;

static const job_shape shapes[] = {
    {.name = "copy", .layout = LAYOUT_COPY, .p = 0.0, .n_elems = N_ELEMS, .n_repeats = 1},
    {.name = "run", .layout = LAYOUT_RUN, .p = P, .n_elems = N_ELEMS, .n_repeats = 1},
    {"rows", LAYOUT_ROWS, P, 0, 1, 2, {5, 700}, {3000, 1}},
    {"rows_of_rows", LAYOUT_ROWS, P, 0, 1, 3, {3, 4, 129}, {9001, 2000, 1}},
    {"shared", LAYOUT_SHARED_ROWS, P, 0, 1, 3, {4, 9, 300}, {300, 0, 1}},
    {"shared_far", LAYOUT_SHARED_ROWS, P, 0, 1, 4, {3, 5, 2, 301}, {5000, 400, 0, 1}},
    {.name = "repeats", .layout = LAYOUT_REPEATED, .p = P, .n_elems = 12000, .n_repeats = 100},
    {"repeated", LAYOUT_REPEATED, P, 0, 1, 2, {40, 150}, {1, 0}},
    {"repeated_rows", LAYOUT_REPEATED, P, 0, 1, 3, {3, 20, 104}, {1000, 1, 0}},
    {.name = "few_repeats", .layout = LAYOUT_GATHERED, .p = P, .n_elems = 12000, .n_repeats = 3},
    {"gathered", LAYOUT_GATHERED, P, 0, 1, 2, {300, 7}, {40, 1}},
    {"gathered_shared", LAYOUT_GATHERED, P, 0, 1, 4, {10, 3, 20, 9}, {400, 0, 20, 1}},
    {"gathered_repeats", LAYOUT_GATHERED, P, 0, 1, 3, {20, 30, 5}, {37, 1, 0}},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Prints the shape as axes and strides; repeats are an axis of stride 0. */
static void print_shape(const job_shape *shape)
{
    const size_t repeated[] = {shape->n_elems / shape->n_repeats, shape->n_repeats};
    const uint64_t of_repeated[] = {1, 0};
    const int n_axes = shape->n_axes > 0 ? shape->n_axes : 2;
    const size_t *lens = shape->n_axes > 0 ? shape->lens : repeated;
    const uint64_t *strides = shape->n_axes > 0 ? shape->strides : of_repeated;
    printf("{\"name\": \"%s\", \"layout\": \"%s\", \"p\": %g, \"first\": %d, \"lens\": [", shape->name,
           name_of_layout(shape->layout), shape->p, FIRST);
    for (int axis = 0; axis < n_axes; axis++)
        printf("%s%zu", axis > 0 ? ", " : "", lens[axis]);
    printf("], \"strides\": [");
    for (int axis = 0; axis < n_axes; axis++)
        printf("%s%llu", axis > 0 ? ", " : "", (unsigned long long)strides[axis]);
    printf("]}\n");
}

/* Whether the operation permits the shape. */
static int has_job(const job_shape *shape, int operation)
{
    if (shape->layout == LAYOUT_COPY)
        return operation == OPERATION_apply_mask;
    return shape->layout == LAYOUT_RUN || !(steps_of_operation(operation) & WITHOUT_MASK);
}

static test_job make_job(const job_shape *shape, int operation, int dtype, int is_streaming)
{
    const int steps = steps_of_operation(operation);
    test_job t = {.request = {.operation = operation,
                              .dtype = dtype,
                              .key = key,
                              .first = FIRST,
                              .p = shape->p,
                              .scale = shape->layout == LAYOUT_COPY ? 1.0 : SCALE,
                              .x = steps & WITHOUT_X ? NULL : x,
                              .residual = steps & READS_RESIDUAL ? residual : NULL,
                              .bias = steps & WITH_BIAS ? bias : NULL,
                              .n_bias = steps & WITH_BIAS ? N_BIAS : 0,
                              .n_elems = shape->n_elems,
                              .n_repeats = shape->n_repeats,
                              .n_axes = shape->n_axes,
                              .stores = is_streaming ? STORES_PAST_CACHES : STORES_CACHED},
                  .max_cached_bytes = limits.max_cached_bytes,
                  .max_gathered_stride = limits.max_gathered_stride};
    if (steps & WITH_FILL) {
        t.request.shift = 0.375;
        t.request.fill = -1.25;
    }
    memcpy(t.lens, shape->lens, sizeof t.lens);
    memcpy(t.strides, shape->strides, sizeof t.strides);
    if (shape->n_axes > 0)
        t.request.n_elems = 1;
    for (int axis = 0; axis < shape->n_axes; axis++)
        t.request.n_elems *= shape->lens[axis];
    return t;
}

/* ---- answers ---- */

/* FNV-1a with 64 bits (Fowler, Noll, Vo) of the bytes in little-endian order. */
static uint64_t hash_of(const void *elements, size_t n_bytes, size_t elem_bytes)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ little_endian_byte(elements, i, elem_bytes)) * 0x100000001B3u;
    return hash;
}

/* Sets an element to a small multiple of 1/8, which is exact in every dtype. The 16-bit types are made from bits. */
static void set_number(char *array, int dtype, size_t i, int eighths)
{
    const float value = (float)eighths / 8;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t f16 = eighths == 0 ? 0 : (bits >> 16 & 0x8000u) | (((bits >> 13) & 0x3FFFFu) - (112u << 10));
    const uint64_t bits_in[N_DTYPES] = {
        [DTYPE_f32] = bits, [DTYPE_f64] = bits_of_double(value), [DTYPE_f16] = f16, [DTYPE_bf16] = bits >> 16};
    store_bits(array + i * dtype_table[dtype].n_bytes, bits_in[dtype], dtype_table[dtype].n_bytes);
}

/* Fills `out` with rubbish and returns an address in it: with streaming, one that is a multiple of STREAM_ALIGN if
 * n_bytes are added; otherwise an odd one. */
static char *place_output(int is_streaming, size_t n_bytes)
{
    memset(out, 0xA5, sizeof out);
    return out + (is_streaming ? STREAM_ALIGN - n_bytes % STREAM_ALIGN : 3);
}

static void print_answer(const char *isa, const char *name, int is_streaming, const char *result, size_t n_bytes,
                         size_t elem_bytes)
{
    printf("%s %s%s %016llx\n", isa, name, is_streaming ? "_streaming" : "",
           (unsigned long long)hash_of(result, n_bytes, elem_bytes));
}

static void set_inputs(int dtype)
{
    for (size_t i = 0; i < N_ELEMS; i++) {
        set_number(x, dtype, i, (int)(i % 61) - 30);
        set_number(residual, dtype, i, (int)(i % 53) - 26);
        set_number(bias, dtype, i, (int)(i % N_BIAS) - 50);
    }
}

/* How many elements precede the first that streaming stores write. */
static size_t n_to_group(int operation, int has_positions)
{
    return has_positions && operation != OPERATION_relu_dropout_backward ? N_TO_GROUP : 0;
}

static void print_kernel(const kernel_table *table, int kernel, int dtype, int is_streaming)
{
    const size_t elem_bytes = kernel < FILL_KEEP ? dtype_table[dtype].n_bytes : 1;
    const int operation = operation_of(kernel);
    kernel_call call = {.kernel = kernel,
                        .dtype = dtype,
                        .first = FIRST,
                        .n_positions = N_ELEMS,
                        .n_repeats = 1,
                        .n_bias = N_BIAS,
                        .rule = {.key = key},
                        .scale = SCALE,
                        .shift = 0.375,
                        .fill = -1.25};
    char name[NAME_BYTES];
    set_threshold(&call.rule, P);
    if (has_repeats(kernel)) {
        call.n_repeats = N_REPEATS;
        call.n_positions = N_ELEMS / N_REPEATS;
    }
    if (kernel == FILL_RAW) {
        call.first = (((uint64_t)1 << 32) - 1) * ELEMS_PER_BLOCK;
        call.n_positions = 2;
    }
    const call_arrays at = {.out = place_output(is_streaming, n_to_group(operation, kernel < REPEAT) * elem_bytes),
                            .x = x,
                            .residual = residual,
                            .bias = bias,
                            .room = room,
                            .words = words};
    run_call(table, is_streaming, &call, &at);
    print_answer(table->isa, name_of_kernel(name, kernel, dtype), is_streaming, at.out, bytes_written(&call),
                 elem_bytes);
}

/* Returns 0 if the job has another layout than its shape says, or its ranges another result than the whole. */
static int print_job(const job_shape *shape, int operation, int dtype, int is_streaming)
{
    test_job t = make_job(shape, operation, dtype, is_streaming);
    const size_t n_bytes = bytes_of_job(&t), elem_bytes = elem_bytes_of(&t);
    const char *failure = NULL;
    static const char *const widths[N_WIDTHS] = {"1", "2", "4", "8"};
    char name[2 * NAME_BYTES];
    job j;
    job_pieces pieces;
    snprintf(name, sizeof name, "job_%s_%s%s%s", shape->name, name_of_operation(operation),
             operation == OPERATION_fill_keep ? "" : "_",
             operation == OPERATION_fill_keep ? ""
             : operation == OPERATION_select  ? widths[dtype]
                                              : dtype_table[dtype].name);
    t.request.out = place_output(is_streaming, n_to_group(operation, shape->layout == LAYOUT_RUN) * elem_bytes);
    if (plan_job(&j, &t) != 0)
        failure = "was refused";
    else if (operation == OPERATION_apply_mask && j.layout != shape->layout)
        failure = "has another layout than its shape says";
    else
        failure = cut_into_ranges(&pieces, &j, N_RANGES);
    if (failure == NULL) {
        job_run(&j, 0, j.n_elems);
        memcpy(whole, t.request.out, n_bytes);
        memset(t.request.out, 0xA5, n_bytes);
        run_pieces(&j, &pieces, 0);
        if (memcmp(whole, t.request.out, n_bytes) != 0)
            failure = "gave something else in ranges";
    }
    if (failure != NULL) {
        fprintf(stderr, "%s %s %s\n", kernels->isa, name, failure);
        return 0;
    }
    print_answer(kernels->isa, name, is_streaming, whole, n_bytes, elem_bytes);
    return 1;
}

/* Any bits, for elements of a width: x and, as the bias, the values of dropped elements. */
static void set_bits(int width)
{
    const size_t elem_bytes = (size_t)1 << width;
    for (size_t i = 0; i < N_ELEMS; i++)
        store_bits(x + i * elem_bytes, i * 0x9E3779B97F4A7C15u, elem_bytes);
    for (size_t i = 0; i < N_BIAS; i++)
        store_bits(bias + i * elem_bytes, i * 0xD1342543DE82EF95u + 1, elem_bytes);
}

static void print_select(int width)
{
    const size_t elem_bytes = (size_t)1 << width, group_bytes = ELEMS_PER_GROUP * elem_bytes;
    char name[NAME_BYTES];
    operands arrays = {.out = place_output(0, 0), .x = x, .bias = bias, .bias_seam = room, .bias_period = N_BIAS};
    memcpy(room, bias + N_BIAS * elem_bytes - group_bytes, group_bytes);
    memcpy(room + group_bytes, bias, group_bytes);
    kernels->select[width](&arrays, words, N_ELEMS);
    snprintf(name, sizeof name, "select_%zu", elem_bytes);
    print_answer(kernels->isa, name, 0, arrays.out, N_ELEMS * elem_bytes, elem_bytes);
}

/* The pixels of an image with three channels. */
static int print_pixels(void)
{
    static const job_shape pixels = {"pixels", LAYOUT_TRIPLED, P, 3 * (N_ELEMS / 3), 3, 0, {0}, {0}};
    test_job t = make_job(&pixels, OPERATION_select, 0, 0);
    job j;
    job_pieces pieces;
    t.request.n_bias = 3;
    t.request.out = place_output(0, 0);
    if (plan_job(&j, &t) != 0 || j.layout != LAYOUT_TRIPLED || cut_into_ranges(&pieces, &j, N_RANGES) != NULL) {
        fprintf(stderr, "%s: pixels were refused, or have another layout\n", kernels->isa);
        return 0;
    }
    run_pieces(&j, &pieces, 0);
    print_answer(kernels->isa, "pixels", 0, t.request.out, t.request.n_elems, 1);
    return 1;
}

static void print_draws(void)
{
    static double p[N_ELEMS];
    for (size_t i = 0; i < N_ELEMS; i++)
        p[i] = (double)(i * 37 % 997) / 996.0;
    char *draws = place_output(0, 0);
    kernels->fill_draws((uint8_t *)draws, p, &key, FIRST, N_ELEMS);
    print_answer(kernels->isa, "fill_draws", 0, draws, N_ELEMS, 1);
}

/* Squares of images with the channels first and last, and dropout by these decisions from an element within a word on.
 */
static int print_squares(void)
{
    enum { HEIGHT = 37, WIDTH = 53, SIDE = 5, N_IMAGES = 2, N_CHANNELS = 3 };
    enum { N_OF_IMAGES = N_IMAGES * N_CHANNELS * HEIGHT * WIDTH, N_GIVEN = N_OF_IMAGES - FIRST };
    _Static_assert(N_OF_IMAGES < N_ELEMS,
                   "the words must have a bit for each element of the images, and one more word");
    static const char *const names[] = {"squares_first", "squares_last"};
    static size_t counts[N_OF_IMAGES / ELEMS_PER_COUNT + 2];
    for (int is_last = 0; is_last < 2; is_last++) {
        const squares images = {.n_images = is_last ? N_IMAGES : N_IMAGES * N_CHANNELS,
                                .height = HEIGHT,
                                .width = WIDTH,
                                .n_channels = is_last ? N_CHANNELS : 1,
                                .side = SIDE};
        const keep_bits bits = {.words = words, .counts = counts};
        job_request request = blank_request(OPERATION_apply_mask, DTYPE_f32);
        job j;
        job_pieces pieces;
        request.key = key;
        request.first = FIRST;
        request.p = 0.01;
        if (job_plan_squares(&j, &request, &images, &bits) != 0 || cut_into_ranges(&pieces, &j, N_RANGES) != NULL) {
            fprintf(stderr, "%s: %s were refused\n", kernels->isa, names[is_last]);
            return 0;
        }
        run_pieces(&j, &pieces, 0);
        print_answer(kernels->isa, names[is_last], 0, (const char *)words, N_OF_IMAGES / 64 * sizeof *words, 8);
    }
    job_request request = blank_request(OPERATION_apply_mask, DTYPE_f32);
    job j;
    set_inputs(DTYPE_f32);
    request.scale = SCALE;
    request.out = place_output(0, 0);
    request.x = x;
    request.n_elems = N_GIVEN;
    request.keep_words = words;
    request.first = FIRST;
    if (job_plan(&j, &request) != 0) {
        fprintf(stderr, "%s: given decisions were refused\n", kernels->isa);
        return 0;
    }
    job_run(&j, 0, j.n_elems);
    print_answer(kernels->isa, "apply_squares_last", 0, request.out, N_GIVEN * sizeof(float), sizeof(float));
    return 1;
}

/* Steps of optimizers: all elements, and a matrix of 5 rows with a gradient of kept rows and columns. */
static int print_steps(int dtype)
{
    enum { WHOLE, KEPT, LAZY, N_MODES, N_ROWS = 5, N_COLUMNS = N_ELEMS / N_ROWS };
    _Static_assert(N_ROWS * N_COLUMNS == N_ELEMS, "the matrix must have all elements");
    static const char *const rules[N_UPDATE_RULES] = {
        [UPDATE_MOMENTUM] = "momentum", [UPDATE_NESTEROV] = "nesterov", [UPDATE_ADAM] = "adam"};
    static const char *const modes[N_MODES] = {"whole", "kept", "lazy"}, *const names[] = {"param", "first", "second"};
    static char updated[3][N_BYTES];
    const size_t elem_bytes = dtype_table[dtype].n_bytes, n_bytes = N_ELEMS * elem_bytes;
    for (int rule = 0; rule < N_UPDATE_RULES; rule++)
        for (int mode = 0; mode < N_MODES; mode++) {
            const submatrix kept = {.n_rows = N_ROWS,
                                    .n_columns = N_COLUMNS,
                                    .row_words = words,
                                    .column_words = words,
                                    .scale = mode == LAZY ? 1.0 : SCALE,
                                    .verb = mode == LAZY ? SCATTER_KEPT_SET : SCATTER_KEPT_ZERO};
            const param_update request = {updated[0], residual, updated[1], updated[2], 0.01,  0.9,
                                          0.1,        0.999,    0.001,      1e-8,       -0.03, rule};
            job j;
            job_pieces pieces;
            for (size_t i = 0; i < N_ELEMS; i++) {
                set_number(updated[0], dtype, i, (int)(i % 61) - 30);
                set_number(updated[1], dtype, i, (int)(i % 47) - 23);
                set_number(updated[2], dtype, i, (int)(i % 17));
            }
            if (job_plan_update(&j, &request, mode == WHOLE ? NULL : &kept, N_ELEMS, dtype) != 0 ||
                cut_into_ranges(&pieces, &j, N_RANGES) != NULL) {
                fprintf(stderr, "%s: a step of %s was refused\n", kernels->isa, rules[rule]);
                return 0;
            }
            run_pieces(&j, &pieces, 0);
            for (int i = 0; i < 3; i++) {
                char name[100];
                snprintf(name, sizeof name, "step_%s_%s_%s_%s", dtype_table[dtype].name, rules[rule], modes[mode],
                         names[i]);
                print_answer(kernels->isa, name, 0, updated[i], n_bytes, elem_bytes);
            }
        }
    return 1;
}

static int print_answers(void)
{
    mask_rule rule = {.key = key};
    set_threshold(&rule, P);
    kernels->fill_words(words, &rule, FIRST, N_ELEMS);
    kernels->fill_keep((uint8_t *)out, &rule, FIRST, N_ELEMS);
    for (size_t i = 0; i < N_ELEMS; i++)
        if ((words[i / 64] >> i % 64 & 1) != (uint64_t)out[i]) {
            fprintf(stderr, "%s: fill_words and fill_keep differ at element %zu\n", kernels->isa, i);
            return 0;
        }
    print_kernel(kernels, FILL_RAW, 0, 0);
    print_kernel(kernels, FILL_KEEP, 0, 0);
    print_draws();
    if (!print_squares())
        return 0;
    kernels->fill_words(words, &rule, FIRST, N_ELEMS);
    for (int width = 0; width < N_WIDTHS; width++) {
        set_bits(width);
        print_select(width);
        if (width == 0 && !print_pixels())
            return 0;
        for (size_t s = 0; s < N_SHAPES; s++)
            if (has_job(&shapes[s], OPERATION_select) && !print_job(&shapes[s], OPERATION_select, width, 0))
                return 0;
    }
    for (size_t s = 0; s < N_SHAPES; s++)
        if (has_job(&shapes[s], OPERATION_fill_keep) && !print_job(&shapes[s], OPERATION_fill_keep, 0, 0))
            return 0;
    for (int dtype = 0; dtype < N_DTYPES; dtype++) {
        set_inputs(dtype);
        if (dtype <= DTYPE_f64 && !print_steps(dtype))
            return 0;
        for (int is_streaming = 0; is_streaming < 2; is_streaming++) {
            for (int kernel = 0; kernel < FILL_KEEP; kernel++)
                if (is_kernel(kernel))
                    print_kernel(kernels, kernel, dtype, is_streaming);
            for (size_t s = 0; s < N_SHAPES; s++)
                for (int operation = 0; operation < N_OPERATIONS; operation++)
                    if (has_job(&shapes[s], operation) && !print_job(&shapes[s], operation, dtype, is_streaming))
                        return 0;
        }
    }
    return 1;
}

int main(int n_arguments, char **arguments)
{
    if (n_arguments > 1 && strcmp(arguments[1], "jobs") == 0) {
        for (size_t s = 0; s < N_SHAPES; s++)
            print_shape(&shapes[s]);
        return 0;
    }
    if (!is_arithmetic_unchanged())
        return 1;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if (!print_answers())
            return 1;
    }
    return 0;
}
