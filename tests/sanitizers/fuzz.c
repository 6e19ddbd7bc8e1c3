/* Fuzzes kernels and jobs: interprets any bytes as a call of a kernel, as a job (dtype, operation, positions, axes,
 * limits, alignments, elements ...), or as a job that has a record, moves kept rows and columns, updates parameters or
 * drops squares. Every instruction set must give the bytes of the portable kernels, and a job those of single elements.
 * Canaries around the output must stay unchanged. Arrays are blocks of exactly their size, so that AddressSanitizer and
 * valgrind find accesses outside them.
 *
 * With -DONE_TOO_MANY, kernels and jobs run one element too far, which must be found; with -DONLY_JOBS, no kernel is
 * called, so that it is found in jobs. With -fsanitize=fuzzer this is a target of libFuzzer; with -DSTANDALONE, a
 * program whose arguments are the number of random inputs and the number of the first. tests/sanitizers/memory runs it.
 */
#include "../job_calls.h"
#include "../kernel_calls.h"
#include "../squares_calls.h"
#include "../submatrix_calls.h"
#include "../update_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef ONE_TOO_MANY
enum { N_TOO_MANY = 1 };
#else
enum { N_TOO_MANY = 0 };
#endif

#ifdef ONLY_JOBS
enum { IS_ALWAYS_JOB = 1 };
#else
enum { IS_ALWAYS_JOB = 0 };
#endif

enum { MOST_ELEMS = 9000, MOST_ELEMS_OF_JOBS = 3000, MOST_ELEMS_OF_LONG_JOBS = 132000, N_CANARIES = 80, CANARY = 0xA5 };

/* The rest of the input. After its end, take returns zeros. */
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

static double take_finite(bytes *input)
{
    const double value = double_of_bits(take(input, 8));
    return isfinite(value) ? value : 1.25;
}

static double take_p(bytes *input)
{
    const uint64_t number = take(input, 8);
    const double p = double_of_bits(number);
    if (p >= 0.0 && p <= 1.0)
        return p;
    return number % 8 == 0 ? 1.0 : (double)(number >> 11) * 0x1p-53;
}

static kernel_call take_call(bytes *input)
{
    kernel_call call = {.kernel = (int)(take(input, 1) % N_KERNELS), .dtype = (int)(take(input, 1) % N_DTYPES)};
    while (!is_kernel(call.kernel))
        call.kernel = (call.kernel + 1) % N_KERNELS;
    size_t n_elems = (size_t)(take(input, 1) % 4 ? take(input, 1) : take(input, 2) % MOST_ELEMS);
    /* Near the beginning, anywhere, or near the last position. */
    const uint64_t first = take(input, 8), near = take(input, 1) % 3;
    call.first = near == 0 ? first % 10000 : near == 1 ? first : UINT64_MAX - 2 * MOST_ELEMS - first % 10000;
    if (call.first > UINT64_MAX - 2 * MOST_ELEMS)
        call.first = UINT64_MAX - 2 * MOST_ELEMS;
    call.rule.key.word[0] = take(input, 8);
    call.rule.key.word[1] = take(input, 8);
    set_threshold(&call.rule, take_p(input));
    call.scale = round_scale(call.dtype, take_finite(input));
    if (steps_of_kernel(call.kernel) & WITH_NOISE)
        call.scale = is_std(fabs(call.scale)) ? fabs(call.scale) : 0.5;
    call.shift = take_finite(input);
    call.fill = take_finite(input);
    call.n_bias = 1 + (size_t)take(input, 2) % MAX_BIAS;
    call.bias_at = (size_t)take(input, 2);
    call.n_repeats = 1;
    if (call.kernel == FILL_RAW)
        n_elems %= 4;
    if (has_repeats(call.kernel)) {
        call.n_repeats = MIN_REPEATS + (size_t)take(input, 2) % 3000;
        n_elems = n_elems / call.n_repeats;
    }
    call.n_positions = n_elems;
    return call;
}

/* ---- arrays ---- */

/* A block of memory that ends with the array and begins `misalignment` bytes before it. */
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

