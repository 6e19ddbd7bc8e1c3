/* Handlers of XLA's foreign function interface, which xla_ffi.h describes. A handler checks its call frame, then plans
 * jobs (core/job.h) and runs them on XLA's threads. Plain C, without Python.h and without the GIL.
 *
 * XLA keeps each struct of its interface compatible: fields are added at the end, and struct_size tells how many there
 * are. The handlers are compiled for version 0.1 of the interface and check every size that they rely on. */
#define _DEFAULT_SOURCE /* madvise and its advice, which the C library hides from standard C */

#include "xla_ffi.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <sched.h>
#endif

#include "core/job.h"
#include "system/pages.h"

enum { MASK_WORDS = 8 };

/* An operation besides those of jobs: the raw output of the stream. */
enum { OPERATION_raw_bits = N_JOB_OPERATIONS };

static int has_x(int operation)
{
    return operation != OPERATION_fill_keep && operation != OPERATION_raw_bits;
}

/* A thread takes this many parts of a call, so that one that begins late leaves its share to the others. */
enum { PARTS_PER_THREAD = 4, MAX_THREADS = 1024 };

/* Bits of this size are written to huge pages, if the system has any: they take four times the memory of a mask. */
enum { HUGE_PAGES_FROM_BYTES = 1 << 20 };

/* ---- errors ---- */

#define HAS_FIELDS(pointer, type) ((pointer)->struct_size >= (size_t)type##_STRUCT_SIZE)

/* Returns a new error, which XLA frees. Without a function that makes one, nothing can stop the call except the end of
 * the process. */
static XLA_FFI_Error *error_of(const XLA_FFI_Api *api, const char *format, ...)
{
    if (api == NULL || api->struct_size < XLA_FFI_STRUCT_SIZE(XLA_FFI_Api, XLA_FFI_Error_Create))
        abort();
    char message[256];
    va_list numbers;
    va_start(numbers, format);
    vsnprintf(message, sizeof message, format, numbers);
    va_end(numbers);
    XLA_FFI_Error_Create_Args args = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
        .message = message,
        .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT,
    };
    return api->XLA_FFI_Error_Create(&args);
}

