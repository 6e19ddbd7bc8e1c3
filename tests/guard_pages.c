/* Runs every kernel of every instruction set that this processor supports, and jobs of every layout, on arrays between
 * guard pages, which can be neither read nor written: an access outside an array ends the program. A write beside the
 * output changes a canary; inputs and planned jobs are mapped read-only. The results of kernels are compared with those
 * of the portable kernels, the results of jobs with those of single elements (job_calls.h, submatrix_calls.h,
 * update_calls.h, squares_calls.h).
 *
 *     guard_pages                     at a few distances from the guard pages
 *     guard_pages all                 at every distance from 0 to 63 bytes
 *     guard_pages touching            at distance 0
 *     guard_pages one-too-many        kernels run one element too far: the program must fail
 *     guard_pages one-too-many-jobs   jobs run one element too far: the program must fail
 *     guard_pages one-too-many-rows   jobs that move kept rows run one row too far: the program must fail
 *     guard_pages one-too-many-steps  steps of optimizers update one element or row too far: the program must fail
 *
 * A second argument names the only instruction set to run. tests/test_cross_compiled.py runs the program, also under
 * emulation. Plain C without Python; needs Linux, for memory that is mapped twice. */
#define _GNU_SOURCE
#include "job_calls.h"
#include "kernel_calls.h"
#include "squares_calls.h"
#include "submatrix_calls.h"
#include "update_calls.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_ELEMS = 300, ROOM_BYTES = 1 << 20, N_CANARIES = 128, CANARY = 0xA5 };

/* Of jobs. Long ones, every JOBS_TO_A_LONG_ONE-th, have rows and gathered words beyond MAX_KEEP_WORDS. */
enum { MOST_ELEMS = 5000, MOST_ELEMS_OF_LONG_JOBS = 150000, JOBS_TO_A_LONG_ONE = 128 };

/* Besides every number of elements up to MAX_ELEMS: the size of a block and its neighbours, and some between. */
static const size_t longer[] = {1000, 4095, 4096, 4097, 5000};
enum { N_LONGER = sizeof longer / sizeof *longer };

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

/* ---- memory between guard pages ---- */

/* The same memory mapped twice, each time between two guard pages. */
typedef struct {
    char *writable;
    char *readable;
} guarded;

enum { OUT, X, RESIDUAL, BIAS, ROOM, WORDS_ARRAY, FIRST, SECOND, N_ARRAYS };
static guarded memory[N_ARRAYS];

