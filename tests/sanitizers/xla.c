/* XLA's side of its foreign function interface, which calls the handlers of src/xla_ffi.c: with random frames as XLA
 * makes them, whose results are compared with those of single elements (job_calls.h); with questions for the version;
 * and with frames that are wrong in one place, each of which must give an error and write nothing. Threads run the
 * tasks at once, at the same time, or after the call, or refuse them.
 *
 *     xla [NUMBER OF RANDOM FRAMES]
 *
 * Every struct and every array ends at a guard page, which can be neither read nor written, or, with -DHEAP, is a
 * separate block of the heap for AddressSanitizer. For ThreadSanitizer, too: tests/sanitizers/run and
 * tests/sanitizers/memory build and run it. Plain C without Python and without XLA.
 *
 * With -DONE_TOO_MANY each result has one element less than its shape says: a control, which must fail. */
#define _GNU_SOURCE
#include "../../src/xla_ffi.h"
#include "../job_calls.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_WORKERS = 4, MASK_WORDS = 8, MAX_LEADING = 2, MAX_TEST_MASKS = 9, MAX_MESSAGE = 256 };

static void end_with(const char *what, const char *name)
{
    fprintf(stderr, "%s: %s\n", name, what);
    fflush(NULL);
    _exit(1);
}

/* ---- memory that ends where it says ---- */

typedef struct {
    void *address;
    size_t n_bytes;
} mapping;

static mapping mappings[64];
static size_t n_mappings;

/* Returns memory of zeros, which free_all frees. */
static void *place(size_t n_bytes)
{
    if (n_mappings == sizeof mappings / sizeof *mappings)
        end_with("has too many arrays", "place");
    mapping *made = &mappings[n_mappings++];
#if defined(HEAP)
    made->address = calloc(1, n_bytes);
    if (made->address == NULL)
        end_with("got no memory", "calloc");
    return made->address;
#else
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (n_bytes + page - 1) / page * page;
    made->n_bytes = inside + 2 * page;
    made->address = mmap(NULL, made->n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->address == MAP_FAILED ||
        (inside > 0 && mprotect((char *)made->address + page, inside, PROT_READ | PROT_WRITE) != 0))
        end_with("got no memory", "mmap");
    return (char *)made->address + page + inside - n_bytes;
#endif
}

static void *place_copy(const void *from, size_t n_bytes)
{
    void *copy = place(n_bytes);
    if (n_bytes > 0)
        memcpy(copy, from, n_bytes);
    return copy;
}

static void free_all(void)
{
    for (; n_mappings > 0; n_mappings--) {
#if defined(HEAP)
        free(mappings[n_mappings - 1].address);
#else
        munmap(mappings[n_mappings - 1].address, mappings[n_mappings - 1].n_bytes);
#endif
    }
}

/* ---- XLA's errors ---- */

struct XLA_FFI_Error {
    char message[MAX_MESSAGE];
};

static int n_errors; /* that exist; of the calling thread only */

static XLA_FFI_Error *create_error(XLA_FFI_Error_Create_Args *args)
{
    XLA_FFI_Error *error = malloc(sizeof *error);
    if (error == NULL || args->struct_size < XLA_FFI_Error_Create_Args_STRUCT_SIZE ||
        args->errc != XLA_FFI_Error_Code_INVALID_ARGUMENT)
        end_with("was called with wrong arguments", "XLA_FFI_Error_Create");
    snprintf(error->message, sizeof error->message, "%s", args->message);
    n_errors++;
    return error;
}

static void destroy_error(XLA_FFI_Error_Destroy_Args *args)
{
    if (args->struct_size < XLA_FFI_Error_Destroy_Args_STRUCT_SIZE)
        end_with("was called with wrong arguments", "XLA_FFI_Error_Destroy");
    free(args->error);
    n_errors--;
}

static XLA_FFI_Error *error_of_pool(void)
{
    XLA_FFI_Error_Create_Args args = {.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
                                      .message = "no pool",
                                      .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT};
    return create_error(&args);
}

/* ---- XLA's threads ---- */

typedef enum { POOL_OF_THREADS, POOL_AT_ONCE, POOL_AFTER_THE_CALL, POOL_FULL, POOL_MISSING, N_POOLS } pool_kind;

struct XLA_FFI_ExecutionContext {
    pool_kind kind;
    int64_t n_threads;
    int n_accepted; /* by a pool that is full after one task */
};

enum { MAX_TASKS = 4096 };

/* A queue of tasks for the workers. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    XLA_FFI_Task *task[MAX_TASKS];
    void *data[MAX_TASKS];
    size_t n_tasks, n_running;
    int is_held; /* until the call has ended */
    int is_over;
} queue = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *work(void *unused)
{
    pthread_mutex_lock(&queue.mutex);
    while (!queue.is_over) {
        if (queue.n_tasks == 0 || queue.is_held) {
            pthread_cond_wait(&queue.changed, &queue.mutex);
            continue;
        }
        queue.n_tasks--;
        queue.n_running++;
        XLA_FFI_Task *task = queue.task[queue.n_tasks];
        void *data = queue.data[queue.n_tasks];
        pthread_mutex_unlock(&queue.mutex);
        task(data);
        pthread_mutex_lock(&queue.mutex);
        queue.n_running--;
        pthread_cond_broadcast(&queue.changed);
    }
    pthread_mutex_unlock(&queue.mutex);
    return unused;
}

static XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args)
{
    if (args->struct_size < XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE)
        end_with("was called with wrong arguments", "XLA_FFI_ThreadPool_Schedule");
    XLA_FFI_ExecutionContext *context = args->ctx;
    if (context->kind == POOL_MISSING || (context->kind == POOL_FULL && context->n_accepted++ > 0))
        return error_of_pool();
    if (context->kind == POOL_AT_ONCE) {
        args->task(args->data);
        return NULL;
    }
    pthread_mutex_lock(&queue.mutex);
    if (queue.n_tasks == MAX_TASKS)
        end_with("is full", "the queue");
    queue.is_held = context->kind == POOL_AFTER_THE_CALL;
    queue.task[queue.n_tasks] = args->task;
    queue.data[queue.n_tasks++] = args->data;
    pthread_cond_broadcast(&queue.changed);
    pthread_mutex_unlock(&queue.mutex);
    return NULL;
}

static void finish_tasks(void)
{
    pthread_mutex_lock(&queue.mutex);
    queue.is_held = 0;
    pthread_cond_broadcast(&queue.changed);
    while (queue.n_tasks > 0 || queue.n_running > 0)
        pthread_cond_wait(&queue.changed, &queue.mutex);
    pthread_mutex_unlock(&queue.mutex);
}

static XLA_FFI_Error *count_threads(XLA_FFI_ThreadPool_NumThreads_Args *args)
{
    if (args->struct_size < XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE)
        end_with("was called with wrong arguments", "XLA_FFI_ThreadPool_NumThreads");
    if (args->ctx->kind == POOL_MISSING)
        return error_of_pool();
    *args->num_threads = args->ctx->n_threads;
    return NULL;
}

/* ---- frames ---- */

static const struct {
    const char *name;
    XLA_FFI_Handler *handler;
    int operation; /* of jobs; -1 for raw bits */
} handlers[] = {
    {"cdropout_apply", xla_apply, OPERATION_apply_mask},
    {"cdropout_relu", xla_relu, OPERATION_relu_dropout},
    {"cdropout_keep", xla_keep, OPERATION_fill_keep},
    {"cdropout_bits", xla_bits, -1},
};
enum { APPLY, RELU, KEEP, BITS, N_HANDLERS };

static int has_x(int handler)
{
    return handler == APPLY || handler == RELU;
}

static const XLA_FFI_DataType float_types[N_DTYPES] = {
    [DTYPE_f32] = XLA_FFI_DataType_F32,
    [DTYPE_f64] = XLA_FFI_DataType_F64,
    [DTYPE_f16] = XLA_FFI_DataType_F16,
    [DTYPE_bf16] = XLA_FFI_DataType_BF16,
};
static const XLA_FFI_DataType bits_types[] = {XLA_FFI_DataType_U8, XLA_FFI_DataType_U16, XLA_FFI_DataType_U32,
                                              XLA_FFI_DataType_U64};

/* A call before it becomes a frame. The test_job describes each mask; its key is that of the first one. */
typedef struct {
    int handler;
    XLA_FFI_DataType dtype; /* of the result */
    size_t elem_bytes;
    test_job job;
    int n_leading;
    int64_t leading[MAX_LEADING];
    size_t n_masks;
    stream_key keys[MAX_TEST_MASKS];
} mask_call;

/* A frame, whose structs may be changed before the handler is called. */
typedef struct {
    XLA_FFI_CallFrame *frame;
    XLA_FFI_Api *api;
    XLA_FFI_ExecutionContext *context;
    XLA_FFI_Buffer *masks, *strides, *x, *out; /* x is NULL where the handler has none */
} built_frame;

static XLA_FFI_Buffer *place_buffer(XLA_FFI_DataType dtype, void *data, int64_t rank, const int64_t *dims)
{
    XLA_FFI_Buffer *buffer = place(XLA_FFI_Buffer_STRUCT_SIZE);
    buffer->struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
    buffer->dtype = dtype;
    buffer->data = data;
    buffer->rank = rank;
    buffer->dims = place_copy(dims, (size_t)rank * sizeof *dims);
    return buffer;
}

static size_t bytes_of_call(const mask_call *c)
{
    return c->n_masks * c->job.request.n_elems * c->elem_bytes;
}

enum { BEFORE_WRITING = 0x5A };

