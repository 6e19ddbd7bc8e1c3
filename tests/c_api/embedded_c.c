/* The functions of embedded_cython.pyx in C and, included by embedded_cpp.cpp, in C++. The functions on strided masks
 * are left out with headers of version 1.0 of the C interface, which does not have them. */
#define PY_SSIZE_T_CLEAN
#include <cdropout.h>

#ifndef MODULE
#define MODULE embedded_c
#endif
#define JOINED(a, b) a##b
#define INIT(module) JOINED(PyInit_, module)
#define QUOTED(a) #a
#define NAME(module) QUOTED(module)

static void *pointer_of(unsigned long long address)
{
    return (void *)(uintptr_t)address;
}

/* A converter for PyArg_ParseTuple's O&, like the ..._argument functions: arrays from a tuple of numbers. */
static int arrays_of(PyObject *fields, void *result)
{
    cdropout_arrays *arrays = (cdropout_arrays *)result;
    unsigned long long out, x, residual, bias;
    Py_ssize_t n_bias, n_repeats;
    if (!PyArg_ParseTuple(fields, "KKKKnnddi", &out, &x, &residual, &bias, &n_bias, &n_repeats, &arrays->shift,
                          &arrays->fill, &arrays->past_caches))
        return 0;
    arrays->out = pointer_of(out);
    arrays->x = pointer_of(x);
    arrays->residual = pointer_of(residual);
    arrays->bias = pointer_of(bias);
    arrays->n_bias = (size_t)n_bias;
    arrays->n_repeats = (size_t)n_repeats;
    return 1;
}

static int mask_argument(PyObject *mask, void *result)
{
    return cdropout_mask_of(mask, (cdropout_mask *)result) == 0;
}

#if CDROPOUT_ABI_MINOR >= 1
/* A mask, or a tuple of a mask and the p, n_axes and lens that replace its own. */
static int strided_mask_argument(PyObject *argument, void *result)
{
    cdropout_strided_mask *mask = (cdropout_strided_mask *)result;
    PyObject *object, *lens;
    double p;
    int n_axes;
    if (!PyTuple_Check(argument))
        return cdropout_strided_mask_of(argument, mask) == 0;
    if (!PyArg_ParseTuple(argument, "OdiO!", &object, &p, &n_axes, &PyTuple_Type, &lens) ||
        cdropout_strided_mask_of(object, mask) != 0)
        return 0;
    mask->mask.p = p;
    mask->n_axes = n_axes;
    for (Py_ssize_t axis = 0; axis < PyTuple_Size(lens) && axis < CDROPOUT_MAX_AXES; axis++)
        mask->lens[axis] = PyLong_AsSize_t(PyTuple_GetItem(lens, axis));
    return !PyErr_Occurred();
}
#endif

static int noise_argument(PyObject *noise, void *result)
{
    return cdropout_noise_of(noise, (cdropout_noise *)result) == 0;
}

static int stream_argument(PyObject *stream, void *result)
{
    return cdropout_stream_of(stream, (cdropout_stream *)result) == 0;
}

enum { MAX_RANGES = 64 };

typedef struct {
    int n;
    size_t begin[MAX_RANGES], end[MAX_RANGES];
} range_list;

static int ranges_argument(PyObject *pairs, void *result)
{
    range_list *ranges = (range_list *)result;
    ranges->n = (int)PyList_Size(pairs);
    for (int i = 0; i < ranges->n && i < MAX_RANGES; i++) {
        Py_ssize_t begin, end;
        if (!PyArg_ParseTuple(PyList_GetItem(pairs, i), "nn", &begin, &end))
            return 0;
        ranges->begin[i] = (size_t)begin;
        ranges->end[i] = (size_t)end;
    }
    return ranges->n >= 0 && ranges->n <= MAX_RANGES;
}