/* Elements from the bytes of the input, repeated with changes: short inputs have elements, too. */
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
    static const uint64_t infinity[N_DTYPES] = {
        [DTYPE_f32] = 0x7F800000u, [DTYPE_f64] = (uint64_t)0x7FF << 52, [DTYPE_f16] = 0x7C00u, [DTYPE_bf16] = 0x7F80u};
    const size_t n_bytes = dtype_table[dtype].n_bytes;
    uint64_t bits = 0;
    for (size_t i = 0; i < n_bytes; i++)
        bits |= (uint64_t)little_endian_byte(elem, i, n_bytes) << (8 * i);
    return (bits & ~((uint64_t)1 << (8 * n_bytes - 1))) > infinity[dtype];
}

/* Whether two results are the same. Except in copies, NaNs may differ: IEEE 754 does not say which NaN a sum gives. */
static int same_result(const char *a, const char *b, size_t n_bytes, int dtype, int is_copied)
{
    const size_t elem_bytes = dtype_table[dtype].n_bytes;
    if (memcmp(a, b, n_bytes) == 0)
        return 1;
    for (size_t i = 0; !is_copied && i < n_bytes; i += elem_bytes)
        if (memcmp(a + i, b + i, elem_bytes) != 0 && !(is_nan(a + i, dtype) && is_nan(b + i, dtype)))
            return 0;
    return !is_copied;
}

/* ---- failures ---- */

static void end_with(const char *what, const char *isa, const char *how, const char *called)
{
    fprintf(stderr, "%s %s%s: %s\n", isa, what, how, called);
    abort();
}

static const char *describe_call(const kernel_call *call)
{
    static char line[300];
    char name[NAME_BYTES];
    snprintf(line, sizeof line, "%s, %zu positions of %zu from %llu", name_of_kernel(name, call->kernel, call->dtype),
             call->n_positions, call->n_repeats, (unsigned long long)call->first);
    return line;
}

/* Whether nothing was written beside an output. With -DONE_TOO_MANY, that is left to AddressSanitizer and valgrind. */
static int are_canaries(const char *out, size_t n_bytes)
{
    for (size_t i = 0; N_TOO_MANY == 0 && i < N_CANARIES; i++)
        if ((uint8_t)out[-1 - (ptrdiff_t)i] != CANARY || (uint8_t)out[n_bytes + i] != CANARY)
            return 0;
    return 1;
}

/* ---- kernels ---- */

static void check_table(const kernel_table *table, const kernel_call *call, const call_arrays *at, const char *expected)
{
    const size_t n_bytes = bytes_written(call);
    const int is_copied = call->kernel >= FILL_KEEP || steps_of_kernel(call->kernel) & WITH_CHOICE;
    for (int is_streaming = 0; is_streaming < 2; is_streaming++) {
        const char *how = is_streaming ? ", streaming" : "";
        if (is_streaming && !may_be_streamed(call, at->out))
            continue;
        memset(at->out - N_CANARIES, CANARY, n_bytes + 2 * N_CANARIES);
        kernel_call told = *call;
        told.n_positions += N_TOO_MANY;
        if (strcmp(run_call(table, is_streaming, &told, at), table->isa) != 0)
            end_with("ran another instruction set", table->isa, how, describe_call(call));
        if (!are_canaries(at->out, n_bytes))
            end_with("wrote outside its output", table->isa, how, describe_call(call));
        if (!same_result(at->out, expected, n_bytes, call->dtype, is_copied))
            end_with("gave another result than portable", table->isa, how, describe_call(call));
    }
}

