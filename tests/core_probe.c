/* Functions of the C core for tests and benchmarks in Python: core_probe.py compiles this file, and passes it the
 * kernel table of the installed library. Plain C without Python.h. */
#include "../src/core/rule.h"
#include "../src/core/team_pause.h"

void probe_philox(uint32_t counter[4], uint64_t key)
{
    philox4x32(counter, key);
}

void probe_thresholds(double p, int32_t *threshold, uint64_t *tie_threshold)
{
    mask_rule rule;
    set_threshold(&rule, p);
    *threshold = rule.threshold;
    *tie_threshold = rule.tie_threshold;
}

/* Notes regions of two threads in a new team_pause: n durations, each with the CPU time of the calling thread, in
 * microseconds. A region runs if the team is not paused; the time goes on by step in any case. Returns how many ran. */
size_t probe_team_pause(const uint64_t *durations, const uint64_t *cpu, size_t n, uint64_t step)
{
    team_pause pause = {0};
    uint64_t now = 1000000;
    size_t n_ran = 0;
    for (size_t i = 0; i < n; i++, now += step)
        if (!is_team_paused(&pause, now)) {
            note_region(&pause, now, now + durations[i], cpu[i], 2);
            n_ran++;
        }
    return n_ran;
}

/* Calls every kernel of a table, with and without streaming, and writes the instruction sets that they return to names.
 * Returns the number of calls. */
size_t probe_isas(const kernel_table *table, const char **names)
{
    static double numbers[130];
    static _Alignas(16) double out[130];
    static uint8_t raw[RAW_BYTES_PER_BLOCK];
    uint64_t words[2] = {0};
    mask_rule rule = {.key = {{0}}};
    size_t n = 0;
    set_threshold(&rule, 0.5);
    names[n++] = table->fill_keep(raw, &rule, 0, 2);
    names[n++] = table->fill_words(words, &rule, 0, 2);
    names[n++] = table->fill_raw(raw, &rule.key, 0, 1);
    names[n++] = table->fill_draws(raw, numbers, &rule.key, 0, 2);
    for (int width = 0; width < N_WIDTHS; width++) {
        const operands arrays = {.out = (char *)out,
                                 .x = (const char *)numbers,
                                 .bias = (const char *)numbers,
                                 .bias_seam = (const char *)numbers,
                                 .bias_period = ELEMS_PER_GROUP,
                                 .n_repeats = 1};
        names[n++] = table->select[width](&arrays, words, 2);
        names[n++] = table->select_range[width](&arrays, &rule, 0, ELEMS_PER_GROUP);
        if (width == 0)
            names[n++] = table->select_tripled(&arrays, &rule, 0, ELEMS_PER_GROUP);
    }
    for (int dtype = 0; dtype < N_DTYPES; dtype++)
        for (int is_streamed = 0; is_streamed < 2; is_streamed++) {
            const char *zeros = (const char *)numbers;
            const operands arrays = {.out = (char *)out,
                                     .x = zeros,
                                     .residual = zeros,
                                     .bias = zeros,
                                     .bias_seam = zeros,
                                     .bias_period = ELEMS_PER_GROUP,
                                     .n_repeats = MIN_REPEATS,
                                     .is_streamed = is_streamed};
            const dtype_kernels *row = table->dtype[dtype];
            for (int operation = 0; operation < N_OPERATIONS; operation++)
                names[n++] = row->range[operation](&arrays, &rule, 0, ELEMS_PER_GROUP);
            names[n++] = row->repeat(&arrays, words, 2, OPERATION_apply_mask);
            names[n++] = row->words(&arrays, words, 2, OPERATION_apply_mask);
            if (row->record != NULL)
                names[n++] = row->record(&arrays, words, ELEMS_PER_GROUP);
        }
    for (int dtype = DTYPE_f32; dtype <= DTYPE_f64; dtype++) {
        static double arrays[4][8];
        const param_update update = {.param = (char *)arrays[0],
                                     .grad = (char *)arrays[1],
                                     .first = (char *)arrays[2],
                                     .second = (char *)arrays[3],
                                     .eps = 1,
                                     .rule = UPDATE_ADAM};
        const submatrix kept = {
            .n_rows = 2, .n_columns = 3, .n_kept_columns = 3, .scale = 1, .verb = SCATTER_KEPT_ZERO};
        const submatrix moved = {.out = (char *)arrays[0],
                                 .x = (const char *)arrays[1],
                                 .n_rows = 2,
                                 .n_columns = 3,
                                 .n_kept_columns = 3,
                                 .scale = 1,
                                 .verb = SCATTER_KEPT_ZERO};
        names[n++] = table->submatrix[dtype](&moved, 0, 2);
        names[n++] = table->update[dtype](&update, 0, 8);
        names[n++] = table->update_kept[dtype](&update, &kept, 0, 2);
    }
    return n;
}

/* Calls the kernel of apply_mask for float32 n_calls times. */
void probe_apply_mask(const kernel_table *table, char *out, const char *x, const uint64_t key[2], uint64_t first,
                      double p, double scale, size_t n_elems, size_t n_calls)
{
    const operands arrays = {.out = out, .x = x, .n_repeats = 1, .scale = scale};
    mask_rule rule = {.key = {{key[0], key[1]}}};
    set_threshold(&rule, p);
    for (size_t i = 0; i < n_calls; i++)
        table->dtype[DTYPE_f32]->range[OPERATION_apply_mask](&arrays, &rule, first, n_elems);
}