static PyObject *apply(PyObject *self, PyObject *arguments)
{
    int operation, dtype, status = 0;
    cdropout_arrays arrays;
    cdropout_mask mask;
    range_list ranges;
    PyObject *scale;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "iiO&O&OO&", &operation, &dtype, arrays_of, &arrays, mask_argument, &mask, &scale,
                          ranges_argument, &ranges))
        return NULL;
    if (scale != Py_None)
        mask.scale = PyFloat_AsDouble(scale);
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < ranges.n; i++)
        status |= cdropout_apply(operation, dtype, &arrays, &mask, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

static PyObject *repeat(PyObject *self, PyObject *arguments)
{
    int operation, dtype;
    cdropout_arrays arrays;
    cdropout_mask mask;
    Py_ssize_t n_elems, n_calls;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "iiO&O&nn", &operation, &dtype, arrays_of, &arrays, mask_argument, &mask, &n_elems,
                          &n_calls))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n_calls; i++)
        cdropout_apply(operation, dtype, &arrays, &mask, 0, (size_t)n_elems);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *apply_noise(PyObject *self, PyObject *arguments)
{
    int is_factor, dtype, status = 0;
    cdropout_arrays arrays;
    cdropout_noise noise;
    range_list ranges;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "iiO&O&O&", &is_factor, &dtype, arrays_of, &arrays, noise_argument, &noise,
                          ranges_argument, &ranges))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < ranges.n; i++)
        status |= is_factor ? cdropout_multiply_by_noise(dtype, &arrays, &noise, ranges.begin[i], ranges.end[i])
                            : cdropout_add_noise(dtype, &arrays, &noise, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

static PyObject *fill_keep(PyObject *self, PyObject *arguments)
{
    unsigned long long out;
    int status = 0;
    cdropout_mask mask;
    range_list ranges;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KO&O&", &out, mask_argument, &mask, ranges_argument, &ranges))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < ranges.n; i++)
        status |= cdropout_fill_keep((uint8_t *)pointer_of(out), &mask, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

#if CDROPOUT_ABI_MINOR >= 1
static PyObject *apply_strided(PyObject *self, PyObject *arguments)
{
    int operation, dtype, status = 0;
    cdropout_arrays arrays;
    cdropout_strided_mask mask;
    range_list ranges;
    PyObject *scale;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "iiO&O&OO&", &operation, &dtype, arrays_of, &arrays, strided_mask_argument, &mask,
                          &scale, ranges_argument, &ranges))
        return NULL;
    if (scale != Py_None)
        mask.mask.scale = PyFloat_AsDouble(scale);
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < ranges.n; i++)
        status |= cdropout_apply_strided(operation, dtype, &arrays, &mask, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

static PyObject *fill_keep_strided(PyObject *self, PyObject *arguments)
{
    unsigned long long out;
    int status = 0;
    cdropout_strided_mask mask;
    range_list ranges;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KO&O&", &out, strided_mask_argument, &mask, ranges_argument, &ranges))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < ranges.n; i++)
        status |= cdropout_fill_keep_strided((uint8_t *)pointer_of(out), &mask, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

static PyObject *strided_fields(PyObject *self, PyObject *arguments)
{
    cdropout_strided_mask mask;
    PyObject *lens = PyList_New(0), *strides = PyList_New(0);
    (void)self;
    if (lens == NULL || strides == NULL || !PyArg_ParseTuple(arguments, "O&", strided_mask_argument, &mask)) {
        Py_XDECREF(lens);
        Py_XDECREF(strides);
        return NULL;
    }
    for (int axis = 0; axis < mask.n_axes; axis++) {
        PyObject *length = PyLong_FromSize_t(mask.lens[axis]);
        PyObject *stride = PyLong_FromUnsignedLongLong(mask.strides[axis]);
        PyList_Append(lens, length);
        PyList_Append(strides, stride);
        Py_XDECREF(length);
        Py_XDECREF(stride);
    }
    return Py_BuildValue("KKKddNN", (unsigned long long)mask.mask.key.word[0],
                         (unsigned long long)mask.mask.key.word[1], (unsigned long long)mask.mask.start, mask.mask.p,
                         mask.mask.scale, lens, strides);
}
#endif

#if CDROPOUT_ABI_MINOR >= 2
/* rest is 0 to gather. Words of a mask along the columns; rows are all kept. */
static PyObject *move_kept(PyObject *self, PyObject *arguments)
{
    unsigned long long out, x, words;
    int rest, dtype, status = 0;
    Py_ssize_t n_rows, n_columns;
    cdropout_mask mask;
    cdropout_submatrix matrix;
    range_list ranges;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "iiKKnnKO&dO&", &rest, &dtype, &out, &x, &n_rows, &n_columns, &words,
                          mask_argument, &mask, &matrix.scale, ranges_argument, &ranges))
        return NULL;
    matrix.out = pointer_of(out);
    matrix.x = pointer_of(x);
    matrix.n_rows = (size_t)n_rows;
    matrix.n_columns = (size_t)n_columns;
    matrix.row_words = NULL;
    matrix.column_words = (const uint64_t *)pointer_of(words);
    Py_BEGIN_ALLOW_THREADS
    status = cdropout_fill_keep_words((uint64_t *)pointer_of(words), &mask, matrix.n_columns);
    for (int i = 0; i < ranges.n; i++)
        status |= rest == 0 ? cdropout_gather_kept(dtype, &matrix, ranges.begin[i], ranges.end[i])
                            : cdropout_scatter_kept(dtype, rest, &matrix, ranges.begin[i], ranges.end[i]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}
#endif

static PyObject *fill_raw(PyObject *self, PyObject *arguments)
{
    unsigned long long out, first_block;
    cdropout_stream stream;
    Py_ssize_t n_blocks;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KO&Kn", &out, stream_argument, &stream, &first_block, &n_blocks))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    cdropout_fill_raw((uint8_t *)pointer_of(out), stream.key, first_block, (size_t)n_blocks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *draw_mask(PyObject *self, PyObject *arguments)
{
    cdropout_stream stream;
    cdropout_mask mask;
    unsigned long long n_elems;
    double p;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O&Kd", stream_argument, &stream, &n_elems, &p))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = cdropout_draw_mask(&mask, &stream, n_elems, p);
    Py_END_ALLOW_THREADS
    if (status != 0)
        Py_RETURN_NONE;
    return Py_BuildValue("KKKdd", (unsigned long long)mask.key.word[0], (unsigned long long)mask.key.word[1],
                         (unsigned long long)mask.start, mask.p, mask.scale);
}

static PyObject *draw_noise(PyObject *self, PyObject *arguments)
{
    cdropout_stream stream;
    cdropout_noise noise;
    unsigned long long n_elems;
    double std;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O&Kd", stream_argument, &stream, &n_elems, &std))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = cdropout_draw_noise(&noise, &stream, n_elems, std);
    Py_END_ALLOW_THREADS
    if (status != 0)
        Py_RETURN_NONE;
    return Py_BuildValue("KKKd", (unsigned long long)noise.key.word[0], (unsigned long long)noise.key.word[1],
                         (unsigned long long)noise.start, noise.std);
}

static PyObject *alpha_dropout(PyObject *self, PyObject *arguments)
{
    const cdropout_key key = {{0, 0}};
    cdropout_arrays arrays;
    cdropout_mask mask;
    double p;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "d", &p))
        return NULL;
    if (cdropout_define_mask(&mask, &key, 0, p) != 0 || cdropout_set_alpha_dropout(&arrays, &mask) != 0)
        Py_RETURN_NONE;
    return Py_BuildValue("ddd", mask.scale, arrays.shift, arrays.fill);
}

static PyObject *cached_bytes(PyObject *self, PyObject *arguments)
{
    (void)self, (void)arguments;
    return PyLong_FromSize_t(cdropout_cached_bytes());
}

static PyMethodDef methods[] = {
    {"apply", apply, METH_VARARGS, NULL},
    {"repeat", repeat, METH_VARARGS, NULL},
    {"apply_noise", apply_noise, METH_VARARGS, NULL},
    {"fill_keep", fill_keep, METH_VARARGS, NULL},
    {"fill_raw", fill_raw, METH_VARARGS, NULL},
    {"draw_mask", draw_mask, METH_VARARGS, NULL},
    {"draw_noise", draw_noise, METH_VARARGS, NULL},
    {"alpha_dropout", alpha_dropout, METH_VARARGS, NULL},
    {"cached_bytes", cached_bytes, METH_NOARGS, NULL},
#if CDROPOUT_ABI_MINOR >= 1
    {"apply_strided", apply_strided, METH_VARARGS, NULL},
    {"fill_keep_strided", fill_keep_strided, METH_VARARGS, NULL},
    {"strided_fields", strided_fields, METH_VARARGS, NULL},
#endif
#if CDROPOUT_ABI_MINOR >= 2
    {"move_kept", move_kept, METH_VARARGS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, NAME(MODULE), NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC INIT(MODULE)(void)
{
    return cdropout_import() == 0 ? PyModule_Create(&definition) : NULL;
}