static void try_kernel(bytes *input)
{
    const kernel_call call = take_call(input);
    const size_t n_bytes = bytes_written(&call), elem_bytes = dtype_table[call.dtype].n_bytes;
    const size_t misalignment = (size_t)take(input, 1) % 64;
    const size_t out_misalignment = call.kernel == FILL_WORDS ? misalignment / 8 * 8 : misalignment;
    const held x = hold_elements(input, n_bytes, (size_t)take(input, 1) % 64);
    const held residual = hold_elements(input, n_bytes, (size_t)take(input, 1) % 64);
    const held bias = hold_elements(input, call.n_bias * elem_bytes, (size_t)take(input, 1) % 64);
    const held words = hold_elements(input, words_for(call.n_positions) * sizeof(uint64_t), 0);
    const held room = hold(bytes_of_room(&call), 0);
    const held expected = hold(n_bytes, 0);
    const held out = hold(n_bytes + 2 * N_CANARIES, out_misalignment);
    call_arrays at = {.out = expected.array,
                      .x = x.array,
                      .residual = residual.array,
                      .bias = bias.array,
                      .room = room.array,
                      .words = (const uint64_t *)(const void *)words.array};
    run_call(&kernels_portable, 0, &call, &at);
    at.out = out.array + N_CANARIES;
    for (size_t t = 0; supported_at(t) != NULL; t++)
        check_table(supported_at(t), &call, &at, expected.array);
    const held all[] = {x, residual, bias, words, room, expected, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
}

/* ---- jobs ---- */

static size_t n_of_layout[N_LAYOUTS], n_refused;

static uint64_t take_for_job(void *input, size_t n_bytes)
{
    return take(input, n_bytes);
}

static const char *describe(const test_job *t)
{
    static char line[600];
    describe_job(line, sizeof line, t);
    return line;
}

/* Runs the job in these pieces on every instruction set. in_place is the input that out holds at first, or NULL. */
static void check_pieces(const job *j, const test_job *t, const job_pieces *pieces, const char *in_place,
                         const char *expected, const char *how)
{
    const size_t n_bytes = bytes_of_job(t);
    const int steps = steps_of_operation(t->request.operation);
    const int is_copied =
        t->request.operation >= OPERATION_fill_keep || steps & WITH_CHOICE || j->layout == LAYOUT_COPY;
    char *out = t->request.out;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        memset(out - N_CANARIES, CANARY, n_bytes + 2 * N_CANARIES);
        if (in_place != NULL)
            memcpy(out, in_place, n_bytes);
        run_pieces(j, pieces, n_bytes > 0 ? N_TOO_MANY : 0);
        if (!are_canaries(out, n_bytes))
            end_with("wrote outside its output", kernels->isa, how, describe(t));
        if (!same_result(out, expected, n_bytes, j->dtype, is_copied))
            end_with("gave another result than its elements one by one", kernels->isa, how, describe(t));
    }
}

