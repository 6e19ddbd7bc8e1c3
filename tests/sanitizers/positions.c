/* Threads that draw from one stream at the same time: no position may be taken twice, and the bits must be those of one
 * thread. Then threads that run the ranges of one job, for jobs of every layout. For ThreadSanitizer;
 * tests/sanitizers/run builds and runs it. Plain C without Python.
 *
 * With -DPLAIN the atomic numbers become ordinary ones: a control, in which the sanitizer must find data races. */
#if defined(PLAIN)
#define CDROPOUT_ATOMIC_H
#define ATOMIC_LOAD(p) (*(p))
#define ATOMIC_STORE(p, value) ((void)(*(p) = (value)))
#define ATOMIC_ADD(p, change) (*(p) += (change))
#define ATOMIC_EXCHANGE_IF(p, seen, wanted) (*(p) = (wanted), (void)(seen), 1)
#endif

#include "../../src/core/active_calls.h"
#include "../../src/core/position.h"
#include "../squares_calls.h"
#include "../submatrix_calls.h"
#include "../update_calls.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_THREADS = 8, N_DRAWS = 60, MAX_BLOCKS = 3, MOST_BLOCKS = N_THREADS * N_DRAWS * MAX_BLOCKS };

static const mask_rule rule = {.key = {{0x0123456789ABCDEFu, 0xFEDCBA9876543210u}}, .threshold = -26214};

/* Shared by the threads. A thread writes only the blocks of kept, scaled and n_takers that it has drawn. */
static uint64_t next_elem;
static active_calls calls;
static uint8_t *kept;
static float *scaled, *ones;
static unsigned char n_takers[MOST_BLOCKS];

static void fill(uint8_t *kept_at, float *scaled_at, uint64_t first, size_t n_elems)
{
    const operands ops = {.out = (char *)scaled_at, .x = (const char *)ones, .n_repeats = 1, .scale = 1.25};
    kernels->fill_keep(kept_at, &rule, first, n_elems);
    kernels->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&ops, &rule, first, n_elems);
}

/* Starts a thread on each argument and waits for their results. Returns NULL, or a failure. */
static const char *run_threads(void *(*function)(void *), void *arguments, size_t argument_bytes,
                               void *results[N_THREADS])
{
    pthread_t threads[N_THREADS];
    for (size_t i = 0; i < N_THREADS; i++)
        if (pthread_create(&threads[i], NULL, function, (char *)arguments + i * argument_bytes) != 0)
            return "no thread could be started";
    for (size_t i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], &results[i]);
    return NULL;
}

static void *draw(void *seed)
{
    unsigned random = *(unsigned *)seed;
    for (int i = 0; i < N_DRAWS; i++) {
        random = random * 1664525u + 1013904223u; /* Knuth's "quick and dirty" generator, TAOCP 2, 3.3.4 */
        const size_t n_blocks = 1 + (random >> 16) % MAX_BLOCKS, n_elems = n_blocks * ELEMS_PER_BLOCK;
        uint64_t first;
        const int n_now = enter_active_calls(&calls);
        const int most = most_active_calls(&calls, n_now, (uint64_t)i * 1000);
        if (most < 1 || most > N_THREADS || !take_blocks(&next_elem, n_elems, &first))
            return "an impossible number of active calls, or a stream that ended too soon";
        for (size_t block = 0; block < n_blocks; block++)
            n_takers[first / ELEMS_PER_BLOCK + block]++;
        fill(kept + first, scaled + first, first, n_elems);
        leave_active_calls(&calls);
    }
    return NULL;
}

static const char *check_threads(void)
{
    void *results[N_THREADS];
    unsigned seeds[N_THREADS];
    next_elem = 0;
    memset(n_takers, 0, sizeof n_takers);
    for (unsigned i = 0; i < N_THREADS; i++)
        seeds[i] = i;
    const char *failure = run_threads(draw, seeds, sizeof *seeds, results);
    for (int i = 0; i < N_THREADS && failure == NULL; i++)
        failure = results[i];
    return failure;
}