static XLA_FFI_Error *too_old(const XLA_FFI_Api *api, const char *name)
{
    return error_of(api, "%s: XLA must have version %d.%d or later of its foreign function interface", name,
                    XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}

static void destroy_error(const XLA_FFI_Api *api, XLA_FFI_Error *error)
{
    XLA_FFI_Error_Destroy_Args args = {.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, .error = error};
    api->XLA_FFI_Error_Destroy(&args);
}

/* ---- a call ---- */

/* The buffers and numbers of a call, checked. */
typedef struct {
    const char *name;
    int operation;
    const XLA_FFI_Api *api;
    XLA_FFI_ExecutionContext *context;
    int dtype;
    const char *x; /* NULL for OPERATION_fill_keep and OPERATION_raw_bits */
    char *out;
    const char *masks;
    size_t n_masks;
    size_t n_elems;    /* of each mask */
    size_t elem_bytes; /* of the result */
    int n_axes;
    size_t lens[MAX_AXES];
    uint64_t strides[MAX_AXES];
} xla_call;

static XLA_FFI_Error *mask_at(const xla_call *call, size_t i, job_request *request)
{
    uint32_t words[MASK_WORDS];
    memcpy(words, call->masks + i * sizeof words, sizeof words);
    uint64_t pairs[MASK_WORDS / 2];
    for (int pair = 0; pair < MASK_WORDS / 2; pair++)
        pairs[pair] = (uint64_t)words[2 * pair + 1] << 32 | words[2 * pair];
    double p;
    memcpy(&p, &pairs[3], sizeof p);
    if (!is_probability(p))
        return error_of(call->api, "%s: p, the probability of dropping, must be in [0, 1], got %g", call->name, p);
    *request = blank_request(call->operation, call->dtype);
    request->key = (stream_key){{pairs[0], pairs[1]}};
    request->first = pairs[2];
    request->p = p;
    request->scale = has_x(call->operation) ? kept_scale(p) : 1.0;
    request->out = call->out + i * call->n_elems * call->elem_bytes;
    request->x = call->x == NULL ? NULL : call->x + i * call->n_elems * call->elem_bytes;
    request->n_elems = call->n_elems;
    request->n_axes = call->n_axes;
    request->lens = call->lens;
    request->strides = call->strides;
    return NULL;
}

/* Writes the bytes of a stream from `first` on. Blocks that are not wanted whole are made apart, and copied. */
static void fill_bytes(uint8_t *out, const stream_key *key, uint64_t first, size_t n_bytes)
{
    uint8_t block[RAW_BYTES_PER_BLOCK];
    while (n_bytes > 0) {
        const size_t skipped = first % RAW_BYTES_PER_BLOCK;
        size_t n = n_bytes - n_bytes % RAW_BYTES_PER_BLOCK;
        if (skipped == 0 && n > 0) {
            kernels->fill_raw(out, key, first / RAW_BYTES_PER_BLOCK, n / RAW_BYTES_PER_BLOCK);
        } else {
            n = RAW_BYTES_PER_BLOCK - skipped < n_bytes ? RAW_BYTES_PER_BLOCK - skipped : n_bytes;
            kernels->fill_raw(block, key, first / RAW_BYTES_PER_BLOCK, 1);
            memcpy(out, block + skipped, n);
        }
        out += n;
        first += n;
        n_bytes -= n;
    }
}

/* Fills elements begin to end of the result of a request with raw output: element i has the bytes of its position. */
static void fill_bits(const xla_call *call, const job_request *request, size_t begin, size_t end)
{
    /* The last axes that take one run of positions make a row. */
    int axis = call->n_axes;
    size_t row = 1;
    while (axis > 0 && (call->lens[axis - 1] == 1 || call->strides[axis - 1] == row))
        row *= call->lens[--axis];
    while (begin < end) {
        const size_t within = begin % row;
        const size_t n = row - within < end - begin ? row - within : end - begin;
        uint64_t position = request->first + within;
        size_t index = begin / row;
        for (int i = axis - 1; i >= 0; i--) {
            position += index % call->lens[i] * call->strides[i];
            index /= call->lens[i];
        }
        fill_bytes((uint8_t *)request->out + begin * call->elem_bytes, &request->key, position * call->elem_bytes,
                   n * call->elem_bytes);
        begin += n;
    }
}

/* Returns the first element of range `i` of n_ranges, at the beginning of a block where there are enough of them. */
static size_t cut_of_bits(const xla_call *call, size_t i, size_t n_ranges)
{
    const size_t at = call->n_elems / n_ranges * i + call->n_elems % n_ranges * i / n_ranges;
    return i == n_ranges ? call->n_elems : at - at % (RAW_BYTES_PER_BLOCK / call->elem_bytes);
}

/* Computes part `i` of n_parts of a call whose masks can be planned. A part is some masks, or a range of one. */
static void run_part(const xla_call *call, size_t i, size_t n_parts)
{
    const size_t ranges_per_mask = n_parts > call->n_masks ? (n_parts + call->n_masks - 1) / call->n_masks : 1;
    const size_t n_ranges = ranges_per_mask * call->n_masks;
    const size_t begin = n_ranges / n_parts * i + n_ranges % n_parts * i / n_parts;
    const size_t end = n_ranges / n_parts * (i + 1) + n_ranges % n_parts * (i + 1) / n_parts;
    for (size_t range = begin; range < end; range++) {
        job_request request;
        job j;
        const size_t at = range % ranges_per_mask;
        if (mask_at(call, range / ranges_per_mask, &request) != NULL)
            continue;
        if (call->operation == OPERATION_raw_bits)
            fill_bits(call, &request, cut_of_bits(call, at, ranges_per_mask),
                      cut_of_bits(call, at + 1, ranges_per_mask));
        else if (job_plan(&j, &request) == 0)
            job_run(&j, job_cut(&j, at, ranges_per_mask), job_cut(&j, at + 1, ranges_per_mask));
    }
}

/* ---- XLA's threads ----
 * The calling thread computes parts as well, and waits only for those that other threads have begun. So a call ends
 * even if XLA never runs the tasks that it was given, as it may if every thread of the pool waits in such a call. */

typedef struct {
    xla_call call;
    size_t n_parts;
    size_t next_part;
    size_t n_done;
    size_t n_references; /* the calling thread and the tasks; the last one frees the struct */
} shared_call;

static void release(shared_call *shared, size_t n)
{
    if (__atomic_sub_fetch(&shared->n_references, n, __ATOMIC_ACQ_REL) == 0)
        free(shared);
}

static void run_parts(shared_call *shared)
{
    for (;;) {
        const size_t part = __atomic_fetch_add(&shared->next_part, 1, __ATOMIC_RELAXED);
        if (part >= shared->n_parts)
            return;
        run_part(&shared->call, part, shared->n_parts);
        __atomic_add_fetch(&shared->n_done, 1, __ATOMIC_RELEASE);
    }
}

static void run_task(void *data)
{
    shared_call *shared = data;
    run_parts(shared);
    release(shared, 1);
}

static size_t n_threads_for(const xla_call *call)
{
    const size_t most = call->n_elems * call->n_masks / limits.min_elems_per_xla_thread;
    if (most < 2 || call->api->struct_size < XLA_FFI_STRUCT_SIZE(XLA_FFI_Api, XLA_FFI_ThreadPool_NumThreads) ||
        call->api->XLA_FFI_ThreadPool_NumThreads == NULL || call->api->XLA_FFI_ThreadPool_Schedule == NULL)
        return 1; /* jaxlib before 0.5.1 does not tell the number */
    int64_t n_threads = 0;
    XLA_FFI_ThreadPool_NumThreads_Args args = {
        .struct_size = XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE,
        .ctx = call->context,
        .num_threads = &n_threads,
    };
    XLA_FFI_Error *error = call->api->XLA_FFI_ThreadPool_NumThreads(&args);
    if (error != NULL) {
        destroy_error(call->api, error);
        return 1;
    }
    const size_t n = n_threads < 1 ? 1 : n_threads > MAX_THREADS ? MAX_THREADS : (size_t)n_threads;
    return n < most ? n : most;
}

static void run(const xla_call *call)
{
    const size_t n_threads = n_threads_for(call);
    shared_call *shared = n_threads > 1 ? malloc(sizeof *shared) : NULL;
    if (shared == NULL) {
        run_part(call, 0, 1);
        return;
    }
    shared->call = *call;
    shared->n_parts = n_threads * PARTS_PER_THREAD;
    shared->next_part = shared->n_done = 0;
    shared->n_references = n_threads;
    for (size_t i = 1; i < n_threads; i++) {
        XLA_FFI_ThreadPool_Schedule_Args args = {
            .struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE,
            .ctx = call->context,
            .task = run_task,
            .data = shared,
        };
        XLA_FFI_Error *error = call->api->XLA_FFI_ThreadPool_Schedule(&args);
        if (error != NULL) { /* there is no pool: this thread computes all parts */
            destroy_error(call->api, error);
            release(shared, n_threads - i);
            break;
        }
    }
    run_parts(shared);
    while (__atomic_load_n(&shared->n_done, __ATOMIC_ACQUIRE) < shared->n_parts) {
#if defined(_WIN32)
        SwitchToThread();
#else
        sched_yield();
#endif
    }
    release(shared, 1);
}

/* ---- reading a call frame ---- */

/* Answers XLA's question for the version of the interface; returns whether the frame asks it. If there is no room for
 * the answer it is left as it is, since such a frame may have no api for errors, and XLA refuses the handler. */
static int answers_metadata(XLA_FFI_CallFrame *frame)
{
    for (XLA_FFI_Extension_Base *each = frame->extension_start;
         each != NULL && HAS_FIELDS(each, XLA_FFI_Extension_Base); each = each->next) {
        if (each->type != XLA_FFI_Extension_Metadata)
            continue;
        if (!HAS_FIELDS(each, XLA_FFI_Metadata_Extension))
            return 1;
        XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)each)->metadata;
        if (metadata == NULL || !HAS_FIELDS(metadata, XLA_FFI_Metadata))
            return 1;
        metadata->api_version.major_version = XLA_FFI_API_MAJOR;
        metadata->api_version.minor_version = XLA_FFI_API_MINOR;
        metadata->traits = 0;
        return 1;
    }
    return 0;
}