static char *map_between_guards(int file, int protection)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), n_bytes = ROOM_BYTES + 2 * page;
    char *all = mmap(NULL, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mmap(all + page, ROOM_BYTES, protection, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
        fail("mmap");
    return all + page;
}

static guarded make_guarded(void)
{
    const int file = memfd_create("guarded", 0);
    if (file < 0 || ftruncate(file, ROOM_BYTES) != 0)
        fail("memfd_create");
    const guarded made = {map_between_guards(file, PROT_READ | PROT_WRITE), map_between_guards(file, PROT_READ)};
    close(file);
    return made;
}

/* Where an array begins that is `distance` bytes away from the guard page before it, or behind it. */
static size_t offset_of(size_t n_bytes, int is_at_end, size_t distance)
{
    return is_at_end ? ROOM_BYTES - n_bytes - distance : distance;
}

/* Copies an input between its guard pages and returns its read-only address. */
static const char *put_input(int array, const char *from, size_t n_bytes, int is_at_end, size_t distance)
{
    const size_t offset = offset_of(n_bytes, is_at_end, distance);
    memcpy(memory[array].writable + offset, from, n_bytes);
    return memory[array].readable + offset;
}

/* ---- what is running: printed if a check fails ---- */

static const char *now_isa = "no instruction set", *now_how = "";
static const kernel_call *now_call;         /* NULL while a job runs */
static const test_job *now_job;             /* NULL while a job of a submatrix runs */
static const test_submatrix *now_submatrix; /* NULL while a step runs */
static const test_squares *now_squares;     /* NULL unless a job on squares runs */
static const test_update *now_update;
static size_t now_distance;
static int now_is_at_end, now_is_streaming, now_is_in_place; /* 1 where the output is x, 2 where it is the residual */

static void say(const char *what)
{
    char name[NAME_BYTES], called[600], line[1000];
    if (now_call != NULL)
        snprintf(called, sizeof called, "%zu positions of %zu from %llu, bias of %zu", now_call->n_positions,
                 now_call->n_repeats, (unsigned long long)now_call->first, now_call->n_bias);
    else if (now_job != NULL)
        describe_job(called, sizeof called, now_job);
    else if (now_squares != NULL)
        describe_squares(called, sizeof called, now_squares);
    else if (now_submatrix != NULL)
        describe_submatrix(called, sizeof called, now_submatrix);
    else
        describe_update(called, sizeof called, now_update);
    const int n =
        snprintf(line, sizeof line, "%s%s: %s%s %s: %s, %zu bytes from the guard page %s%s\n", now_isa,
                 now_is_streaming ? " streaming" : "",
                 now_call != NULL ? name_of_kernel(name, now_call->kernel, now_call->dtype) : "a job", now_how, what,
                 called, now_distance, now_is_at_end ? "behind" : "before", now_is_in_place ? ", in place" : "");
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(3);
}

static void on_fault(int signal_number)
{
    (void)signal_number;
    say("reached outside its arrays");
    _exit(1);
}

static void end_with(const char *what)
{
    say(what);
    exit(1);
}

/* ---- calls ---- */

static uint64_t next_random(void)
{
    static uint64_t state = 1;
    return xorshift(&state);
}

/* Finite numbers, also negative and subnormal ones: random bits, with the highest bit of the exponent cleared. */
static void fill_with_numbers(char *array, size_t n_bytes, size_t elem_bytes)
{
    for (size_t i = 0; i < n_bytes; i += elem_bytes)
        store_bits(array + i, next_random() & ~((uint64_t)1 << (8 * elem_bytes - 2)), elem_bytes);
}

static char inputs[N_ARRAYS][ROOM_BYTES], expected[ROOM_BYTES];
static char plain_room[BIAS_ROOM_BYTES];

static kernel_call make_call(int kernel, int dtype, size_t n_elems, size_t n_calls)
{
    kernel_call call = {.kernel = kernel,
                        .dtype = dtype,
                        .first = next_random() >> (next_random() % 2 ? 44 : 2),
                        .n_positions = n_elems,
                        .n_repeats = 1,
                        .n_bias = 1 + n_calls * 37 % 300, /* every length up to 300 */
                        .bias_at = (size_t)(next_random() >> 32),
                        .rule = {.key = {{next_random(), next_random()}}},
                        .scale = 1.4287109375 /* 13 bits of 1 / 0.7 */,
                        .shift = 0.375,
                        .fill = -1.25};
    set_threshold(&call.rule, n_calls % 16 == 0 ? 1.0 : (double)(next_random() >> 11) * 0x1p-53);
    if (has_repeats(kernel)) {
        call.n_repeats = MIN_REPEATS;
        if (n_elems > MIN_REPEATS)
            call.n_repeats += (size_t)(next_random() % (n_elems - MIN_REPEATS + 1));
        if (n_calls % 2)
            call.n_repeats -= call.n_repeats % MIN_REPEATS; /* suitable for streaming stores */
        call.n_positions = n_elems / call.n_repeats;
    }
    return call;
}

/* Advances the first position until streaming stores are possible, if they are with some position. */
static void make_streamable(kernel_call *call, const char *out)
{
    const size_t elem_bytes = dtype_table[call->dtype].n_bytes;
    for (size_t i = 0; i < STREAM_ALIGN / elem_bytes && !may_be_streamed(call, out); i++)
        call->first++;
}

static void check_canaries_of(int array, const char *out, size_t n_bytes)
{
    const char *begin = memory[array].writable, *end = begin + ROOM_BYTES;
    for (size_t i = 1; i <= N_CANARIES; i++) {
        if (out - begin >= (ptrdiff_t)i && (unsigned char)out[-(ptrdiff_t)i] != CANARY)
            end_with("wrote before its output");
        if (end - (out + n_bytes) >= (ptrdiff_t)i && (unsigned char)out[n_bytes + i - 1] != CANARY)
            end_with("wrote behind its output");
    }
}

static void check_canaries(const char *out, size_t n_bytes)
{
    check_canaries_of(OUT, out, n_bytes);
}

/* Checks a call with all arrays at one distance from their guard pages. Returns how many kernels ran with streaming. */
static size_t check_call(kernel_call call, const char *only_isa, int is_at_end, size_t distance, size_t n_too_many)
{
    const int reads = inputs_of(call.kernel);
    const size_t n_bytes = bytes_written(&call), elem_bytes = dtype_table[call.dtype].n_bytes;
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t); /* words must be aligned */
    const size_t words_bytes = words_for(call.n_positions) * sizeof(uint64_t);
    char *out = memory[OUT].writable + offset_of(n_bytes, is_at_end, call.kernel == FILL_WORDS ? aligned : distance);
    make_streamable(&call, out);

    const call_arrays plain = {.out = expected,
                               .x = inputs[X],
                               .residual = inputs[RESIDUAL],
                               .bias = inputs[BIAS],
                               .room = plain_room,
                               .words = (const uint64_t *)(const void *)inputs[WORDS_ARRAY]};
    run_call(&kernels_portable, 0, &call, &plain);
    call_arrays at = {.out = out};
    if (reads & INPUT_X)
        at.x = put_input(X, inputs[X], n_bytes, is_at_end, distance);
    if (reads & INPUT_RESIDUAL)
        at.residual = put_input(RESIDUAL, inputs[RESIDUAL], n_bytes, is_at_end, distance);
    if (reads & INPUT_WORDS)
        at.words = (const void *)put_input(WORDS_ARRAY, inputs[WORDS_ARRAY], words_bytes, is_at_end, aligned);
    if (reads & INPUT_BIAS) {
        at.bias = put_input(BIAS, inputs[BIAS], call.n_bias * elem_bytes, is_at_end, distance);
        at.room = memory[ROOM].writable + offset_of(bytes_of_room(&call), is_at_end, distance);
    }

    size_t n_streaming = 0;
    kernel_call told = call;
    told.n_positions += n_too_many;
    now_call = &told;
    now_is_at_end = is_at_end;
    now_distance = distance;
    for (size_t t = 0; supported_at(t) != NULL; t++) {
        const kernel_table *table = supported_at(t);
        if (only_isa != NULL && strcmp(only_isa, table->isa) != 0)
            continue;
        now_isa = table->isa;
        for (int how = 0; how < 6; how++) {
            now_is_streaming = how % 2;
            now_is_in_place = how / 2;
            const int input = now_is_in_place == 1 ? INPUT_X : INPUT_RESIDUAL;
            if ((now_is_streaming && !may_be_streamed(&call, out)) || (now_is_in_place && !(reads & input)))
                continue;
            call_arrays here = at;
            if (now_is_in_place) {
                memcpy(out, inputs[now_is_in_place == 1 ? X : RESIDUAL], n_bytes);
                *(now_is_in_place == 1 ? &here.x : &here.residual) = out;
            }
            if (strcmp(run_call(table, now_is_streaming, &told, &here), table->isa) != 0)
                end_with("ran another instruction set");
            check_canaries(out, n_bytes);
            if (memcmp(out, expected, n_bytes) != 0)
                end_with("gave another result than portable");
            memset(out, CANARY, n_bytes);
            n_streaming += (size_t)now_is_streaming;
        }
    }
    return n_streaming;
}