static const char *check_bits(void)
{
    const size_t n_elems = next_elem;
    uint8_t *kept_alone = malloc(n_elems);
    float *scaled_alone = malloc(n_elems * sizeof *scaled_alone);
    const char *failure = NULL;
    for (size_t block = 0; block < n_elems / ELEMS_PER_BLOCK; block++)
        if (n_takers[block] != 1)
            failure = "a block that was not taken once";
    /* In other pieces than those of the threads. */
    for (size_t i = 0; i < n_elems; i += 5000)
        kernels->fill_keep(kept_alone + i, &rule, i, n_elems - i < 5000 ? n_elems - i : 5000);
    for (size_t i = 0; i < n_elems; i++)
        scaled_alone[i] = kept_alone[i] ? 1.25f : 0.0f;
    if (memcmp(kept, kept_alone, n_elems) != 0 || memcmp(scaled, scaled_alone, n_elems * sizeof *scaled) != 0)
        failure = "other bits than one thread makes";
    free(kept_alone);
    free(scaled_alone);
    return failure;
}

static void *take_last(void *argument)
{
    uint64_t first;
    return take_blocks(&next_elem, ELEMS_PER_BLOCK, &first) ? argument : NULL;
}

/* At the end of the stream, all threads ask for the last block: one of them gets it. */
static const char *check_end(void)
{
    void *got[N_THREADS];
    int n_got = 0;
    next_elem = POSITION_LIMIT - ELEMS_PER_BLOCK;
    const char *failure = run_threads(take_last, &n_got, 0, got);
    for (int i = 0; i < N_THREADS && failure == NULL; i++)
        n_got += got[i] != NULL;
    return failure != NULL                             ? failure
           : n_got == 1 && next_elem == POSITION_LIMIT ? NULL
                                                       : "a last block that was not taken once";
}

/* ---- ranges of one job ---- */

enum { MOST_JOB_ELEMS = 40000, N_RANDOM_JOBS = 60, MOST_JOBS = 2000 };

/* The range of a job that a thread runs. */
typedef struct {
    const job *j;
    size_t i;
} job_range;

static void *run_range(void *argument)
{
    const job_range *mine = argument;
    job_run(mine->j, job_cut(mine->j, mine->i, N_THREADS), job_cut(mine->j, mine->i + 1, N_THREADS));
    return NULL;
}

static uint64_t random_state = 1;

static uint64_t take_random(void *unused, size_t n_bytes)
{
    (void)unused;
    random_state = random_state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX, TAOCP 2, 3.3.4 */
    return n_bytes <= 4 ? random_state >> (64 - 8 * n_bytes)
                        : ((random_state >> 32) | take_random(unused, 4) << 32) >> (64 - 8 * n_bytes);
}

static const char *run_in_threads(const job *j)
{
    void *results[N_THREADS];
    job_range ranges[N_THREADS];
    for (size_t i = 0; i < N_THREADS; i++)
        ranges[i] = (job_range){j, i};
    return run_threads(run_range, ranges, sizeof *ranges, results);
}

/* Whether a layout of plain jobs has not had one yet. */
static int lacks_layout(const size_t n_of_layout[N_LAYOUTS])
{
    for (int layout = LAYOUT_COPY; layout < LAYOUT_SUBMATRIX; layout++)
        if (n_of_layout[layout] == 0)
            return 1;
    return n_of_layout[LAYOUT_GIVEN] == 0;
}

