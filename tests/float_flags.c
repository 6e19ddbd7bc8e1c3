/* A library whose functions give other results with -ffast-math, each of its parts, and similar flags, and with builds
 * that lose OpenMP. tests/test_build.py builds it with the flags of setup.py and with those of the environment. */
#include "core/float_check.h"
#include "core/float_mode.h"
#include "core/kernel_table.h" /* with the check of the flags */
#include "system/threads.h"

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int is_nan(double x);
EXPORTED double plus_zero(double x);
EXPORTED double product_and_sum(double x, double y, double z);
EXPORTED double sum_and_difference(double x, double y);
EXPORTED double tenth(void);
EXPORTED double product_of_products(double x, double y);
EXPORTED void thirds(double *x);
EXPORTED int has_openmp(void);
EXPORTED int serial_reason(void);
EXPORTED const char *changed_by_flags(void);

int is_nan(double x)
{
    return x != x; /* 0 with -ffinite-math-only */
}

double plus_zero(double x)
{
    return x + 0.0; /* -0.0 for -0.0 with -fno-signed-zeros */
}

double product_and_sum(double x, double y, double z)
{
    return x * y + z; /* rounded once with -ffp-contract=fast */
}

double sum_and_difference(double x, double y)
{
    return (x + y) - x; /* y with -fassociative-math */
}

double tenth(void)
{
    return 0.1; /* of float32 with -fsingle-precision-constant */
}

double product_of_products(double x, double y)
{
    return x * x * y; /* finite with -mfpmath=387 although x * x is not */
}

void thirds(double *x)
{
    for (int i = 0; i < 8; i++)
        x[i] /= 3.0; /* multiplied by a rounded 1/3 with -freciprocal-math */
}

int has_openmp(void)
{
    return HAS_OPENMP;
}

int serial_reason(void)
{
    return CDROPOUT_SERIAL_REASON;
}

const char *changed_by_flags(void)
{
    const float_mode before = enter_default_mode();
    const char *changed = changed_arithmetic_here();
    leave_default_mode(before);
    return changed;
}
