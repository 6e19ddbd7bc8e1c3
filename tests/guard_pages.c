/* Every kernel of every instruction set that this processor has, between pages that can be neither read nor written:
 * a read or a write outside an array ends the program at once, a write beside the output changes a canary, and what is
 * only read is mapped read-only. Each result is compared with that of the portable kernels.
 *
 *     guard_pages                at a few distances from the pages
 *     guard_pages all            at every distance from 0 to 63 bytes
 *     guard_pages touching       at none
 *     guard_pages one-too-many   tells the kernels of one element more than there is, which must be seen
 *
 * Plain C, without Python; needs Linux, for memory that is mapped twice. */
#define _GNU_SOURCE
#include "kernel_calls.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_ELEMS = 300, ROOM_BYTES = 1 << 16, N_CANARIES = 128, CANARY = 0xA5 };

/* Each up to `n` elements, and a few numbers where blocks begin and end, and long runs are skipped. */
static const size_t longer[] = {1000, 4095, 4096, 4097, 5000};
enum { N_LONGER = sizeof longer / sizeof *longer };

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

/* ---- memory between pages that nobody may touch ---- */

/* The same memory twice, each time with a guard page on both sides. */
typedef struct {
    char *writable;
    char *readable;
} guarded;

enum { OUT, X, RESIDUAL, BIAS, ROOM, WORDS, N_ARRAYS };
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

/* Where an array of n_bytes begins: `distance` bytes from the page before it, or after it. */
static size_t offset_of(size_t n_bytes, int is_at_end, size_t distance)
{
    return is_at_end ? ROOM_BYTES - n_bytes - distance : distance;
}

/* Copies an input to its place and returns where it can be read. */
static const char *put(int array, const char *from, size_t n_bytes, int is_at_end, size_t distance)
{
    const size_t offset = offset_of(n_bytes, is_at_end, distance);
    memcpy(memory[array].writable + offset, from, n_bytes);
    return memory[array].readable + offset;
}

/* ---- what runs now, for whoever reads why it ended ---- */

static const char *now_isa = "no instruction set";
static const kernel_call *now_call;
static size_t now_distance;
static int now_is_at_end, now_is_streaming, now_is_in_place;