/* ---- jobs ---- */

static uint64_t take_random(void *unused, size_t n_bytes)
{
    (void)unused;
    return next_random() >> (64 - 8 * n_bytes);
}

static random_source source = {.take = take_random};

/* Counts of the jobs that have run. */
static struct {
    size_t n_jobs, n_streamed, n_recorded, n_refused, n_of_layout[N_LAYOUTS];
} counts;

/* Runs a planned job in these pieces on the current instruction set. */
static void check_run(const job *j, const test_job *t, const job_pieces *pieces, size_t n_too_many)
{
    const size_t n_bytes = bytes_of_job(t);
    char *out = t->request.out;
    if (now_is_in_place)
        memcpy(out, inputs[now_is_in_place == 1 ? X : RESIDUAL], n_bytes);
    run_pieces(j, pieces, n_too_many);
    check_canaries(out, n_bytes);
    if (memcmp(out, expected, n_bytes) != 0)
        end_with("gave another result than its elements one by one");
    memset(out, CANARY, n_bytes);
}

/* Plans the job between guard pages and returns its read-only address. */
static const job *plan_guarded(const test_job *t)
{
    const size_t offset = (ROOM_BYTES - sizeof(job)) / _Alignof(job) * _Alignof(job);
    if (plan_job((job *)(void *)(memory[ROOM].writable + offset), t) != 0)
        end_with("was refused");
    return (const job *)(const void *)(memory[ROOM].readable + offset);
}

/* Requests with a mistake must be refused, and nothing written. */
static void check_mistakes(const test_job *t)
{
    for (int mistake = 0; mistake < N_MISTAKES; mistake++) {
        job unused;
        test_job wrong = *t;
        if (!make_mistake(&wrong.request, mistake))
            continue;
        if (plan_job(&unused, &wrong) != -1)
            end_with("was planned with a mistake in it");
        counts.n_refused++;
    }
    check_canaries(t->request.out, 0);
}