static void try_job(bytes *input)
{
    random_source source = {take_for_job, input};
    const size_t most = take(input, 1) % 128 == 1 ? MOST_ELEMS_OF_LONG_JOBS : MOST_ELEMS_OF_JOBS;
    const double scale = take_finite(input), shift = take_finite(input), fill = take_finite(input);
    static uint64_t given[MOST_GIVEN_WORDS];
    test_job t = make_random_job(&source, most, scale, shift, fill);
    job_request *r = &t.request;
    give_decisions(&t, &source, given);
    const int steps = steps_of_operation(r->operation), how = (int)take(input, 1), mistake = (int)take(input, 1);
    const size_t n_bytes = bytes_of_job(&t), elem_bytes = elem_bytes_of(&t);
    const size_t out_misalignment = take(input, 1) % 2 ? 0 : (size_t)take(input, 1) % 64;
    /* Taken before hold_elements uses the rest of the input. */
    uint8_t cut_bytes[4 * (MAX_CUTS + 1)];
    for (size_t i = 0; i < sizeof cut_bytes; i++)
        cut_bytes[i] = (uint8_t)take(input, 1);
    bytes cut_input = {cut_bytes, sizeof cut_bytes};
    source.from = &cut_input;
    const held x = hold_elements(input, steps & WITHOUT_X ? 0 : n_bytes, (size_t)take(input, 1) % 64);
    const held residual = hold_elements(input, steps & READS_RESIDUAL ? n_bytes : 0, (size_t)take(input, 1) % 64);
    const held bias = hold_elements(input, r->n_bias * elem_bytes, (size_t)take(input, 1) % 64);
    const held words = hold(bytes_of_given_words(&t), 0);
    const held expected = hold(n_bytes, 0);
    const held out = hold(n_bytes + 2 * N_CANARIES, out_misalignment);
    const held planned = hold(sizeof(job), 0);
    memcpy(words.array, given, bytes_of_given_words(&t));
    if (r->keep_words != NULL)
        r->keep_words = (const uint64_t *)(const void *)words.array;
    job *j = (job *)(void *)planned.array;
    r->out = out.array + N_CANARIES;
    r->x = steps & WITHOUT_X ? NULL : x.array;
    r->residual = steps & READS_RESIDUAL ? residual.array : NULL;
    r->bias = steps & WITH_BIAS ? bias.array : NULL;
    expect_job(expected.array, &t);
    const char *in_place = NULL;
    if (how % 3 == 1 && r->x != NULL) {
        in_place = x.array;
        r->x = r->out;
    } else if (how % 3 == 2 && r->residual != NULL) {
        in_place = residual.array;
        r->residual = r->out;
    }
    test_job wrong = t;
    if (make_mistake(&wrong.request, mistake % N_MISTAKES)) {
        if (plan_job(j, &wrong) != -1)
            end_with("planned a request with a mistake", "planner", "", describe(&t));
        n_refused++;
    }
    if (plan_job(j, &t) != 0)
        end_with("refused", "planner", "", describe(&t));
    n_of_layout[j->layout]++;
    const job_pieces whole = whole_job(j), anywhere = cut_anywhere(j, &source);
    job_pieces cut;
    const char *failure = cut_into_ranges(&cut, j, 1 + (size_t)how % MAX_CUTS);
    if (failure != NULL)
        end_with(failure, "planner", "", describe(&t));
    check_pieces(j, &t, &whole, in_place, expected.array, ", as a whole");
    check_pieces(j, &t, &cut, in_place, expected.array, ", by the planner's ranges");
    check_pieces(j, &t, &anywhere, in_place, expected.array, ", cut anywhere");
    const held all[] = {x, residual, bias, words, expected, out, planned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
}

/* ---- records ---- */

/* A job that writes a record, then one that reads it, on every instruction set whose kernels have records. */
static void try_record(bytes *input)
{
    random_source source = {take_for_job, input};
    const double scale = take_finite(input);
    test_job t = make_random_job(&source, MOST_ELEMS_OF_JOBS, scale, 0.0, 0.0);
    job_request *r = &t.request;
    make_recordable(&t, ELEMS_PER_GROUP + random_below(&source, MOST_ELEMS));
    if (r->first > UINT64_MAX - 2 * MOST_ELEMS) /* it has more elements now */
        r->first -= 2 * MOST_ELEMS / ELEMS_PER_GROUP * ELEMS_PER_GROUP;
    const int is_in_place = take(input, 1) % 2;
    const size_t n_ranges = 1 + (size_t)take(input, 1) % MAX_CUTS, n_bytes = bytes_of_job(&t);
    const size_t out_misalignment = take(input, 1) % 2 ? 0 : (size_t)take(input, 1) % 64;
    const held x = hold_elements(input, n_bytes, (size_t)take(input, 1) % 64);
    const held record = hold(r->n_elems / ELEMS_PER_GROUP * sizeof(uint64_t), 0);
    const held expected = hold(n_bytes, 0), out = hold(n_bytes + 2 * N_CANARIES, out_misalignment);
    const held planned = hold(sizeof(job), 0);
    job *j = (job *)(void *)planned.array;
    r->out = out.array + N_CANARIES;
    r->x = x.array;
    expect_job(expected.array, &t);
    r->x = is_in_place ? r->out : x.array;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        r->record = (uint64_t *)(void *)record.array;
        if (job_record_words(r) == 0)
            continue;
        memset(record.array, CANARY, r->n_elems / ELEMS_PER_GROUP * sizeof(uint64_t));
        for (r->has_record = 0; r->has_record < 2; r->has_record++) {
            const char *how = r->has_record ? ", by a record" : ", with a record";
            if (plan_job(j, &t) != 0)
                end_with("refused", "planner", how, describe(&t));
            n_of_layout[j->layout]++;
            job_pieces pieces;
            const char *failure = cut_into_ranges(&pieces, j, n_ranges);
            if (failure != NULL)
                end_with(failure, "planner", how, describe(&t));
            memset(out.array, CANARY, n_bytes + 2 * N_CANARIES);
            if (is_in_place)
                memcpy(r->out, x.array, n_bytes);
            run_pieces(j, &pieces, 0);
            if (!are_canaries(r->out, n_bytes))
                end_with("wrote outside its output", kernels->isa, how, describe(&t));
            if (!same_result(r->out, expected.array, n_bytes, r->dtype, 0))
                end_with("gave another result than its elements one by one", kernels->isa, how, describe(&t));
        }
    }
    const held all[] = {x, record, expected, out, planned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
}

/* ---- kept rows and columns ---- */

static void try_submatrix(bytes *input)
{
    static test_submatrix t;
    static char described[300];
    random_source source = {take_for_job, input};
    const size_t most = take(input, 1) % 128 == 1 ? MOST_SUBMATRIX_ELEMS : MOST_ELEMS_OF_JOBS;
    const double scale = take_finite(input);
    make_random_submatrix(&t, &source, most, scale);
    submatrix *r = &t.request;
    describe_submatrix(described, sizeof described, &t);
    const int mistake = (int)take(input, 1) % N_SUBMATRIX_MISTAKES;
    const size_t n_ranges = 1 + (size_t)take(input, 1) % MAX_CUTS;
    const size_t n_bytes = is_gathering(&t) ? bytes_of_dense(&t) : bytes_of_matrix(&t);
    const size_t x_bytes = is_gathering(&t) ? bytes_of_matrix(&t) : bytes_of_dense(&t);
    const size_t row_bytes = bytes_of_line_words(r->n_rows), column_bytes = bytes_of_line_words(r->n_columns);
    const held x = hold_elements(input, x_bytes, (size_t)take(input, 1) % 64);
    const held before = hold_elements(input, n_bytes, 0);
    const held expected = hold(n_bytes, 0), out = hold(n_bytes + 2 * N_CANARIES, (size_t)take(input, 1) % 64);
    const held rows = hold(row_bytes, 0), columns = hold(column_bytes, 0), planned = hold(sizeof(job), 0);
    job *j = (job *)(void *)planned.array;
    memcpy(rows.array, t.row_words, row_bytes);
    memcpy(columns.array, t.column_words, column_bytes);
    memcpy(expected.array, before.array, n_bytes);
    expect_submatrix(expected.array, x.array, &t);
    r->x = x.array;
    r->out = out.array + N_CANARIES;
    r->row_words = r->row_words != NULL ? (const uint64_t *)(const void *)rows.array : NULL;
    r->column_words = r->column_words != NULL ? (const uint64_t *)(const void *)columns.array : NULL;
    static test_submatrix wrong;
    wrong = t;
    if (make_submatrix_mistake(&wrong, mistake)) {
        if (job_plan_submatrix(j, &wrong.request, wrong.dtype) != -1)
            end_with("planned a request with a mistake", "planner", "", described);
        n_refused++;
    }
    if (job_plan_submatrix(j, r, t.dtype) != 0)
        end_with("refused", "planner", "", described);
    n_of_layout[j->layout]++;
    job_pieces pieces = whole_job(j);
    const char *failure = j->layout == LAYOUT_NONE ? NULL : cut_into_ranges(&pieces, j, n_ranges);
    if (failure != NULL)
        end_with(failure, "planner", "", described);
    const int is_copied = r->scale == 1.0 && r->verb != SCATTER_KEPT_ADD;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        memset(r->out - N_CANARIES, CANARY, n_bytes + 2 * N_CANARIES);
        memcpy(r->out, before.array, n_bytes);
        run_pieces(j, &pieces, j->n_elems > 0 ? N_TOO_MANY : 0);
        if (!are_canaries(r->out, n_bytes))
            end_with("wrote outside its output", kernels->isa, "", described);
        if (!same_result(r->out, expected.array, n_bytes, t.dtype, is_copied))
            end_with("gave another result than its elements one by one", kernels->isa, "", described);
    }
    const held all[] = {x, before, expected, out, rows, columns, planned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
}

/* ---- steps of optimizers ---- */

static void try_update(bytes *input)
{
    enum { N_UPDATED = 3 };
    static test_update t, wrong;
    static char described[500];
    random_source source = {take_for_job, input};
    make_random_update(&t, &source, take(input, 1) % 128 == 1 ? MOST_SUBMATRIX_ELEMS : MOST_ELEMS_OF_JOBS);
    t.request.l2 = take(input, 1) % 2 ? take_finite(input) : 0.0;
    t.request.eps = take_finite(input);
    t.request.factor = take_finite(input);
    describe_update(described, sizeof described, &t);
    submatrix *r = &t.kept.request;
    const int mistake = (int)take(input, 1) % N_UPDATE_MISTAKES;
    const size_t n_ranges = 1 + (size_t)take(input, 1) % MAX_CUTS, n_bytes = bytes_of_updated(&t);
    const size_t row_bytes = bytes_of_line_words(r->n_rows), column_bytes = bytes_of_line_words(r->n_columns);
    const held grad = hold_elements(input, bytes_of_grad(&t), (size_t)take(input, 1) % 64);
    const held rows = hold(row_bytes, 0), columns = hold(column_bytes, 0), planned = hold(sizeof(job), 0);
    held before[N_UPDATED], expected[N_UPDATED], updated[N_UPDATED];
    for (int i = 0; i < N_UPDATED; i++) {
        before[i] = hold_elements(input, n_bytes, 0);
        expected[i] = hold(n_bytes, 0);
        updated[i] = hold(n_bytes, (size_t)take(input, 1) % 64);
        memcpy(expected[i].array, before[i].array, n_bytes);
    }
    job *j = (job *)(void *)planned.array;
    memcpy(rows.array, t.kept.row_words, row_bytes);
    memcpy(columns.array, t.kept.column_words, column_bytes);
    expect_update(&(updated_arrays){expected[0].array, expected[1].array, expected[2].array}, grad.array, &t);
    t.request.grad = grad.array;
    t.request.param = updated[0].array;
    t.request.first = updated[1].array;
    t.request.second = updated[2].array;
    r->row_words = r->row_words != NULL ? (const uint64_t *)(const void *)rows.array : NULL;
    r->column_words = r->column_words != NULL ? (const uint64_t *)(const void *)columns.array : NULL;
    wrong = t;
    if (make_update_mistake(&wrong, mistake)) {
        if (plan_update(j, &wrong) != -1)
            end_with("planned a step with a mistake", "planner", "", described);
        n_refused++;
    }
    if (plan_update(j, &t) != 0)
        end_with("refused", "planner", "", described);
    n_of_layout[j->layout]++;
    job_pieces pieces = whole_job(j);
    const char *failure = j->layout == LAYOUT_NONE ? NULL : cut_into_ranges(&pieces, j, n_ranges);
    if (failure != NULL)
        end_with(failure, "planner", "", described);
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        for (int k = 0; k < N_UPDATED; k++)
            memcpy(updated[k].array, before[k].array, n_bytes);
        run_pieces(j, &pieces, j->n_elems > 0 ? N_TOO_MANY : 0);
        for (int k = 0; k < N_UPDATED; k++)
            if (!same_result(updated[k].array, expected[k].array, n_bytes, t.kept.dtype, 0))
                end_with("gave another result than its elements one by one", kernels->isa, "", described);
    }
    for (int k = 0; k < N_UPDATED; k++) {
        free(before[k].block);
        free(expected[k].block);
        free(updated[k].block);
    }
    const held all[] = {grad, rows, columns, planned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i].block);
}