/* Random jobs, among which every layout must occur. */
static const char *check_jobs(void)
{
    enum { N_BYTES = 8 * MOST_JOB_ELEMS };
    static char input[N_BYTES], other_input[N_BYTES], bias[8 * MAX_BIAS], alone[N_BYTES], together[N_BYTES];
    static uint64_t given[MOST_GIVEN_WORDS];
    random_source source = {.take = take_random};
    size_t n_of_layout[N_LAYOUTS] = {0};
    const char *failure = NULL;
    random_state = 1;
    /* Bytes below 0x40 are finite numbers in every dtype. */
    for (size_t i = 0; i < N_BYTES; i++) {
        input[i] = (char)(i * 7 % 64);
        other_input[i] = (char)(i * 11 % 64);
    }
    memcpy(bias, other_input, sizeof bias);
    for (int n = 0; failure == NULL && (n < N_RANDOM_JOBS || (n < MOST_JOBS && lacks_layout(n_of_layout))); n++) {
        test_job t = make_random_job(&source, MOST_JOB_ELEMS, 1.25, 0.375, -1.25);
        give_decisions(&t, &source, given);
        const int steps = steps_of_operation(t.request.operation);
        job j;
        t.request.x = steps & WITHOUT_X ? NULL : input;
        t.request.residual = steps & READS_RESIDUAL ? other_input : NULL;
        t.request.bias = bias;
        t.request.out = alone;
        if (plan_job(&j, &t) != 0)
            return "a job that was refused";
        job_run(&j, 0, j.n_elems);
        t.request.out = together;
        if (n % 2 && t.request.x != NULL) { /* in place */
            memcpy(together, input, bytes_of_job(&t));
            t.request.x = together;
        }
        if (plan_job(&j, &t) != 0)
            return "a job that was refused in place";
        n_of_layout[j.layout]++;
        failure = run_in_threads(&j);
        if (failure == NULL && memcmp(alone, together, bytes_of_job(&t)) != 0)
            failure = "ranges of a job with other bits than one thread makes";
    }
    for (int n = 0; failure == NULL && n < N_RANDOM_JOBS; n++) {
        static uint64_t record[MOST_JOB_ELEMS / ELEMS_PER_GROUP];
        test_job t = make_random_job(&source, MOST_JOB_ELEMS, 1.25, 0.375, -1.25);
        job j;
        make_recordable(&t, limits.min_recorded_elems + (size_t)n * 641);
        t.request.x = input;
        t.request.out = alone;
        if (job_record_words(&t.request) == 0)
            continue; /* these kernels have none */
        if (plan_job(&j, &t) != 0)
            return "a job that was refused";
        job_run(&j, 0, j.n_elems);
        t.request.record = record;
        t.request.out = together;
        for (int has_record = 0; failure == NULL && has_record < 2; has_record++) {
            t.request.has_record = has_record;
            if (plan_job(&j, &t) != 0)
                return "a job with a record that was refused";
            memset(together, 0, bytes_of_job(&t));
            failure = run_in_threads(&j);
            if (failure == NULL && memcmp(alone, together, bytes_of_job(&t)) != 0)
                failure = "ranges of a job with a record with other bits than one thread makes";
        }
    }
    return failure == NULL && lacks_layout(n_of_layout) ? "a layout that no job had" : failure;
}