static built_frame build_frame(const mask_call *c, const char *input, int is_in_place)
{
    built_frame b;
    b.api = place(XLA_FFI_Api_STRUCT_SIZE);
    b.api->struct_size = XLA_FFI_Api_STRUCT_SIZE;
    b.api->XLA_FFI_Error_Create = create_error;
    b.api->XLA_FFI_Error_Destroy = destroy_error;
    b.api->XLA_FFI_ThreadPool_Schedule = schedule;
    b.api->XLA_FFI_ThreadPool_NumThreads = count_threads;
    b.context = place(sizeof *b.context);

    const job_request *r = &c->job.request;
    const int64_t n_axes = r->n_axes;
    int64_t dims[MAX_LEADING + MAX_TEST_AXES], dims_of_masks[MAX_LEADING + 1], dims_of_strides[] = {n_axes, 2};
    for (int i = 0; i < c->n_leading; i++)
        dims[i] = dims_of_masks[i] = c->leading[i];
    dims_of_masks[c->n_leading] = MASK_WORDS;
    for (int axis = 0; axis < n_axes; axis++)
        dims[c->n_leading + axis] = (int64_t)c->job.lens[axis];

    uint32_t words[MAX_TEST_MASKS][MASK_WORDS], strides[MAX_TEST_AXES][2];
    for (size_t i = 0; i < c->n_masks; i++) {
        uint64_t pairs[MASK_WORDS / 2] = {c->keys[i].word[0], c->keys[i].word[1], r->first, 0};
        memcpy(&pairs[3], &r->p, sizeof r->p);
        for (int word = 0; word < MASK_WORDS; word++)
            words[i][word] = (uint32_t)(pairs[word / 2] >> (word % 2 == 0 ? 0 : 32));
    }
    for (int axis = 0; axis < n_axes; axis++) {
        strides[axis][0] = (uint32_t)c->job.strides[axis];
        strides[axis][1] = (uint32_t)(c->job.strides[axis] >> 32);
    }
    b.masks = place_buffer(XLA_FFI_DataType_U32, place_copy(words, c->n_masks * sizeof *words), c->n_leading + 1,
                           dims_of_masks);
    b.strides =
        place_buffer(XLA_FFI_DataType_U32, place_copy(strides, (size_t)n_axes * sizeof *strides), 2, dims_of_strides);
#if defined(ONE_TOO_MANY)
    const size_t n_missing = bytes_of_call(c) > 0 ? c->elem_bytes : 0;
#else
    const size_t n_missing = 0;
#endif
    char *out = place(bytes_of_call(c) - n_missing);
    memset(out, BEFORE_WRITING, bytes_of_call(c) - n_missing);
    b.out = place_buffer(c->dtype, out, c->n_leading + n_axes, dims);
    b.x = NULL;
    if (has_x(c->handler)) {
        void *x = is_in_place ? memcpy(out, input, bytes_of_call(c) - n_missing) : place_copy(input, bytes_of_call(c));
        b.x = place_buffer(c->dtype, x, c->n_leading + n_axes, dims);
    }

    b.frame = place(sizeof *b.frame);
    b.frame->struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    b.frame->api = b.api;
    b.frame->ctx = b.context;
    b.frame->stage = XLA_FFI_ExecutionStage_EXECUTE;
    const size_t n_args = b.x != NULL ? 3 : 2;
    b.frame->args.struct_size = XLA_FFI_Args_STRUCT_SIZE;
    b.frame->args.size = (int64_t)n_args;
    b.frame->args.types = place(n_args * sizeof *b.frame->args.types);
    b.frame->args.args = place(n_args * sizeof(void *));
    XLA_FFI_Buffer *const args[] = {b.masks, b.strides, b.x};
    for (size_t i = 0; i < n_args; i++) {
        b.frame->args.types[i] = XLA_FFI_ArgType_BUFFER;
        b.frame->args.args[i] = args[i];
    }
    b.frame->rets.struct_size = XLA_FFI_Rets_STRUCT_SIZE;
    b.frame->rets.size = 1;
    b.frame->rets.types = place(sizeof *b.frame->rets.types);
    b.frame->rets.rets = place(sizeof(void *));
    b.frame->rets.types[0] = XLA_FFI_RetType_BUFFER;
    b.frame->rets.rets[0] = b.out;
    b.frame->attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
    return b;
}

/* Calls the handler. Copies the message of its error, or makes it empty. */
static void call_handler(int handler, const built_frame *b, char message[MAX_MESSAGE])
{
    XLA_FFI_Error *error = handlers[handler].handler(b->frame);
    finish_tasks();
    message[0] = '\0';
    if (error != NULL) {
        memcpy(message, error->message, MAX_MESSAGE);
        XLA_FFI_Error_Destroy_Args args = {.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, .error = error};
        destroy_error(&args);
    }
    if (n_errors != 0)
        end_with("left an error that it had been given", handlers[handler].name);
}

/* ---- random frames ---- */

static uint64_t random_state = 1;

static uint64_t take_random(void *unused, size_t n_bytes)
{
    (void)unused;
    random_state = random_state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX, TAOCP 2, 3.3.4 */
    return n_bytes <= 4 ? random_state >> (64 - 8 * n_bytes)
                        : ((random_state >> 32) | take_random(unused, 4) << 32) >> (64 - 8 * n_bytes);
}