/* Checks a random job at one distance from the guard pages, whole and in pieces, on every instruction set. */
static void check_job(const char *only_isa, size_t n_job, int is_at_end, size_t distance, size_t n_too_many)
{
    const int is_long = n_job % JOBS_TO_A_LONG_ONE == JOBS_TO_A_LONG_ONE - 1;
    test_job t = make_random_job(&source, is_long ? MOST_ELEMS_OF_LONG_JOBS : MOST_ELEMS, 1.4287109375, 0.375, -1.25);
    static uint64_t given[MOST_GIVEN_WORDS];
    job_request *r = &t.request;
    give_decisions(&t, &source, given);
    const size_t n_bytes = bytes_of_job(&t), elem_bytes = elem_bytes_of(&t);
    const int steps = steps_of_operation(r->operation);
    if (n_bytes + distance > ROOM_BYTES)
        return;
    now_call = NULL;
    now_job = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    now_isa = "portable";
    now_how = "";
    for (int array = X; array <= BIAS; array++)
        fill_with_numbers(inputs[array], array == BIAS ? r->n_bias * elem_bytes : n_bytes, elem_bytes);
    r->x = steps & WITHOUT_X ? NULL : inputs[X];
    r->residual = steps & READS_RESIDUAL ? inputs[RESIDUAL] : NULL;
    r->bias = steps & WITH_BIAS ? inputs[BIAS] : NULL;
    expect_job(expected, &t);

    r->out = memory[OUT].writable + offset_of(n_bytes, is_at_end, distance);
    if (r->x != NULL)
        r->x = put_input(X, inputs[X], n_bytes, is_at_end, distance);
    if (r->residual != NULL)
        r->residual = put_input(RESIDUAL, inputs[RESIDUAL], n_bytes, is_at_end, distance);
    if (r->bias != NULL)
        r->bias = put_input(BIAS, inputs[BIAS], r->n_bias * elem_bytes, is_at_end, distance);
    if (r->keep_words != NULL)
        r->keep_words =
            (const uint64_t *)(const void *)put_input(WORDS_ARRAY, (const char *)given, bytes_of_given_words(&t),
                                                      is_at_end, distance / sizeof *given * sizeof *given);
    check_mistakes(&t);
    const char *const other_x = r->x, *const other_residual = r->residual;
    for (now_is_in_place = 0; now_is_in_place < 3; now_is_in_place++) {
        if ((now_is_in_place == 1 && other_x == NULL) || (now_is_in_place == 2 && other_residual == NULL))
            continue;
        r->x = now_is_in_place == 1 ? r->out : other_x;
        r->residual = now_is_in_place == 2 ? r->out : other_residual;
        const job *j = plan_guarded(&t);
        const job_pieces whole = whole_job(j), anywhere = cut_anywhere(j, &source);
        job_pieces cut;
        const char *failure = cut_into_ranges(&cut, j, 1 + n_job % MAX_CUTS);
        if (failure != NULL)
            end_with(failure);
        now_is_streaming = j->arrays.is_streamed;
        counts.n_of_layout[j->layout]++;
        counts.n_jobs++;
        counts.n_streamed += (size_t)now_is_streaming;
        for (size_t i = 0; supported_at(i) != NULL; i++) {
            kernels = supported_at(i);
            if (only_isa != NULL && strcmp(only_isa, kernels->isa) != 0)
                continue;
            now_isa = kernels->isa;
            now_how = " as a whole";
            check_run(j, &t, &whole, j->n_elems > 0 ? n_too_many : 0);
            now_how = " by the planner's ranges";
            check_run(j, &t, &cut, 0);
            now_how = " cut anywhere";
            check_run(j, &t, &anywhere, 0);
        }
        now_how = "";
    }
    now_is_in_place = 0;
}

/* ---- records ---- */

/* Checks a job that writes a record and one that reads it, at one distance from the guard pages, on every instruction
 * set whose kernels have records. */
static void check_record(const char *only_isa, size_t n_job, int is_at_end, size_t distance)
{
    test_job t = make_random_job(&source, MOST_ELEMS, 1.4287109375, 0.375, -1.25);
    job_request *r = &t.request;
    make_recordable(&t, (size_t)(ELEMS_PER_GROUP + next_random() % MOST_ELEMS));
    const size_t n_bytes = bytes_of_job(&t), record_bytes = r->n_elems / ELEMS_PER_GROUP * sizeof(uint64_t);
    const size_t record_at = offset_of(record_bytes, is_at_end, distance / sizeof(uint64_t) * sizeof(uint64_t));
    now_call = NULL;
    now_job = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    fill_with_numbers(inputs[X], n_bytes, elem_bytes_of(&t));
    r->x = inputs[X];
    expect_job(expected, &t);
    r->out = memory[OUT].writable + offset_of(n_bytes, is_at_end, distance);
    const char *const other_x = put_input(X, inputs[X], n_bytes, is_at_end, distance);
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if ((only_isa != NULL && strcmp(only_isa, kernels->isa) != 0) || kernels->dtype[r->dtype]->record == NULL)
            continue;
        now_isa = kernels->isa;
        for (int how = 0; how < 4; how++) {
            job_pieces cut;
            r->has_record = how / 2;
            now_how = r->has_record ? " by a record" : " with a record";
            now_is_in_place = how % 2;
            now_is_streaming = 0;
            r->x = now_is_in_place ? r->out : other_x;
            r->record =
                (uint64_t *)(void *)((r->has_record ? memory[WORDS_ARRAY].readable : memory[WORDS_ARRAY].writable) +
                                     record_at);
            if (job_record_words(r) != record_bytes / sizeof(uint64_t))
                end_with("has a record of another size");
            const job *j = plan_guarded(&t);
            const char *failure = cut_into_ranges(&cut, j, 1 + n_job % MAX_CUTS);
            if (failure != NULL)
                end_with(failure);
            counts.n_of_layout[j->layout]++;
            counts.n_recorded++;
            check_run(j, &t, &cut, 0);
        }
    }
    now_is_in_place = 0;
}

/* ---- decisions as bits ---- */

/* Compares bits, their counts and their list with keep bytes. */
static void check_bits_made(const keep_bits *bits, size_t n_elems, size_t n_listed)
{
    size_t n_set = 0;
    for (size_t i = 0; i < (n_elems + 63) / 64 * 64; i++) {
        const int is_set = (int)(bits->words[i / 64] >> i % 64 & 1);
        if (is_set != (i < n_elems && expected[i] != bits->of_dropped))
            end_with("made another bit than that of its element");
        if (i % ELEMS_PER_COUNT == 0 && bits->counts[i / ELEMS_PER_COUNT] != n_set)
            end_with("counted other bits before an element");
        if (is_set && (n_set >= n_listed || bits->indices[n_set] != (int64_t)i))
            end_with("did not list a bit");
        n_set += (size_t)is_set;
    }
    if (n_set != n_listed)
        end_with("counted other bits than it made");
}

