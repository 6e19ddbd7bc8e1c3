/* The kernels of every dtype: DTYPE, the dtype COMPUTED that its elements become in registers, and the dtype COPIED
 * whose loads and stores keep all bits. Elements of float16 are copied as those of bfloat16, because conversions of
 * float16 make signalling NaNs quiet. */

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