static random_source source = {.take = take_random};

/* Beyond MOST_ELEMS a call may have several threads: LONG_ELEMS are enough for three. */
enum { MOST_ELEMS = 4000, LONG_ELEMS = 3 * 65536 + 5000, JOBS_TO_A_LONG_ONE = 16, MOST_BYTES = 8 * LONG_ELEMS };

static char input[MOST_BYTES], expected[MOST_BYTES];

static mask_call random_call(size_t n)
{
    mask_call c = {.handler = (int)random_below(&source, N_HANDLERS), .n_masks = 1};
    job_request *r = &c.job.request;
    r->operation = handlers[c.handler].operation;
    if (has_x(c.handler)) {
        r->dtype = (int)random_below(&source, N_DTYPES);
        c.dtype = float_types[r->dtype];
        c.elem_bytes = dtype_table[r->dtype].n_bytes;
    } else if (c.handler == BITS) {
        const size_t which = random_below(&source, 4);
        c.dtype = bits_types[which];
        c.elem_bytes = (size_t)1 << which;
    } else {
        c.dtype = XLA_FFI_DataType_PRED;
        c.elem_bytes = 1;
    }
    c.n_leading = (int)random_below(&source, MAX_LEADING + 1);
    for (int i = 0; i < c.n_leading; i++) {
        c.leading[i] = (int64_t)(random_below(&source, 32) == 0 ? 0 : 1 + random_below(&source, 3));
        c.n_masks *= (size_t)c.leading[i];
    }
    for (size_t i = 0; i < MAX_TEST_MASKS; i++)
        c.keys[i] = (stream_key){{take_random(NULL, 8), take_random(NULL, 8)}};
    uint64_t span = 1;
    r->n_elems = 1;
    if (n % JOBS_TO_A_LONG_ONE == 0) {
        const size_t n_each = LONG_ELEMS / (c.n_masks > 0 ? c.n_masks : 1);
        r->n_axes = 2;
        c.job.lens[0] = 2;
        c.job.lens[1] = n_each / 2;
        c.job.strides[1] = random_below(&source, 4) == 0 ? 0 : 1;
        c.job.strides[0] = random_below(&source, 2) ? 0 : c.job.lens[1] + random_below(&source, 2) * 77;
        r->n_elems = 2 * c.job.lens[1];
        span = c.job.lens[1] * 3;
    } else if (random_below(&source, 16) != 0) {
        span = make_random_axes(&c.job, &source, MOST_ELEMS);
    }
    /* Positions of bits are multiplied by the bytes of an element. */
    r->first = take_random(NULL, 8) >> (c.handler == BITS ? 4 : random_below(&source, 2) ? 40 : 0);
    if (r->first > UINT64_MAX - span)
        r->first = UINT64_MAX - span;
    const size_t which = random_below(&source, 6);
    r->p = which == 0 ? 0.0 : which == 1 ? 1.0 : (double)random_below(&source, 1 << 24) * 0x1p-24;
    r->scale = has_x(c.handler) ? kept_scale(r->p) : 1.0;
    return c;
}

/* The elements of a mask of raw bits, each copied from the block that the portable kernel makes. */
static void expect_bits(char *out, const mask_call *c)
{
    uint8_t block[RAW_BYTES_PER_BLOCK];
    uint64_t made = UINT64_MAX;
    for (size_t i = 0; i < c->job.request.n_elems; i++) {
        const uint64_t byte = position_of_elem(&c->job, i) * c->elem_bytes;
        if (byte / RAW_BYTES_PER_BLOCK != made) {
            made = byte / RAW_BYTES_PER_BLOCK;
            kernels_portable.fill_raw(block, &c->job.request.key, made, 1);
        }
        memcpy(out + i * c->elem_bytes, block + byte % RAW_BYTES_PER_BLOCK, c->elem_bytes);
    }
}

static void expect_call(const mask_call *c)
{
    mask_call one = *c;
    for (size_t i = 0; i < c->n_masks; i++) {
        const size_t at = i * c->job.request.n_elems * c->elem_bytes;
        one.job.request.key = c->keys[i];
        one.job.request.x = has_x(c->handler) ? input + at : NULL;
        if (c->handler == BITS)
            expect_bits(expected + at, &one);
        else
            expect_job(expected + at, &one.job);
    }
}