static int dtype_of(XLA_FFI_DataType dtype)
{
    switch (dtype) {
    case XLA_FFI_DataType_F32:
        return DTYPE_f32;
    case XLA_FFI_DataType_F64:
        return DTYPE_f64;
    case XLA_FFI_DataType_F16:
        return DTYPE_f16;
    case XLA_FFI_DataType_BF16:
        return DTYPE_bf16;
    default:
        return -1;
    }
}

/* Returns the bytes of an unsigned type, 0 for other types. */
static size_t bytes_of_unsigned(XLA_FFI_DataType dtype)
{
    switch (dtype) {
    case XLA_FFI_DataType_U8:
        return 1;
    case XLA_FFI_DataType_U16:
        return 2;
    case XLA_FFI_DataType_U32:
        return 4;
    case XLA_FFI_DataType_U64:
        return 8;
    default:
        return 0;
    }
}

static int has_rank(const XLA_FFI_Buffer *buffer)
{
    return buffer->rank == 0 || (buffer->rank > 0 && buffer->dims != NULL);
}

static int has_dims(const XLA_FFI_Buffer *buffer, const int64_t *dims, int64_t rank)
{
    if (buffer->rank != rank)
        return 0;
    for (int64_t axis = 0; axis < rank; axis++)
        if (buffer->dims[axis] != dims[axis])
            return 0;
    return 1;
}

