/* The C interface for extension modules in C11 and C++17. Include this header instead of Python.h, or after it.
 * Call cdropout_import() once in each source file that includes it, when the module is initialised; then call the
 * functions below from any thread. cdropout_table.h documents them. cdropout.get_include() is the folder of both
 * headers. */
#ifndef CDROPOUT_H
#define CDROPOUT_H

#include <Python.h>

#include "cdropout_table.h"

/* C has no other cast, and C++ programs may be compiled with -Wold-style-cast. */
#ifdef __cplusplus
#define CDROPOUT_CAST(type, value) static_cast<type>(value)
#else
#define CDROPOUT_CAST(type, value) ((type)(value))
#endif

static const cdropout_table *cdropout_functions = NULL;

/* Raises an ImportError with the versions of this header and of the library. */
static inline int cdropout_refuse(const cdropout_table *table)
{
    PyObject *package = PyImport_ImportModule("cdropout");
    PyObject *version = package != NULL ? PyObject_GetAttrString(package, "__version__") : NULL;
    if (version != NULL)
        PyErr_Format(PyExc_ImportError,
                     "this module must be rebuilt: it was built for version %d.%d of cdropout's C interface, got "
                     "cdropout %S with version %d.%d",
                     CDROPOUT_ABI_MAJOR, CDROPOUT_ABI_MINOR, version, table->major, table->minor);
    Py_XDECREF(version);
    Py_XDECREF(package);
    return -1;
}

/* Imports the library. Returns 0, or -1 with a Python exception: ImportError if the library has an older or another
 * major version of the interface than this header. Needs the GIL. */
static inline int cdropout_import(void)
{
    PyObject *module = PyImport_ImportModule("cdropout.api");
    PyObject *capsule = module != NULL ? PyObject_GetAttrString(module, "C_API") : NULL;
    const cdropout_table *table = NULL;
    if (capsule != NULL)
        table = CDROPOUT_CAST(const cdropout_table *, PyCapsule_GetPointer(capsule, "cdropout.api.C_API"));
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (table == NULL)
        return -1;
    if (table->major != CDROPOUT_ABI_MAJOR || table->minor < CDROPOUT_ABI_MINOR ||
        table->n_bytes < sizeof(cdropout_table))
        return cdropout_refuse(table);
    cdropout_functions = table;
    return 0;
}

static inline int cdropout_mask_of(PyObject *mask, cdropout_mask *c_mask)
{
    return cdropout_functions->mask_of(mask, c_mask);
}

static inline int cdropout_noise_of(PyObject *noise, cdropout_noise *c_noise)
{
    return cdropout_functions->noise_of(noise, c_noise);
}

static inline int cdropout_stream_of(PyObject *stream, cdropout_stream *c_stream)
{
    return cdropout_functions->stream_of(stream, c_stream);
}

static inline int cdropout_draw_mask(cdropout_mask *mask, const cdropout_stream *stream, uint64_t n_elems, double p)
{
    return cdropout_functions->draw_mask(mask, stream, n_elems, p);
}

static inline int cdropout_draw_noise(cdropout_noise *noise, const cdropout_stream *stream, uint64_t n_elems,
                                      double std)
{
    return cdropout_functions->draw_noise(noise, stream, n_elems, std);
}

static inline int cdropout_define_mask(cdropout_mask *mask, const cdropout_key *key, uint64_t start, double p)
{
    return cdropout_functions->define_mask(mask, key, start, p);
}

static inline int cdropout_set_alpha_dropout(cdropout_arrays *arrays, cdropout_mask *mask)
{
    return cdropout_functions->set_alpha_dropout(arrays, mask);
}

static inline int cdropout_apply(int operation, int dtype, const cdropout_arrays *arrays, const cdropout_mask *mask,
                                 size_t begin, size_t end)
{
    return cdropout_functions->apply(operation, dtype, arrays, mask, begin, end);
}

static inline int cdropout_multiply_by_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise,
                                             size_t begin, size_t end)
{
    return cdropout_functions->multiply_by_noise(dtype, arrays, noise, begin, end);
}

static inline int cdropout_add_noise(int dtype, const cdropout_arrays *arrays, const cdropout_noise *noise,
                                     size_t begin, size_t end)
{
    return cdropout_functions->add_noise(dtype, arrays, noise, begin, end);
}

static inline int cdropout_fill_keep(uint8_t *out, const cdropout_mask *mask, size_t begin, size_t end)
{
    return cdropout_functions->fill_keep(out, mask, begin, end);
}

static inline void cdropout_fill_raw(uint8_t *out, const cdropout_key *key, uint64_t first_block, size_t n_blocks)
{
    cdropout_functions->fill_raw(out, key, first_block, n_blocks);
}

static inline size_t cdropout_cached_bytes(void)
{
    return cdropout_functions->cached_bytes();
}

static inline int cdropout_strided_mask_of(PyObject *mask, cdropout_strided_mask *c_mask)
{
    return cdropout_functions->strided_mask_of(mask, c_mask);
}

static inline int cdropout_apply_strided(int operation, int dtype, const cdropout_arrays *arrays,
                                         const cdropout_strided_mask *mask, size_t begin, size_t end)
{
    return cdropout_functions->apply_strided(operation, dtype, arrays, mask, begin, end);
}

static inline int cdropout_fill_keep_strided(uint8_t *out, const cdropout_strided_mask *mask, size_t begin, size_t end)
{
    return cdropout_functions->fill_keep_strided(out, mask, begin, end);
}

static inline int cdropout_fill_keep_words(uint64_t *out, const cdropout_mask *mask, size_t n_elems)
{
    return cdropout_functions->fill_keep_words(out, mask, n_elems);
}

static inline int cdropout_gather_kept(int dtype, const cdropout_submatrix *matrix, size_t begin, size_t end)
{
    return cdropout_functions->gather_kept(dtype, matrix, begin, end);
}

static inline int cdropout_scatter_kept(int dtype, int rest, const cdropout_submatrix *matrix, size_t begin, size_t end)
{
    return cdropout_functions->scatter_kept(dtype, rest, matrix, begin, end);
}

#endif