static void check_random_frames(size_t n_frames)
{
    static const int64_t n_threads[] = {N_WORKERS, 2, 1, 0, -1, (int64_t)1 << 40};
    size_t n_divided = 0;
    for (size_t n = 0; n < n_frames; n++) {
        const mask_call c = random_call(n);
        const built_frame b = build_frame(&c, input, random_below(&source, 2) == 0);
        char message[MAX_MESSAGE];
        b.context->kind = (pool_kind)random_below(&source, N_POOLS);
        b.context->n_threads =
            n_threads[random_below(&source, b.context->kind == POOL_OF_THREADS ? 2 : sizeof n_threads / 8)];
        limits.min_elems_per_xla_thread = random_below(&source, 2) ? 65536 : 300;
        n_divided += b.context->n_threads > 1 && bytes_of_call(&c) / c.elem_bytes >= 2 * 65536;
        /* Larger structs of a newer interface. */
        b.frame->struct_size += 8 * random_below(&source, 3);
        b.out->struct_size += 8 * random_below(&source, 3);
        b.frame->args.struct_size += 8 * random_below(&source, 3);
        expect_call(&c);
        call_handler(c.handler, &b, message);
        if (message[0] != '\0')
            end_with(message, "a frame as XLA makes them was refused");
        if (memcmp(b.out->data, expected, bytes_of_call(&c)) != 0)
            end_with("has another result than its elements alone", handlers[c.handler].name);
        free_all();
    }
    if (n_frames >= 500 && n_divided < 5)
        end_with("were hardly any", "calls of several threads");
}

/* ---- questions for the version ---- */

static void check_metadata(void)
{
    for (int handler = 0; handler < N_HANDLERS; handler++) {
        /* 0: as XLA asks; 1: behind an extension that nothing knows; 2 to 5: without room for the answer. */
        for (int how = 0; how < 6; how++) {
            XLA_FFI_CallFrame *frame = place(offsetof(XLA_FFI_CallFrame, args)); /* the rest must not be read */
            const size_t room = how == 3 ? offsetof(XLA_FFI_Metadata, traits) : sizeof(XLA_FFI_Metadata);
            XLA_FFI_Metadata *metadata = place(room);
            XLA_FFI_Metadata_Extension *asked = place(how == 2 ? XLA_FFI_Extension_Base_STRUCT_SIZE : sizeof *asked);
            XLA_FFI_Extension_Base *other = place(how == 5 ? offsetof(XLA_FFI_Extension_Base, next) : sizeof *other);
            frame->struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
            frame->extension_start = how == 1 || how == 5 ? other : &asked->extension_base;
            frame->stage = XLA_FFI_ExecutionStage_INSTANTIATE;
            other->struct_size = how == 5 ? offsetof(XLA_FFI_Extension_Base, next) : sizeof *other;
            other->type = (XLA_FFI_Extension_Type)77;
            if (how != 5)
                other->next = &asked->extension_base;
            asked->extension_base.struct_size = how == 2 ? XLA_FFI_Extension_Base_STRUCT_SIZE : sizeof *asked;
            asked->extension_base.type = XLA_FFI_Extension_Metadata;
            if (how != 2)
                asked->metadata = how == 4 ? NULL : metadata;
            metadata->struct_size = room;
            metadata->api_version.major_version = metadata->api_version.minor_version = 99;
            if (how == 5) /* the list cannot be followed: the frame asks nothing, and its stage has no work */
                frame->stage = XLA_FFI_ExecutionStage_PREPARE;
            if (handlers[handler].handler(frame) != NULL)
                end_with("answered a question with an error", handlers[handler].name);
            const int is_answered = metadata->api_version.major_version == XLA_FFI_API_MAJOR &&
                                    metadata->api_version.minor_version == XLA_FFI_API_MINOR;
            const int is_left = metadata->api_version.major_version == 99 && metadata->api_version.minor_version == 99;
            if (how < 2 ? !is_answered || metadata->traits != 0 : !is_left)
                end_with("did not tell its version, or where there is no room", handlers[handler].name);
            free_all();
        }
    }
}

/* ---- wrong frames ---- */

/* Moves a struct to memory that has only its first n_bytes, which is what its struct_size then says. */
static void *shorten(void *whole, size_t n_bytes)
{
    void *part = place_copy(whole, n_bytes);
    memcpy(part, &n_bytes, sizeof n_bytes);
    return part;
}

static void set_dims(XLA_FFI_Buffer *buffer, int64_t rank, const int64_t *dims)
{
    buffer->rank = rank;
    buffer->dims = place_copy(dims, (size_t)rank * sizeof *dims);
}

static const char *const old = "XLA must have version 0.1 or later of its foreign function interface";

/* Makes mistake number `which` in a frame of two masks with 3 x 40 elements each. Returns what the error must say, or
 * NULL where there is no such mistake; "" where there is none for this handler. */