/* Multiplies *n by each dimension; 0 if one is negative or the product is too large. */
static int multiply(size_t *n, const int64_t *dims, int64_t rank)
{
    for (int64_t axis = 0; axis < rank; axis++) {
        const uint64_t length = (uint64_t)dims[axis];
        if (dims[axis] < 0 || (length > 0 && *n > (SIZE_MAX >> 1) / length))
            return 0;
        *n *= (size_t)length;
    }
    return 1;
}

/* Reads the frame into *call, whose name and operation are set. Returns NULL, or an error that says what is wrong. */
static XLA_FFI_Error *read_frame(xla_call *call, const XLA_FFI_CallFrame *frame)
{
    const XLA_FFI_Api *api = call->api = frame->api;
    const char *name = call->name;
    const int n_args = has_x(call->operation) ? 3 : 2;
    call->context = frame->ctx;
    if (!HAS_FIELDS(&frame->args, XLA_FFI_Args) || !HAS_FIELDS(&frame->rets, XLA_FFI_Rets) || api == NULL ||
        api->struct_size < XLA_FFI_STRUCT_SIZE(XLA_FFI_Api, XLA_FFI_Error_Destroy))
        return too_old(api, name);
    if (frame->args.size != n_args || frame->rets.size != 1)
        return error_of(api, "%s: must have %d arguments and 1 result, got %" PRId64 " and %" PRId64, name, n_args,
                        frame->args.size, frame->rets.size);
    if (frame->args.types == NULL || frame->args.args == NULL || frame->rets.types == NULL || frame->rets.rets == NULL)
        return error_of(api, "%s: the arguments and results must have types and buffers", name);
    for (int i = 0; i < n_args; i++)
        if (frame->args.types[i] != XLA_FFI_ArgType_BUFFER || frame->args.args[i] == NULL)
            return error_of(api, "%s: argument %d must be a buffer", name, i);
    if (frame->rets.types[0] != XLA_FFI_RetType_BUFFER || frame->rets.rets[0] == NULL)
        return error_of(api, "%s: the result must be a buffer", name);
    const XLA_FFI_Buffer *masks = frame->args.args[0], *strides = frame->args.args[1], *out = frame->rets.rets[0];
    const XLA_FFI_Buffer *x = n_args == 3 ? frame->args.args[2] : NULL;
    if (!HAS_FIELDS(masks, XLA_FFI_Buffer) || !HAS_FIELDS(strides, XLA_FFI_Buffer) ||
        !HAS_FIELDS(out, XLA_FFI_Buffer) || (x != NULL && !HAS_FIELDS(x, XLA_FFI_Buffer)))
        return too_old(api, name);
    if (!has_rank(masks) || !has_rank(strides) || !has_rank(out) || (x != NULL && !has_rank(x)))
        return error_of(api, "%s: each buffer must have a rank of 0 or more and as many dimensions", name);
    if (masks->dtype != XLA_FFI_DataType_U32 || masks->rank < 1 || masks->dims[masks->rank - 1] != MASK_WORDS)
        return error_of(api, "%s: masks must be uint32 numbers of shape [..., %d]", name, MASK_WORDS);
    call->dtype = x == NULL ? 0 : dtype_of(x->dtype);
    if (call->dtype < 0)
        return error_of(api, "%s: x must be float16, bfloat16, float32 or float64, got XLA's type %d", name,
                        (int)x->dtype);
    call->elem_bytes = call->operation == OPERATION_raw_bits ? bytes_of_unsigned(out->dtype)
                       : x == NULL                           ? 1
                                                             : dtype_table[call->dtype].n_bytes;
    if (call->operation == OPERATION_raw_bits ? call->elem_bytes == 0
                                              : out->dtype != (x == NULL ? XLA_FFI_DataType_PRED : x->dtype))
        return error_of(api, "%s: the result has the wrong type, %d of XLA's", name, (int)out->dtype);
    if (x != NULL && !has_dims(x, out->dims, out->rank))
        return error_of(api, "%s: x and the result must have the same shape", name);
    if (strides->dtype != XLA_FFI_DataType_U32 || strides->rank != 2 || strides->dims[1] != 2)
        return error_of(api, "%s: strides must be uint32 numbers of shape [n, 2]", name);
    const int64_t n_leading = masks->rank - 1, n_axes = strides->dims[0];
    if (n_axes < 0 || n_axes > MAX_AXES || out->rank != n_leading + n_axes ||
        !has_dims(&(XLA_FFI_Buffer){.rank = n_leading, .dims = masks->dims}, out->dims, n_leading))
        return error_of(
            api, "%s: the result must have the leading axes of masks and an axis for each of %" PRId64 " strides", name,
            n_axes);
    call->n_axes = (int)n_axes;
    call->n_masks = call->n_elems = 1;
    if (!multiply(&call->n_masks, out->dims, n_leading) ||
        !multiply(&call->n_elems, out->dims + n_leading, call->n_axes) ||
        (call->n_elems > 0 && call->n_masks > (SIZE_MAX >> 4) / call->n_elems))
        return error_of(api, "%s: the result has too many elements", name);
    if ((strides->data == NULL && n_axes > 0) || (masks->data == NULL && call->n_masks > 0))
        return error_of(api, "%s: masks and strides must have data", name);
    for (int axis = 0; axis < call->n_axes; axis++) {
        uint32_t words[2];
        memcpy(words, (const char *)strides->data + (size_t)axis * sizeof words, sizeof words);
        call->lens[axis] = (size_t)out->dims[n_leading + axis];
        call->strides[axis] = (uint64_t)words[1] << 32 | words[0];
    }
    call->masks = masks->data;
    call->x = x == NULL ? NULL : x->data;
    call->out = out->data;
    return NULL;
}