/* Checks the jobs that make, count and list the decisions of a random job, at one distance from the guard pages. */
static void check_bits(const char *only_isa, size_t n_job, int is_at_end, size_t distance)
{
    const int is_long = n_job % JOBS_TO_A_LONG_ONE == JOBS_TO_A_LONG_ONE - 1;
    test_job t = make_random_job(&source, is_long ? MOST_ELEMS_OF_LONG_JOBS : MOST_ELEMS, 1.0, 0.0, 0.0);
    job_request *r = &t.request;
    r->operation = OPERATION_fill_keep;
    r->dtype = 0;
    const size_t n_elems = r->n_elems, n_counts = (n_elems + ELEMS_PER_COUNT - 1) / ELEMS_PER_COUNT;
    const size_t word_bytes = (n_elems + 63) / 64 * sizeof(uint64_t), count_bytes = n_counts * sizeof(size_t);
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t);
    if (n_elems == 0 || n_elems * sizeof(int64_t) + distance > ROOM_BYTES)
        return;
    now_call = NULL;
    now_job = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    now_is_in_place = now_is_streaming = 0;
    expect_job(expected, &t);
    keep_bits bits = {
        .words = (uint64_t *)(void *)(memory[WORDS_ARRAY].writable + offset_of(word_bytes, is_at_end, aligned)),
        .counts = (size_t *)(void *)(memory[FIRST].writable + offset_of(count_bytes, is_at_end, aligned))};
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if (only_isa != NULL && strcmp(only_isa, kernels->isa) != 0)
            continue;
        now_isa = kernels->isa;
        for (int how = 0; how < 4; how++) {
            job j;
            job_pieces pieces;
            size_t n_listed = 0;
            bits.of_dropped = how / 2;
            now_how = bits.of_dropped ? " on dropped bits" : " on kept bits";
            if (plan_job_or_bits(&j, &t, &bits) != 0)
                end_with("was refused");
            const char *failure = cut_into_ranges(&pieces, &j, how % 2 ? 1 + n_job % MAX_CUTS : 1);
            if (failure != NULL)
                end_with(failure);
            run_pieces(&j, &pieces, 0);
            check_canaries_of(WORDS_ARRAY, (char *)bits.words, word_bytes);
            check_canaries_of(FIRST, (char *)bits.counts, count_bytes);
            for (size_t c = 0; c < n_counts; c++) {
                const size_t n_here = bits.counts[c];
                bits.counts[c] = n_listed;
                n_listed += n_here;
            }
            if (n_listed > n_elems)
                end_with("counted more bits than elements");
            const size_t index_bytes = n_listed * sizeof(int64_t);
            bits.indices = (int64_t *)(void *)(memory[X].writable + offset_of(index_bytes, is_at_end, aligned));
            job_plan_list(&j, &bits, n_elems);
            run_pieces(&j, &pieces, 0);
            check_canaries_of(X, (char *)bits.indices, index_bytes);
            check_bits_made(&bits, n_elems, n_listed);
            memset(bits.words, CANARY, word_bytes);
            memset(bits.counts, CANARY, count_bytes);
            memset(bits.indices, CANARY, index_bytes);
            counts.n_jobs += 2;
        }
    }
    now_how = "";
}

/* ---- squares of images ---- */

/* Checks the words and counts of a random job on squares at one distance from the guard pages. */
static void check_squares(const char *only_isa, size_t n_job, int is_at_end, size_t distance)
{
    static uint64_t expected_words[MOST_SQUARES_WORDS];
    const int is_long = n_job % JOBS_TO_A_LONG_ONE == JOBS_TO_A_LONG_ONE - 1;
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t);
    const test_squares t = make_random_squares(&source, is_long ? MOST_SQUARES_ELEMS : MOST_ELEMS);
    const size_t word_bytes = words_of_squares(&t) * sizeof(uint64_t);
    const size_t count_bytes = squares_counts(&t.images) * sizeof(size_t);
    now_call = NULL;
    now_job = NULL;
    now_squares = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    now_is_in_place = now_is_streaming = 0;
    expect_squares(expected_words, &t);
    const keep_bits bits = {
        .words = (uint64_t *)(void *)(memory[WORDS_ARRAY].writable + offset_of(word_bytes, is_at_end, aligned)),
        .counts = (size_t *)(void *)(memory[FIRST].writable + offset_of(count_bytes, is_at_end, aligned))};
    for (int mistake = 0; mistake < N_SQUARES_MISTAKES; mistake++) {
        job unused;
        test_squares wrong = t;
        keep_bits wrong_bits = bits;
        if (!make_squares_mistake(&wrong, &wrong_bits, mistake))
            continue;
        if (job_plan_squares(&unused, &wrong.request, &wrong.images, &wrong_bits) != -1)
            end_with("was planned with a mistake in it");
        counts.n_refused++;
    }
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if (only_isa != NULL && strcmp(only_isa, kernels->isa) != 0)
            continue;
        now_isa = kernels->isa;
        for (int is_cut = 0; is_cut < 2; is_cut++) {
            job j;
            job_pieces pieces;
            if (job_plan_squares(&j, &t.request, &t.images, &bits) != 0)
                end_with("was refused");
            const char *failure = cut_into_ranges(&pieces, &j, is_cut ? 1 + n_job % MAX_CUTS : 1);
            if (failure != NULL)
                end_with(failure);
            run_pieces(&j, &pieces, 0);
            check_canaries_of(WORDS_ARRAY, (char *)bits.words, word_bytes);
            check_canaries_of(FIRST, (char *)bits.counts, count_bytes);
            if (memcmp(bits.words, expected_words, word_bytes) != 0)
                end_with("decided otherwise than its squares one by one");
            if (!are_counts_right(&j))
                end_with("counted other elements than it keeps");
            memset(bits.words, CANARY, word_bytes);
            memset(bits.counts, CANARY, count_bytes);
            counts.n_jobs++;
        }
    }
    now_squares = NULL;
}

