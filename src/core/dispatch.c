/* The catalog of kernel_table.h as arrays, and the choice of an instruction set. src/_kernels.pyx calls choose_kernels
 * at import and stores its answer in `kernels`. */
#include "float_check.h"
#include "float_mode.h"
#include "kernel_table.h"

#include <string.h>

const dtype_properties dtype_table[N_DTYPES] = {
#define X(name, n_bytes, scale_bits, numpy_name) {#name, n_bytes, scale_bits, numpy_name},
    CDROPOUT_DTYPES(X)
#undef X
};

const operation_properties operation_table[N_OPERATIONS] = {
#define X(name, number, steps) {#name, steps},
    CDROPOUT_OPERATIONS(X)
#undef X
};

const kernel_table *kernels = NULL;

static const kernel_table *const tables[] = {
#define X(isa) &kernels_##isa,
    CDROPOUT_ISAS(X)
#undef X
};
enum { N_TABLES = sizeof tables / sizeof *tables };

const kernel_table *kernels_at(size_t i)
{
    return i < N_TABLES ? tables[i] : NULL;
}

const kernel_table *choose_kernels(const char *name, int *is_known)
{
    *is_known = name == NULL;
    for (size_t i = 0; i < N_TABLES; i++) {
        if (name != NULL && strcmp(name, tables[i]->isa) != 0)
            continue;
        *is_known = 1;
        if (tables[i]->is_supported())
            return tables[i];
    }
    return NULL;
}

const char *changed_arithmetic(void)
{
    const float_mode before = enter_default_mode();
    const char *changed = changed_arithmetic_here();
    for (size_t i = 0; i < N_TABLES && changed == NULL; i++)
        if (tables[i]->is_supported())
            changed = tables[i]->changed_arithmetic();
    leave_default_mode(before);
    return changed;
}
