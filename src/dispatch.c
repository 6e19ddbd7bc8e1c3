/* Picks the table of kernels. */
#include "catalog.h"

#include <string.h>

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