static const char *make_mistake_in(built_frame *b, int which)
{
    XLA_FFI_CallFrame *frame = b->frame;
    XLA_FFI_Buffer *const buffers[] = {b->masks, b->strides, b->out, b->x};
    const int64_t huge = (int64_t)1 << 40, none[2 * MAX_AXES] = {2};
    switch (which) {
    case 0: /* frames that end before the results and the attributes */
        b->frame = shorten(frame, offsetof(XLA_FFI_CallFrame, rets));
        return old;
    case 1:
        b->frame = shorten(frame, offsetof(XLA_FFI_CallFrame, attrs));
        return old;
    case 2:
        b->frame = shorten(frame, offsetof(XLA_FFI_CallFrame, stage));
        return old;
    case 3:
        frame->args.struct_size = offsetof(XLA_FFI_Args, args);
        return old;
    case 4:
        frame->rets.struct_size = 0;
        return old;
    case 5: /* an interface that makes errors and does not free them */
        frame->api = shorten(b->api, offsetof(XLA_FFI_Api, XLA_FFI_Error_Destroy));
        return old;
    case 6:
    case 7:
    case 8:
        if (which == 8 && b->x == NULL)
            return "";
        frame->args.args[which - 6] = shorten(frame->args.args[which - 6], offsetof(XLA_FFI_Buffer, dims));
        return old;
    case 9:
        frame->rets.rets[0] = shorten(b->out, sizeof(size_t));
        return old;
    case 10:
        frame->args.size--;
        return b->x != NULL ? "must have 3 arguments and 1 result, got 2 and 1" : "must have 2 arguments and 1 result";
    case 11:
        frame->args.size = INT64_MIN;
        return "arguments and 1 result, got -9223372036854775808 and 1";
    case 12:
        frame->rets.size = 0;
        return "and 0";
    case 13:
        frame->args.types[1] = (XLA_FFI_ArgType)7;
        return "argument 1 must be a buffer";
    case 14:
        frame->rets.types[0] = (XLA_FFI_RetType)0;
        return "the result must be a buffer";
    case 15:
        frame->args.args[0] = NULL;
        return "argument 0 must be a buffer";
    case 16:
        frame->rets.rets[0] = NULL;
        return "the result must be a buffer";
    case 17:
        frame->args.types = NULL;
        return "must have types and buffers";
    case 18:
        frame->args.args = NULL;
        return "must have types and buffers";
    case 19:
        frame->rets.types = NULL;
        return "must have types and buffers";
    case 20:
        frame->rets.rets = NULL;
        return "must have types and buffers";
    case 21:
    case 22:
    case 23:
    case 24: /* ranks without dimensions, and negative ones, of each buffer */
        if (buffers[which - 21] == NULL)
            return "";
        buffers[which - 21]->dims = NULL;
        return "each buffer must have a rank of 0 or more and as many dimensions";
    case 25:
    case 26:
    case 27:
    case 28:
        if (buffers[which - 25] == NULL)
            return "";
        buffers[which - 25]->rank = which % 2 ? -1 : INT64_MIN;
        return "each buffer must have a rank of 0 or more and as many dimensions";
    case 29:
        b->masks->dtype = XLA_FFI_DataType_S32;
        return "masks must be uint32 numbers of shape [..., 8]";
    case 30:
        set_dims(b->masks, 0, NULL);
        return "masks must be uint32 numbers of shape [..., 8]";
    case 31:
        set_dims(b->masks, 2, (int64_t[]){2, MASK_WORDS - 1});
        return "masks must be uint32 numbers of shape [..., 8]";
    case 32:
        set_dims(b->masks, 1, (int64_t[]){MASK_WORDS});
        return "must have the leading axes of masks";
    case 33:
        set_dims(b->masks, 2, (int64_t[]){3, MASK_WORDS});
        return "must have the leading axes of masks";
    case 34:
        set_dims(b->masks, 2, (int64_t[]){-2, MASK_WORDS});
        return "must have the leading axes of masks";
    case 35:
        b->masks->data = NULL;
        return "masks and strides must have data";
    case 36:
        b->strides->data = NULL;
        return "masks and strides must have data";
    case 37:
        b->strides->dtype = XLA_FFI_DataType_U64;
        return "strides must be uint32 numbers of shape [n, 2]";
    case 38:
        set_dims(b->strides, 1, (int64_t[]){4});
        return "strides must be uint32 numbers of shape [n, 2]";
    case 39:
        set_dims(b->strides, 2, (int64_t[]){2, 1});
        return "strides must be uint32 numbers of shape [n, 2]";
    case 40:
        set_dims(b->strides, 2, (int64_t[]){3, 2});
        return "an axis for each of 3 strides";
    case 41:
        set_dims(b->strides, 2, (int64_t[]){-1, 2});
        return "an axis for each of -1 strides";
    case 42:
        set_dims(b->strides, 2, (int64_t[]){INT64_MAX, 2});
        return "an axis for each of 9223372036854775807 strides";
    case 43: /* an axis more than a job may have */
        set_dims(b->strides, 2, (int64_t[]){MAX_AXES + 1, 2});
        set_dims(b->out, MAX_AXES + 2, none);
        if (b->x != NULL)
            set_dims(b->x, MAX_AXES + 2, none);
        return "an axis for each of 65 strides";
    case 44:
        b->out->data = NULL;
        if (b->x != NULL && b->x->data == NULL)
            return "";
        return "of mask 0 cannot be planned";
    case 45:
        b->out->dtype = XLA_FFI_DataType_C64;
        return "the result has the wrong type, 15 of XLA's";
    case 46:
        b->out->dtype = (XLA_FFI_DataType)-1;
        return "the result has the wrong type, -1 of XLA's";
    case 47: /* sizes that overflow, in the leading axes, in one mask, and together */
    case 48:
    case 49:
        set_dims(b->out, 3, (int64_t[]){which == 47 ? (int64_t)1 << 62 : 2, which == 48 ? huge : 3, huge});
        if (which == 47)
            set_dims(b->masks, 2, (int64_t[]){b->out->dims[0], MASK_WORDS});
        if (which == 49)
            set_dims(b->out, 3, (int64_t[]){2, (int64_t)1 << 30, (int64_t)1 << 30});
        if (b->x != NULL)
            set_dims(b->x, 3, b->out->dims);
        return "the result has too many elements";
    case 50:
        set_dims(b->out, 3, (int64_t[]){2, -3, -40});
        if (b->x != NULL)
            set_dims(b->x, 3, b->out->dims);
        return "the result has too many elements";
    case 51:
    case 52:
    case 53: { /* p of the second mask */
        const double p = which == 51 ? 1.5 : which == 52 ? -0x1p-60 : nan("");
        memcpy((char *)b->masks->data + MASK_WORDS * 4 + 24, &p, sizeof p);
        uint64_t bits;
        memcpy(&bits, &p, sizeof bits);
        const uint32_t words[] = {(uint32_t)bits, (uint32_t)(bits >> 32)};
        memcpy((char *)b->masks->data + MASK_WORDS * 4 + 24, words, sizeof words);
        return which == 51   ? "p, the probability of dropping, must be in [0, 1], got 1.5"
               : which == 52 ? "must be in [0, 1], got -8.6"
                             : "must be in [0, 1], got ";
    }
    case 54:
        if (b->x == NULL)
            return "";
        b->x->dtype = b->out->dtype = XLA_FFI_DataType_F8E5M2;
        return "x must be float16, bfloat16, float32 or float64, got XLA's type 19";
    case 55:
        if (b->x == NULL)
            return "";
        b->x->data = NULL;
        return "of mask 0 cannot be planned";
    case 56:
        if (b->x == NULL)
            return "";
        set_dims(b->x, 3, (int64_t[]){2, 3, 39});
        return "x and the result must have the same shape";
    case 57:
        if (b->x == NULL)
            return "";
        set_dims(b->x, 2, (int64_t[]){2, 120});
        return "x and the result must have the same shape";
    default:
        return NULL;
    }
}