/* ---- kept rows and columns ---- */

/* Plans a submatrix between guard pages and returns the job's read-only address. */
static const job *plan_guarded_submatrix(const test_submatrix *t)
{
    const size_t offset = (ROOM_BYTES - sizeof(job)) / _Alignof(job) * _Alignof(job);
    if (job_plan_submatrix((job *)(void *)(memory[ROOM].writable + offset), &t->request, t->dtype) != 0)
        end_with("was refused");
    return (const job *)(const void *)(memory[ROOM].readable + offset);
}

static void check_submatrix_mistakes(const test_submatrix *t)
{
    for (int mistake = 0; mistake < N_SUBMATRIX_MISTAKES; mistake++) {
        static test_submatrix wrong;
        job unused;
        wrong = *t;
        if (!make_submatrix_mistake(&wrong, mistake))
            continue;
        if (job_plan_submatrix(&unused, &wrong.request, wrong.dtype) != -1)
            end_with("was planned with a mistake in it");
        counts.n_refused++;
    }
    check_canaries(t->request.out, 0);
}

/* Checks a random submatrix at one distance from the guard pages, whole and in pieces, on every instruction set. */
static void check_submatrix(const char *only_isa, size_t n_job, int is_at_end, size_t distance, size_t n_too_many)
{
    static test_submatrix t;
    submatrix *r = &t.request;
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t); /* words must be aligned */
    make_random_submatrix(&t, &source, n_job % JOBS_TO_A_LONG_ONE == 0 ? MOST_SUBMATRIX_ELEMS : MOST_ELEMS,
                          1.4287109375);
    const size_t elem_bytes = dtype_table[t.dtype].n_bytes;
    const size_t n_bytes = is_gathering(&t) ? bytes_of_dense(&t) : bytes_of_matrix(&t);
    const size_t x_bytes = is_gathering(&t) ? bytes_of_matrix(&t) : bytes_of_dense(&t);
    now_call = NULL;
    now_job = NULL;
    now_submatrix = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    now_is_streaming = now_is_in_place = 0;
    now_isa = "portable";
    now_how = "";
    fill_with_numbers(inputs[X], x_bytes, elem_bytes);
    fill_with_numbers(inputs[RESIDUAL], n_bytes, elem_bytes); /* what the output holds before */
    memcpy(expected, inputs[RESIDUAL], n_bytes);
    expect_submatrix(expected, inputs[X], &t);

    char *out = memory[OUT].writable + offset_of(n_bytes, is_at_end, distance);
    r->out = out;
    r->x = put_input(X, inputs[X], x_bytes, is_at_end, distance);
    if (r->row_words != NULL)
        r->row_words = (const void *)put_input(BIAS, (const char *)t.row_words, bytes_of_line_words(r->n_rows),
                                               is_at_end, aligned);
    if (r->column_words != NULL)
        r->column_words = (const void *)put_input(WORDS_ARRAY, (const char *)t.column_words,
                                                  bytes_of_line_words(r->n_columns), is_at_end, aligned);
    check_submatrix_mistakes(&t);
    const job *j = plan_guarded_submatrix(&t);
    const job_pieces whole = whole_job(j), anywhere = cut_anywhere(j, &source);
    job_pieces cut = whole;
    const char *failure = j->layout == LAYOUT_NONE ? NULL : cut_into_ranges(&cut, j, 1 + n_job % MAX_CUTS);
    if (failure != NULL)
        end_with(failure);
    counts.n_of_layout[j->layout]++;
    counts.n_jobs++;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if (only_isa != NULL && strcmp(only_isa, kernels->isa) != 0)
            continue;
        now_isa = kernels->isa;
        for (int how = 0; how < 3; how++) {
            now_how = how == 0 ? " as a whole" : how == 1 ? " by the planner's ranges" : " cut anywhere";
            memcpy(out, inputs[RESIDUAL], n_bytes);
            run_pieces(j, how == 0 ? &whole : how == 1 ? &cut : &anywhere, j->n_elems > 0 ? n_too_many : 0);
            check_canaries(out, n_bytes);
            if (memcmp(out, expected, n_bytes) != 0)
                end_with("gave another result than its elements one by one");
            memset(out, CANARY, n_bytes);
        }
    }
    now_how = "";
}