static void say(const char *what)
{
    char line[300];
    const int n = snprintf(line, sizeof line,
                           "%s%s: %s_%s %s: %zu positions of %zu from %llu, bias of %zu, %zu bytes from the guard "
                           "page %s%s\n",
                           now_isa, now_is_streaming ? " streaming" : "", kernel_names[now_call->kernel],
                           dtype_names[now_call->dtype], what, now_call->n_positions, now_call->n_repeats,
                           (unsigned long long)now_call->first, now_call->n_bias, now_distance,
                           now_is_at_end ? "behind" : "before", now_is_in_place ? ", in place" : "");
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

static uint64_t random_state = 1;

/* Marsaglia's xorshift with the shifts 13, 7, 17 (J. Stat. Soft. 8(14), 2003). */
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Finite numbers of either sign, subnormal ones and zeros among them: any bits but the exponent's highest. */
static void fill_with_numbers(char *array, size_t n_bytes, size_t elem_bytes)
{
    for (size_t i = 0; i < n_bytes; i += elem_bytes) {
        const uint64_t mask = ~((uint64_t)1 << (8 * elem_bytes - 2)), number = next_random() & mask;
        const uint32_t number32 = (uint32_t)number;
        const uint16_t number16 = (uint16_t)number;
        memcpy(array + i,
               elem_bytes == 8   ? (const void *)&number
               : elem_bytes == 4 ? (const void *)&number32
                                 : &number16,
               elem_bytes);
    }
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
    if (repeats(kernel) && n_elems > 0) {
        call.n_repeats = 1 + (size_t)(next_random() % n_elems);
        if (n_calls % 2 && call.n_repeats >= 16)
            call.n_repeats -= call.n_repeats % 16; /* which may be streamed */
        call.n_positions = n_elems / call.n_repeats;
    }
    return call;
}

/* A first position from which the streaming kernels may write to this out, where there is one. */
static void make_streamable(kernel_call *call, const char *out)
{
    const size_t elem_bytes = bytes_of_dtype(call->dtype);
    for (size_t i = 0; i < STREAM_ALIGN / elem_bytes && !streams(call, out); i++)
        call->first++;
}

static void check_canaries(const char *out, size_t n_bytes)
{
    const char *begin = memory[OUT].writable, *end = begin + ROOM_BYTES;
    for (size_t i = 1; i <= N_CANARIES; i++) {
        if (out - begin >= (ptrdiff_t)i && (unsigned char)out[-(ptrdiff_t)i] != CANARY)
            end_with("wrote before its output");
        if (end - (out + n_bytes) >= (ptrdiff_t)i && (unsigned char)out[n_bytes + i - 1] != CANARY)
            end_with("wrote behind its output");
    }
}

/* Every array of a call at one distance from its guard pages; returns how many streaming kernels took part. */
static size_t check_call(kernel_call call, const char *only_isa, int is_at_end, size_t distance, size_t n_too_many)
{
    const int reads = what_is_read(call.kernel);
    const size_t n_bytes = bytes_written(&call), elem_bytes = bytes_of_dtype(call.dtype);
    const size_t aligned = distance / sizeof(uint64_t) * sizeof(uint64_t); /* words are words */
    const size_t words_bytes = words_for(call.n_positions) * sizeof(uint64_t);
    char *out = memory[OUT].writable + offset_of(n_bytes, is_at_end, call.kernel == FILL_WORDS ? aligned : distance);
    make_streamable(&call, out);

    const places plain = {.out = expected,
                          .x = inputs[X],
                          .residual = inputs[RESIDUAL],
                          .bias = inputs[BIAS],
                          .room = plain_room,
                          .words = (const uint64_t *)(const void *)inputs[WORDS]};
    run_call(&kernels_portable, 0, &call, &plain);
    places at = {.out = out};
    if (reads & READS_X)
        at.x = put(X, inputs[X], n_bytes, is_at_end, distance);
    if (reads & READS_RESIDUAL)
        at.residual = put(RESIDUAL, inputs[RESIDUAL], n_bytes, is_at_end, distance);
    if (reads & READS_WORDS)
        at.words = (const void *)put(WORDS, inputs[WORDS], words_bytes, is_at_end, aligned);
    if (reads & READS_BIAS) {
        at.bias = put(BIAS, inputs[BIAS], call.n_bias * elem_bytes, is_at_end, distance);
        at.room = memory[ROOM].writable + offset_of(bytes_of_room(&call), is_at_end, distance);
    }

    size_t n_streaming = 0;
    kernel_call told = call;
    told.n_positions += n_too_many;
    now_call = &told;
    now_is_at_end = is_at_end;
    now_distance = distance;
    for (size_t t = 0; kernels_at(t) != NULL; t++) {
        const kernel_table *table = kernels_at(t);
        if (!table->is_supported() || (only_isa != NULL && strcmp(only_isa, table->isa) != 0))
            continue;
        now_isa = table->isa;
        for (int how = 0; how < 6; how++) {
            now_is_streaming = how % 2;
            now_is_in_place = how / 2;
            const int input = now_is_in_place == 1 ? READS_X : READS_RESIDUAL;
            if ((now_is_streaming && !streams(&call, out)) || (now_is_in_place && !(reads & input)))
                continue;
            places here = at;
            if (now_is_in_place) {
                memcpy(out, inputs[now_is_in_place == 1 ? X : RESIDUAL], n_bytes);
                *(now_is_in_place == 1 ? &here.x : &here.residual) = out;
            }
            run_call(table, now_is_streaming, &told, &here);
            check_canaries(out, n_bytes);
            if (memcmp(out, expected, n_bytes) != 0)
                end_with("gave another result than portable");
            memset(out, CANARY, n_bytes);
            n_streaming += (size_t)now_is_streaming;
        }
    }
    return n_streaming;
}

int main(int n_arguments, char **arguments)
{
    const char *task = n_arguments > 1 ? arguments[1] : "few";
    const char *only_isa = n_arguments > 2 ? arguments[2] : NULL;
    static const size_t few[] = {0, 1, 2, 4, 8, 16, 39, 56};
    const int all = strcmp(task, "all") == 0;
    const size_t n_distances = all ? 64 : strcmp(task, "touching") == 0 ? 1 : sizeof few / sizeof *few;
    const size_t n_too_many = strcmp(task, "one-too-many") == 0;
    for (int array = 0; array < N_ARRAYS; array++) {
        memory[array] = make_guarded();
        memset(memory[array].writable, CANARY, ROOM_BYTES);
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    size_t n_calls = 0, n_streaming = 0;
    for (int dtype = 0; dtype < N_DTYPES; dtype++) {
        for (int array = 0; array < N_ARRAYS; array++)
            fill_with_numbers(inputs[array], ROOM_BYTES, array == WORDS ? 8 : bytes_of_dtype(dtype));
        for (int kernel = 0; kernel < (dtype == 0 ? N_KERNELS : FILL_KEEP); kernel++) {
            const size_t n_numbers = kernel == FILL_RAW ? 3 : MAX_ELEMS + 1 + N_LONGER;
            for (size_t i = n_too_many; i < n_numbers; i++) {
                const size_t n_elems = i <= MAX_ELEMS ? i : longer[i - MAX_ELEMS - 1];
                for (size_t d = 0; d < 2 * n_distances; d++) {
                    const kernel_call call = make_call(kernel, dtype, n_elems, n_calls);
                    n_streaming += check_call(call, only_isa, d % 2 == 0, all ? d / 2 : few[d / 2], n_too_many);
                    n_calls++;
                }
            }
        }
    }
    for (size_t i = 0; i < ROOM_BYTES; i++)
        if ((unsigned char)memory[OUT].writable[i] != CANARY)
            end_with("wrote far from its output");
    printf("%zu calls, %zu of them streaming as well: nothing outside an array, the same bits everywhere\n", n_calls,
           n_streaming);
    return 0;
}