static mask_call call_of_two_masks(int handler)
{
    mask_call c = {.handler = handler, .n_masks = 2, .n_leading = 1, .leading = {2}};
    c.dtype = has_x(handler) ? XLA_FFI_DataType_F32 : handler == BITS ? XLA_FFI_DataType_U32 : XLA_FFI_DataType_PRED;
    c.elem_bytes = handler == KEEP ? 1 : 4;
    c.keys[0].word[0] = 5;
    c.keys[1].word[1] = 7;
    job_request *r = &c.job.request;
    r->operation = handlers[handler].operation;
    r->dtype = DTYPE_f32;
    r->p = 0.25;
    r->scale = has_x(handler) ? kept_scale(r->p) : 1.0;
    r->n_axes = 2;
    r->n_elems = 120;
    c.job.lens[0] = 3;
    c.job.lens[1] = 40;
    c.job.strides[0] = 40;
    c.job.strides[1] = 1;
    return c;
}

static size_t check_wrong_frames(void)
{
    size_t n_wrong = 0;
    for (int handler = 0; handler < N_HANDLERS; handler++) {
        const mask_call c = call_of_two_masks(handler);
        for (int which = 0;; which++) {
            built_frame b = build_frame(&c, input, 0);
            char message[MAX_MESSAGE], wrong[64];
            const char *out = b.out->data, *says = make_mistake_in(&b, which);
            snprintf(wrong, sizeof wrong, "%s, mistake %d", handlers[handler].name, which);
            if (says != NULL && says[0] != '\0') {
                call_handler(handler, &b, message);
                if (strncmp(message, handlers[handler].name, strlen(handlers[handler].name)) != 0 ||
                    strstr(message, says) == NULL) {
                    fprintf(stderr, "must say \"%s\"\n", says);
                    end_with(message[0] != '\0' ? message : "no error", wrong);
                }
                for (size_t i = 0; i < bytes_of_call(&c); i++)
                    if (out[i] != BEFORE_WRITING)
                        end_with("wrote before the frame was refused", wrong);
                n_wrong++;
            }
            free_all();
            if (says == NULL)
                break;
        }
    }
    return n_wrong;
}