/* ---- steps of optimizers ---- */

enum { N_UPDATED = 3 };
static const int updated[N_UPDATED] = {OUT, FIRST, SECOND};
static char stepped[N_UPDATED][ROOM_BYTES];

static void check_update_mistakes(const test_update *t)
{
    for (int mistake = 0; mistake < N_UPDATE_MISTAKES; mistake++) {
        static test_update wrong;
        job unused;
        wrong = *t;
        if (!make_update_mistake(&wrong, mistake))
            continue;
        if (plan_update(&unused, &wrong) != -1)
            end_with("was planned with a mistake in it");
        counts.n_refused++;
    }
}

/* Checks a random step at one distance from the guard pages, whole and in pieces, on every instruction set. */
static void check_update(const char *only_isa, size_t n_job, int is_at_end, size_t distance, size_t n_too_many)
{
    static test_update t;
    submatrix *r = &t.kept.request;
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t); /* words must be aligned */
    make_random_update(&t, &source, n_job % JOBS_TO_A_LONG_ONE == 0 ? MOST_SUBMATRIX_ELEMS : MOST_ELEMS);
    const size_t elem_bytes = dtype_table[t.kept.dtype].n_bytes, n_bytes = bytes_of_updated(&t);
    const updated_arrays after = {stepped[0], stepped[1], stepped[2]};
    now_call = NULL;
    now_job = NULL;
    now_submatrix = NULL;
    now_update = &t;
    now_is_at_end = is_at_end;
    now_distance = distance;
    now_is_streaming = now_is_in_place = 0;
    now_isa = "portable";
    now_how = "";
    fill_with_numbers(inputs[X], bytes_of_grad(&t), elem_bytes);
    for (int i = 0; i < N_UPDATED; i++) {
        fill_with_numbers(inputs[updated[i]], n_bytes, elem_bytes);
        for (size_t e = 0; i == 2 && e < n_bytes; e += elem_bytes) /* no second is below 0: no root is NaN */
            store_bits(inputs[SECOND] + e, next_random() >> 2 >> (64 - 8 * elem_bytes), elem_bytes);
        memcpy(stepped[i], inputs[updated[i]], n_bytes);
    }
    expect_update(&after, inputs[X], &t);

    char *at[N_UPDATED];
    for (int i = 0; i < N_UPDATED; i++)
        at[i] = memory[updated[i]].writable + offset_of(n_bytes, is_at_end, distance);
    t.request.param = at[0];
    t.request.first = at[1];
    t.request.second = at[2];
    t.request.grad = put_input(X, inputs[X], bytes_of_grad(&t), is_at_end, distance);
    if (r->row_words != NULL)
        r->row_words = (const void *)put_input(BIAS, (const char *)t.kept.row_words, bytes_of_line_words(r->n_rows),
                                               is_at_end, aligned);
    if (r->column_words != NULL)
        r->column_words = (const void *)put_input(WORDS_ARRAY, (const char *)t.kept.column_words,
                                                  bytes_of_line_words(r->n_columns), is_at_end, aligned);
    check_update_mistakes(&t);
    const size_t offset = (ROOM_BYTES - sizeof(job)) / _Alignof(job) * _Alignof(job);
    if (plan_update((job *)(void *)(memory[ROOM].writable + offset), &t) != 0)
        end_with("was refused");
    const job *j = (const job *)(const void *)(memory[ROOM].readable + offset);
    const job_pieces whole = whole_job(j), anywhere = cut_anywhere(j, &source);
    job_pieces cut = whole;
    const char *failure = j->layout == LAYOUT_NONE ? NULL : cut_into_ranges(&cut, j, 1 + n_job % MAX_CUTS);
    if (failure != NULL)
        end_with(failure);
    counts.n_of_layout[j->layout]++;
    counts.n_jobs++;
    for (size_t i = 0; supported_at(i) != NULL; i++) {
        kernels = supported_at(i);
        if (only_isa != NULL && strcmp(only_isa, kernels->isa) != 0)
            continue;
        now_isa = kernels->isa;
        for (int how = 0; how < 3; how++) {
            now_how = how == 0 ? " as a whole" : how == 1 ? " by the planner's ranges" : " cut anywhere";
            for (int k = 0; k < N_UPDATED; k++)
                memcpy(at[k], inputs[updated[k]], n_bytes);
            run_pieces(j, how == 0 ? &whole : how == 1 ? &cut : &anywhere, j->n_elems > 0 ? n_too_many : 0);
            for (int k = 0; k < N_UPDATED; k++) {
                check_canaries_of(updated[k], at[k], n_bytes);
                if (memcmp(at[k], stepped[k], n_bytes) != 0)
                    end_with("gave another result than its elements one by one");
                memset(at[k], CANARY, n_bytes);
            }
        }
    }
    now_how = "";
}

/* ---- all kernels, many jobs ---- */

static const size_t few[] = {0, 1, 2, 4, 8, 16, 39, 56};

