/* The kernels of every dtype with one kind of stores. Included by block_kernels.inc.h for each kind, with
 * STORE_VERB(dtype), AFTER_STORES() and OF_STORES(name) defined; it undefines them for the next. Elements of float16
 * are copied as those of bfloat16, because their own conversions make signalling NaNs quiet. */

#define ELEM float
#define COMPUTED float
#define COMPUTED_OF(elem) (elem)
#define ELEM_OF(computed) (computed)
#define OF_DTYPE(name) OF_STORES(name##_f32)
#define ELEM_VEC vf32
#define ELEM_LOAD f32_load
#define ELEM_VEC_OF_F32(v) (v)
#define ELEM_STORE STORE_VERB(f32)
#define ELEM_STORE_ANYWHERE f32_store
#define COPY_LOAD f32_load
#define COPY_STORE STORE_VERB(f32)
#define VEC_VERB(verb) f32_##verb
#include "dtype_kernels.inc.h"

#define ELEM double
#define COMPUTED double
#define COMPUTED_OF(elem) (elem)
#define ELEM_OF(computed) (computed)
#define OF_DTYPE(name) OF_STORES(name##_f64)
#define ELEM_VEC vf64
#define ELEM_LOAD f64_load
#define ELEM_VEC_OF_F32(v) f64_of_f32(v)
#define ELEM_STORE STORE_VERB(f64)
#define ELEM_STORE_ANYWHERE f64_store
#define COPY_LOAD f64_load
#define COPY_STORE STORE_VERB(f64)
#define VEC_VERB(verb) f64_##verb
#include "dtype_kernels.inc.h"

#define ELEM uint16_t
#define COMPUTED float
#define COMPUTED_OF(elem) float_of_f16(elem)
#define ELEM_OF(computed) f16_of_float(computed)
#define OF_DTYPE(name) OF_STORES(name##_f16)
#define ELEM_VEC vf32
#define ELEM_LOAD f16_load
#define ELEM_VEC_OF_F32(v) (v)
#define ELEM_STORE STORE_VERB(f16)
#define ELEM_STORE_ANYWHERE f16_store
#define COPY_LOAD bf16_load
#define COPY_STORE STORE_VERB(bf16)
#define VEC_VERB(verb) f32_##verb
#include "dtype_kernels.inc.h"

#define ELEM uint16_t
#define COMPUTED float
#define COMPUTED_OF(elem) float_of_bf16(elem)
#define ELEM_OF(computed) bf16_of_float(computed)
#define OF_DTYPE(name) OF_STORES(name##_bf16)
#define ELEM_VEC vf32
#define ELEM_LOAD bf16_load
#define ELEM_VEC_OF_F32(v) (v)
#define ELEM_STORE STORE_VERB(bf16)
#define ELEM_STORE_ANYWHERE bf16_store
#define COPY_LOAD bf16_load
#define COPY_STORE STORE_VERB(bf16)
#define VEC_VERB(verb) f32_##verb
#include "dtype_kernels.inc.h"

#undef STORE_VERB
#undef AFTER_STORES
#undef OF_STORES