/* Frames through which no error can be returned: the process must end by abort(), and not by a wrong address. */
static void check_hopeless_frames(void)
{
    for (int which = 0; which < 3; which++) {
        fflush(NULL);
        const pid_t child = fork();
        if (child < 0)
            end_with("failed", "fork");
        if (child == 0) {
            const mask_call c = call_of_two_masks(APPLY);
            built_frame b = build_frame(&c, input, 0);
            signal(SIGABRT, SIG_DFL);
            if (which == 0)
                b.frame = shorten(b.frame, offsetof(XLA_FFI_CallFrame, api));
            else if (which == 1)
                b.frame->api = shorten(b.api, offsetof(XLA_FFI_Api, XLA_FFI_Error_Create));
            else
                b.frame->api = NULL;
            if (which > 0)
                b.masks->rank = 0;
            xla_apply(b.frame);
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            end_with("did not end by abort()", "a frame without errors");
    }
}

/* Frames of which one random number of one struct is another one: an error, or a result within the arrays. */
static void check_mutated_frames(size_t n_frames)
{
    static const int64_t values[] = {0,  1,  2,  3,  4,   7,         8,         16,        40,        64,
                                     65, 80, -1, -8, 255, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1LL << 61};
    for (size_t n = 0; n < n_frames; n++) {
        const int handler = (int)random_below(&source, N_HANDLERS);
        const mask_call c = call_of_two_masks(handler);
        const built_frame b = build_frame(&c, input, 0);
        XLA_FFI_Buffer *const buffers[] = {b.masks, b.strides, b.out, b.x};
        XLA_FFI_Buffer *buffer = buffers[random_below(&source, b.x != NULL ? 4 : 3)];
        const int64_t value = values[random_below(&source, sizeof values / sizeof *values)];
        char message[MAX_MESSAGE];
        switch (random_below(&source, 12)) {
        case 0:
            b.frame->args.struct_size = (size_t)value;
            break;
        case 1:
            b.frame->rets.struct_size = (size_t)value;
            break;
        case 2:
            b.frame->args.size = value;
            break;
        case 3:
            b.frame->rets.size = value;
            break;
        case 4:
            b.frame->args.types[random_below(&source, (size_t)b.frame->args.size)] = (XLA_FFI_ArgType)(value & 0xFF);
            break;
        case 5:
            buffer->struct_size = (size_t)value;
            break;
        case 6:
            buffer->dtype = (XLA_FFI_DataType)(value & 0x7F);
            break;
        case 7:
            if (value <= buffer->rank)
                buffer->rank = value;
            break;
        case 8: { /* a shape that is larger than the array is XLA's mistake, and cannot be seen */
            const size_t axis = random_below(&source, (size_t)buffer->rank);
            if (value <= buffer->dims[axis] || value == INT64_MAX)
                buffer->dims[axis] = value;
            break;
        }
        case 9:
            b.frame->stage = (XLA_FFI_ExecutionStage)(value & 0xFF);
            break;
        case 10: { /* any bits of masks and strides */
            const size_t at = random_below(&source, 16);
            const uint64_t bits = take_random(NULL, 8) >> random_below(&source, 64);
            if (random_below(&source, 2))
                memcpy((char *)b.masks->data + at / 2 * 8, &bits, sizeof bits);
            else
                memcpy((char *)b.strides->data + at % 2 * 8, &bits, sizeof bits);
            break;
        }
        default:
            b.api->struct_size = offsetof(XLA_FFI_Api, XLA_FFI_Error_GetMessage) + 8 * random_below(&source, 30);
        }
        call_handler(handler, &b, message);
        if (message[0] != '\0' && strncmp(message, handlers[handler].name, strlen(handlers[handler].name)) != 0)
            end_with(message, "an error that does not name the handler");
        free_all();
    }
}

#if !defined(HEAP)
static void on_fault(int signal_number)
{
    static const char said[] = "reached outside its structs and arrays\n";
    (void)signal_number;
    _exit(write(STDERR_FILENO, said, sizeof said - 1) > 0 ? 1 : 3);
}
#endif

int main(int argc, char **argv)
{
    const size_t n_frames = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    pthread_t workers[N_WORKERS];
    size_t n_wrong = 0;
#if !defined(HEAP)
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
#endif
    check_hopeless_frames(); /* before there are threads, as it forks */
    /* Bytes below 0x40 are finite numbers in every dtype; every third one is negative. */
    for (size_t i = 0; i < MOST_BYTES; i++)
        input[i] = (char)(i * 7 % 64 + (i % 3 == 0 ? 128 : 0));
    for (size_t i = 0; i < N_WORKERS; i++)
        if (pthread_create(&workers[i], NULL, work, NULL) != 0)
            end_with("failed", "pthread_create");
    for (size_t i = 0; kernels_at(i) != NULL; i++) {
        kernels = kernels_at(i);
        if (!kernels->is_supported())
            continue;
        check_random_frames(n_frames);
        check_metadata();
        n_wrong = check_wrong_frames();
        check_mutated_frames(10 * n_frames);
        printf("%s: %zu frames right, %zu wrong ones refused, %zu changed ones\n", kernels->isa, n_frames, n_wrong,
               10 * n_frames);
    }
    pthread_mutex_lock(&queue.mutex);
    queue.is_over = 1;
    pthread_cond_broadcast(&queue.changed);
    pthread_mutex_unlock(&queue.mutex);
    for (size_t i = 0; i < N_WORKERS; i++)
        pthread_join(workers[i], NULL);
    return 0;
}