/* Bits, their list, and draws. Plans over a job of other numbers, because no plan may depend on what it finds. */
static const char *check_decisions(void)
{
    enum { MOST_WORDS = MOST_JOB_ELEMS / ELEMS_PER_GROUP, MOST_COUNTS = MOST_JOB_ELEMS / ELEMS_PER_COUNT + 1 };
    static uint64_t words[2][MOST_WORDS];
    static size_t counts[2][MOST_COUNTS];
    static int64_t indices[2][MOST_JOB_ELEMS];
    static uint8_t drawn[2][MOST_JOB_ELEMS];
    static double p[MOST_JOB_ELEMS];
    const stream_key key = {{3, 5}};
    for (size_t i = 0; i < MOST_JOB_ELEMS; i++)
        p[i] = (double)(i % 101) / 100;
    for (int n = 0; n < N_RANDOM_JOBS; n++) {
        const size_t n_elems = (size_t)MOST_JOB_ELEMS - (size_t)n * 601;
        const uint64_t first = (uint64_t)n * 997;
        job_request request = blank_request(OPERATION_fill_keep, 0);
        request.key = key;
        request.first = first;
        request.p = 0.3;
        request.n_elems = n_elems;
        for (int is_together = 0; is_together < 2; is_together++) {
            const keep_bits bits = {.words = words[is_together],
                                    .counts = counts[is_together],
                                    .indices = indices[is_together],
                                    .of_dropped = n % 2};
            for (int kind = 0; kind < 3; kind++) {
                job j;
                memset(&j, 0xFF, sizeof j);
                if (kind == 0 && job_plan_bits(&j, &request, &bits) != 0)
                    return "a job on bits that was refused";
                if (kind == 1) {
                    size_t n_listed = 0;
                    for (size_t c = 0; c * ELEMS_PER_COUNT < n_elems; c++) {
                        const size_t n_here = bits.counts[c];
                        bits.counts[c] = n_listed;
                        n_listed += n_here;
                    }
                    job_plan_list(&j, &bits, n_elems);
                }
                if (kind == 2)
                    job_plan_draws(&j, drawn[is_together], p, &key, first, n_elems);
                if (kind == 2 && n_elems > 4 * ELEMS_PER_BLOCK && (first + job_cut(&j, 1, 2)) % ELEMS_PER_BLOCK != 0)
                    return "draws that are not cut at a block";
                const char *failure = NULL;
                if (is_together)
                    failure = run_in_threads(&j);
                else
                    job_run(&j, 0, n_elems);
                if (failure != NULL)
                    return failure;
            }
        }
        if (memcmp(words[0], words[1], (n_elems + 63) / 64 * sizeof **words) != 0 ||
            memcmp(indices[0], indices[1], sizeof *indices) != 0 || memcmp(drawn[0], drawn[1], n_elems) != 0)
            return "ranges of a job on decisions with other bits than one thread makes";
    }
    return NULL;
}

/* Images of many sizes, so that several threads have units that are neighbours in memory. */
static const char *check_squares(void)
{
    enum { MOST_COUNTS = MOST_SQUARES_ELEMS / ELEMS_PER_COUNT + 1 };
    static uint64_t words[2][MOST_SQUARES_WORDS];
    static size_t counts[MOST_COUNTS];
    for (size_t n = 0; n < N_RANDOM_JOBS; n++) {
        const size_t width = 5 + n % 30, height = 5 + n % 7, n_channels = n % 2 ? 1 : 3;
        test_squares t = {.request = blank_request(OPERATION_apply_mask, DTYPE_f32),
                          .images = {.n_images = MOST_SQUARES_ELEMS / (width * height * n_channels),
                                     .height = height,
                                     .width = width,
                                     .n_channels = n_channels,
                                     .side = 1 + n % 5}};
        t.request.key = (stream_key){{n, 7}};
        t.request.p = 0.02;
        for (int is_together = 0; is_together < 2; is_together++) {
            const keep_bits bits = {.words = words[is_together], .counts = counts};
            const char *failure = NULL;
            job j;
            if (job_plan_squares(&j, &t.request, &t.images, &bits) != 0)
                return "a job on squares that was refused";
            if (is_together)
                failure = run_in_threads(&j);
            else
                job_run(&j, 0, j.n_elems);
            if (failure == NULL && !are_counts_right(&j))
                failure = "counts of other elements than are kept";
            if (failure != NULL)
                return failure;
        }
        if (memcmp(words[0], words[1], words_of_squares(&t) * sizeof **words) != 0)
            return "ranges of a job on squares with other bits than one thread makes";
    }
    return NULL;
}

/* Random jobs on kept rows and columns. */
static const char *check_submatrices(void)
{
    enum { N_BYTES = 8 * MOST_SUBMATRIX_ELEMS };
    static char input[N_BYTES], alone[N_BYTES], together[N_BYTES];
    static test_submatrix t;
    random_source source = {.take = take_random};
    const char *failure = NULL;
    int n_jobs = 0;
    random_state = 1;
    for (size_t i = 0; i < N_BYTES; i++)
        input[i] = (char)(i * 7 % 64);
    for (int n = 0; failure == NULL && n < N_RANDOM_JOBS; n++) {
        make_random_submatrix(&t, &source, MOST_SUBMATRIX_ELEMS, 1.25);
        const size_t n_bytes = is_gathering(&t) ? bytes_of_dense(&t) : bytes_of_matrix(&t);
        job j;
        memset(alone, 0, n_bytes);
        memset(together, 0, n_bytes);
        t.request.x = input;
        t.request.out = alone;
        if (job_plan_submatrix(&j, &t.request, t.dtype) != 0)
            return "a submatrix that was refused";
        if (j.layout == LAYOUT_NONE)
            continue;
        job_run(&j, 0, j.n_elems);
        t.request.out = together;
        if (job_plan_submatrix(&j, &t.request, t.dtype) != 0)
            return "a submatrix that was refused at another address";
        n_jobs++;
        failure = run_in_threads(&j);
        if (failure == NULL && memcmp(alone, together, n_bytes) != 0)
            failure = "ranges of a submatrix with other bits than one thread makes";
    }
    return failure != NULL ? failure : n_jobs == 0 ? "no submatrix" : NULL;
}