/* What the command line asks for. */
typedef struct {
    const char *only_isa;
    size_t n_distances, n_jobs;
    size_t n_too_many, n_too_many_of_jobs, n_too_many_rows, n_too_many_of_steps;
} task;

static size_t distance_of(const task *what, size_t i)
{
    return what->n_distances > sizeof few / sizeof *few ? i % what->n_distances : few[i % what->n_distances];
}

static void check_kernels(const task *what)
{
    size_t n_calls = 0, n_streaming = 0;
    for (int dtype = 0; dtype < N_DTYPES; dtype++) {
        for (int array = 0; array < N_ARRAYS; array++)
            fill_with_numbers(inputs[array], ROOM_BYTES, array == WORDS_ARRAY ? 8 : dtype_table[dtype].n_bytes);
        for (int kernel = 0; kernel < (dtype == 0 ? N_KERNELS : FILL_KEEP); kernel++) {
            const size_t n_numbers = kernel == FILL_RAW ? 3 : MAX_ELEMS + 1 + N_LONGER;
            for (size_t i = what->n_too_many; is_kernel(kernel) && i < n_numbers; i++) {
                const size_t n_elems = i <= MAX_ELEMS ? i : longer[i - MAX_ELEMS - 1];
                for (size_t d = 0; d < 2 * what->n_distances; d++) {
                    const kernel_call call = make_call(kernel, dtype, n_elems, n_calls);
                    n_streaming +=
                        check_call(call, what->only_isa, d % 2 == 0, distance_of(what, d / 2), what->n_too_many);
                    n_calls++;
                }
            }
        }
    }
    printf("%zu calls, %zu of them streaming as well: nothing outside an array, the same bits everywhere\n", n_calls,
           n_streaming);
    fflush(stdout); /* on_fault writes to the file descriptor */
}

static void check_jobs(const task *what)
{
    const int is_special = what->n_too_many_rows || what->n_too_many_of_steps;
    for (size_t n = 0; n < what->n_jobs && !is_special; n++)
        check_job(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2), what->n_too_many_of_jobs);
    for (size_t n = 0; n < what->n_jobs && !what->n_too_many_of_steps; n++)
        check_submatrix(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2), what->n_too_many_rows);
    for (size_t n = 0; n < what->n_jobs && !is_special; n++)
        check_record(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2));
    memset(memory[WORDS_ARRAY].writable, CANARY, ROOM_BYTES);
    memset(memory[X].writable, CANARY, ROOM_BYTES);
    for (size_t n = 0; n < what->n_jobs && !is_special; n++)
        check_bits(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2));
    for (size_t n = 0; n < what->n_jobs && !is_special; n++)
        check_squares(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2));
    for (size_t n = 0; n < what->n_jobs; n++)
        check_update(what->only_isa, n, n % 2 == 0, distance_of(what, n / 2), what->n_too_many_of_steps);
    printf("%zu jobs, %zu of them streaming, and %zu with records (", counts.n_jobs, counts.n_streamed,
           counts.n_recorded);
    for (int layout = 0; layout < N_LAYOUTS; layout++)
        printf("%s%zu %s", layout > 0 ? ", " : "", counts.n_of_layout[layout], name_of_layout((job_layout)layout));
    printf("), %zu refused: nothing outside an array, the bits of single elements\n", counts.n_refused);
    for (int layout = 0; layout < N_LAYOUTS; layout++)
        if (counts.n_of_layout[layout] == 0 && (layout != LAYOUT_RECORDED || counts.n_recorded > 0)) {
            printf("no job had the layout %s\n", name_of_layout((job_layout)layout));
            exit(1);
        }
}

int main(int n_arguments, char **arguments)
{
    const char *name = n_arguments > 1 ? arguments[1] : "few";
    task what = {.only_isa = n_arguments > 2 ? arguments[2] : NULL,
                 .n_distances = sizeof few / sizeof *few,
                 .n_jobs = 2000,
                 .n_too_many = strcmp(name, "one-too-many") == 0,
                 .n_too_many_of_jobs = strcmp(name, "one-too-many-jobs") == 0,
                 .n_too_many_rows = strcmp(name, "one-too-many-rows") == 0,
                 .n_too_many_of_steps = strcmp(name, "one-too-many-steps") == 0};
    if (strcmp(name, "all") == 0) {
        what.n_distances = 64;
        what.n_jobs = 50000;
    } else if (strcmp(name, "touching") == 0) {
        what.n_distances = 1;
    }
    for (int array = 0; array < N_ARRAYS; array++) {
        memory[array] = make_guarded();
        memset(memory[array].writable, CANARY, ROOM_BYTES);
    }
    limits.min_recorded_elems = ELEMS_PER_GROUP;
    kernels = supported_at(0); /* plans count kept rows and columns by a kernel */
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    if (!what.n_too_many_of_jobs && !what.n_too_many_rows && !what.n_too_many_of_steps)
        check_kernels(&what);
    check_jobs(&what);
    for (size_t i = 0; i < N_UPDATED * (size_t)ROOM_BYTES; i++)
        if ((unsigned char)memory[updated[i / ROOM_BYTES]].writable[i % ROOM_BYTES] != CANARY)
            end_with("wrote far from its output");
    return 0;
}
