/* The kernels of every dtype, for block_kernels.inc.h: includes dtype_kernels.inc.h once for each DTYPE. COMPUTED is
 * the dtype of its elements in registers. COPIED is a dtype of the same size whose loads and stores keep all bits:
 * bfloat16 for float16, whose conversions make signalling NaNs quiet. */

#define DTYPE f32
#define COMPUTED f32
#define COPIED f32
#include "dtype_kernels.inc.h"

#define DTYPE f64
#define COMPUTED f64
#define COPIED f64
#include "dtype_kernels.inc.h"

#define DTYPE f16
#define COMPUTED f32
#define COPIED bf16
#include "dtype_kernels.inc.h"

#define DTYPE bf16
#define COMPUTED f32
#define COPIED bf16
#include "dtype_kernels.inc.h"