/* Random steps of optimizers. */
static const char *check_updates(void)
{
    enum { N_BYTES = 8 * MOST_SUBMATRIX_ELEMS };
    static char grad[N_BYTES], alone[3][N_BYTES], together[3][N_BYTES];
    static test_update t;
    random_source source = {.take = take_random};
    size_t n_of_layout[N_LAYOUTS] = {0};
    const char *failure = NULL;
    random_state = 1;
    for (size_t i = 0; i < N_BYTES; i++)
        grad[i] = (char)(i * 7 % 64);
    for (int n = 0; failure == NULL && n < N_RANDOM_JOBS; n++) {
        make_random_update(&t, &source, MOST_SUBMATRIX_ELEMS);
        job j;
        memset(alone, 0, sizeof alone);
        memset(together, 0, sizeof together);
        t.request.grad = grad;
        t.request.param = alone[0];
        t.request.first = alone[1];
        t.request.second = alone[2];
        if (plan_update(&j, &t) != 0)
            return "a step that was refused";
        n_of_layout[j.layout]++;
        if (j.layout == LAYOUT_NONE)
            continue;
        job_run(&j, 0, j.n_elems);
        t.request.param = together[0];
        t.request.first = together[1];
        t.request.second = together[2];
        if (plan_update(&j, &t) != 0)
            return "a step that was refused at another address";
        failure = run_in_threads(&j);
        if (failure == NULL && memcmp(alone, together, sizeof alone) != 0)
            failure = "ranges of a step with other bits than one thread makes";
    }
    const int has_both = n_of_layout[LAYOUT_UPDATE] > 0 && n_of_layout[LAYOUT_UPDATE_KEPT] > 0;
    return failure != NULL ? failure : has_both ? NULL : "a kind of step that no job had";
}

int main(void)
{
    const size_t most_elems = (size_t)MOST_BLOCKS * ELEMS_PER_BLOCK;
    int status = 0;
    kept = malloc(most_elems);
    scaled = malloc(most_elems * sizeof *scaled);
    ones = malloc(MAX_BLOCKS * ELEMS_PER_BLOCK * sizeof *ones);
    if (kept == NULL || scaled == NULL || ones == NULL)
        return 2;
    for (size_t i = 0; i < MAX_BLOCKS * ELEMS_PER_BLOCK; i++)
        ones[i] = 1.0f;
    for (size_t i = 0; kernels_at(i) != NULL; i++) {
        kernels = kernels_at(i);
        if (!kernels->is_supported())
            continue;
        const char *failure = check_threads();
        failure = failure != NULL ? failure : check_bits();
        failure = failure != NULL ? failure : check_end();
        failure = failure != NULL ? failure : check_jobs();
        failure = failure != NULL ? failure : check_decisions();
        failure = failure != NULL ? failure : check_squares();
        failure = failure != NULL ? failure : check_submatrices();
        failure = failure != NULL ? failure : check_updates();
        if (failure == NULL && calls.n_running != 0)
            failure = "calls that never left";
        printf("%s: %s\n", kernels->isa, failure != NULL ? failure : "every position once, the bits of one thread");
        status |= failure != NULL;
    }
    free(kept);
    free(scaled);
    free(ones);
    return status;
}