/* ---- squares of images ---- */

static void try_squares(bytes *input)
{
    static uint64_t expected[MOST_SQUARES_WORDS];
    static char described[300];
    random_source source = {take_for_job, input};
    const size_t most = take(input, 1) % 128 == 1 ? MOST_SQUARES_ELEMS : MOST_ELEMS_OF_JOBS;
    const test_squares t = make_random_squares(&source, most);
    describe_squares(described, sizeof described, &t);
    const int mistake = (int)take(input, 1) % N_SQUARES_MISTAKES;
    const size_t n_ranges = 1 + (size_t)take(input, 1) % MAX_CUTS;
    const size_t word_bytes = words_of_squares(&t) * sizeof(uint64_t);
    const held words = hold(word_bytes, 0), planned = hold(sizeof(job), 0);
    const held counts = hold(squares_counts(&t.images) * sizeof(size_t), 0);
    const keep_bits bits = {.words = (uint64_t *)(void *)words.array, .counts = (size_t *)(void *)counts.array};
    job *j = (job *)(void *)planned.array;
    test_squares wrong = t;
    keep_bits wrong_bits = bits;
    if (make_squares_mistake(&wrong, &wrong_bits, mistake)) {
        if (job_plan_squares(j, &wrong.request, &wrong.images, &wrong_bits) != -1)
            end_with("planned a request with a mistake", "planner", "", described);
        n_refused++;
    }
    expect_squares(expected, &t);
    if (job_plan_squares(j, &t.request, &t.images, &bits) != 0)
        end_with("refused", "planner", "", described);
    job_pieces pieces;
    const char *failure = cut_into_ranges(&pieces, j, n_ranges);
    if (failure != NULL)
        end_with(failure, "planner", "", described);
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        memset(words.array, CANARY, word_bytes);
        run_pieces(j, &pieces, 0);
        if (memcmp(words.array, expected, word_bytes) != 0 || !are_counts_right(j))
            end_with("decided otherwise than its squares one by one", kernels->isa, "", described);
    }
    free(words.block);
    free(counts.block);
    free(planned.block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes_given)
{
    bytes input = {data, n_bytes_given};
    const uint64_t what = take(&input, 1);
    limits.min_recorded_elems = ELEMS_PER_GROUP;
    kernels = &kernels_portable; /* plans count keep words */
    if (what % 8 == 6 && !IS_ALWAYS_JOB)
        try_submatrix(&input);
    else if (what % 8 == 4 && !IS_ALWAYS_JOB)
        try_update(&input);
    else if (what % 8 == 2 && !IS_ALWAYS_JOB)
        try_squares(&input);
    else if (what % 2 || IS_ALWAYS_JOB)
        try_job(&input);
    else if (what % 32 == 8)
        try_record(&input);
    else
        try_kernel(&input);
    return 0;
}

#ifdef STANDALONE
enum { ENOUGH_INPUTS = 5000 }; /* for every layout to occur among them */

/* Whether the kernels of a supported instruction set have records. */
static int has_records(void)
{
    for (size_t t = 0; supported_at(t) != NULL; t++)
        for (int dtype = 0; dtype < N_DTYPES; dtype++)
            if (supported_at(t)->dtype[dtype]->record != NULL)
                return 1;
    return 0;
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
    printf("%zu calls and jobs (", n_inputs);
    for (int layout = 0; layout < N_LAYOUTS; layout++)
        printf("%s%zu %s", layout > 0 ? ", " : "", n_of_layout[layout], name_of_layout((job_layout)layout));
    printf("; %zu refused):", n_refused);
    for (size_t t = 0; supported_at(t) != NULL; t++)
        printf(" %s", supported_at(t)->isa);
    printf(", the same bits everywhere\n");
    for (int layout = 0; n_inputs >= ENOUGH_INPUTS && layout < N_LAYOUTS; layout++)
        if (n_of_layout[layout] == 0 && (layout != LAYOUT_RECORDED || has_records())) {
            printf("no job had the layout %s\n", name_of_layout((job_layout)layout));
            return 1;
        }
    return 0;
}
#endif