static XLA_FFI_Error *handle(const char *name, int operation, XLA_FFI_CallFrame *frame)
{
    if (frame->struct_size < offsetof(XLA_FFI_CallFrame, ctx))
        abort(); /* there is no frame->api: as in error_of */
    if (answers_metadata(frame))
        return NULL;
    if (!HAS_FIELDS(frame, XLA_FFI_CallFrame))
        return too_old(frame->api, name);
    if (frame->stage != XLA_FFI_ExecutionStage_EXECUTE)
        return NULL;
    xla_call call;
    call.name = name;
    call.operation = operation;
    XLA_FFI_Error *error = read_frame(&call, frame);
    if (error != NULL || call.n_elems == 0 || call.n_masks == 0)
        return error;
    for (size_t i = 0; i < call.n_masks; i++) { /* before anything is written */
        job_request request;
        job j;
        error = mask_at(&call, i, &request);
        const int is_bits = call.operation == OPERATION_raw_bits; /* which are no job */
        if (error == NULL && (is_bits ? call.out == NULL : job_plan(&j, &request) != 0))
            error = error_of(call.api, "%s: the lengths, strides or arrays of mask %zu cannot be planned", name, i);
        if (error != NULL)
            return error;
    }
    /* XLA takes new memory for each execution of a program: one allocation for all intermediate results. */
    if (call.operation == OPERATION_raw_bits && call.n_elems * call.n_masks * call.elem_bytes >= HUGE_PAGES_FROM_BYTES)
        ask_for_huge_pages(call.out, call.n_elems * call.n_masks * call.elem_bytes);
    run(&call);
    return NULL;
}

XLA_FFI_Error *xla_apply(XLA_FFI_CallFrame *frame)
{
    return handle("cdropout_apply", OPERATION_apply_mask, frame);
}

XLA_FFI_Error *xla_relu(XLA_FFI_CallFrame *frame)
{
    return handle("cdropout_relu", OPERATION_relu_dropout, frame);
}

XLA_FFI_Error *xla_keep(XLA_FFI_CallFrame *frame)
{
    return handle("cdropout_keep", OPERATION_fill_keep, frame);
}

XLA_FFI_Error *xla_bits(XLA_FFI_CallFrame *frame)
{
    return handle("cdropout_bits", OPERATION_raw_bits, frame);
}
