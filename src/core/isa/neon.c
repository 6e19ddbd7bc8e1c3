/* The verbs of NEON, which every AArch64 has, for block_kernels.inc.h: vectors of 2 lanes of 64 bits; a mask is one,
 * too. */
#include "../kernel_table.h"

#ifdef HAS_NEON_KERNELS

#include <arm_neon.h>
#include <string.h>

#define ISA_NAME "neon"
#define V64_LANES 2

typedef uint64x2_t v64;
#define v64_load(p) vld1q_u64(p)
#define v64_store_le(p, v) vst1q_u8((uint8_t *)(p), vreinterpretq_u8_u64(v))
/* No streaming stores: there is no intrinsic for the instruction STNP. */
#define v64_set1(word) vdupq_n_u64(word)
#define v64_add vaddq_u64
#define v64_and vandq_u64
#define v64_xor veorq_u64
#define v64_xor3(a, b, c) veorq_u64(veorq_u64(a, b), c)
#define v64_shl(v, n_bits) vshlq_n_u64(v, n_bits)
#define v64_shr(v, n_bits) vshrq_n_u64(v, n_bits)
#define v64_rotl(v, n_bits) vsliq_n_u64(vshrq_n_u64(v, 64 - (n_bits)), v, n_bits)
#define v64_mul_lo32(a, b) vmull_u32(vmovn_u64(a), vmovn_u64(b))
#define w32_sub(a, b) vreinterpretq_u64_u32(vsubq_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b)))
#define w32_shl(v, n_bits) vreinterpretq_u64_u32(vshlq_n_u32(vreinterpretq_u32_u64(v), n_bits))
#define w32_shr(v, n_bits) vreinterpretq_u64_u32(vshrq_n_u32(vreinterpretq_u32_u64(v), n_bits))
#define w32_sra(v, n_bits) vreinterpretq_u64_s32(vshrq_n_s32(vreinterpretq_s32_u64(v), n_bits))

typedef uint32x4_t keep32;

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    return vcgeq_s32(vreinterpretq_s32_u64(numbers), vreinterpretq_s32_u64(threshold32));
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    const uint32x4_t lower = vshlq_n_u32(vreinterpretq_u32_u64(numbers), 16);
    return keep_upper(vreinterpretq_u64_u32(lower), threshold32);
}

static inline uint32x4_t bit_places(void)
{
    static const uint32_t places[4] = {1, 2, 4, 8};
    return vld1q_u32(places);
}

static inline uint32_t keep32_bits(keep32 keep)
{
    return vaddvq_u32(vandq_u32(keep, bit_places()));
}

static inline keep32 keep32_of_bits(uint32_t bits)
{
    return vtstq_u32(vdupq_n_u32(bits), bit_places());
}

static inline int any_tie(const v64 numbers[8], v64 threshold16)
{
    const uint16x8_t tied = vreinterpretq_u16_u64(threshold16);
    uint16x8_t ties = vceqq_u16(vreinterpretq_u16_u64(numbers[0]), tied);
    for (int v = 1; v < 8; v++)
        ties = vorrq_u16(ties, vceqq_u16(vreinterpretq_u16_u64(numbers[v]), tied));
    return vmaxvq_u16(ties) != 0;
}

typedef uint8x16_t vbytes;
#define BYTES_OF_VECTOR 16
#define bytes_load(p) vld1q_u8((const uint8_t *)(p))
#define bytes_store(p, v) vst1q_u8((uint8_t *)(p), v)
static inline vbytes bytes_select1(uint64_t bits, vbytes v, vbytes other)
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t copies = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));
    return vbslq_u8(vtstq_u8(copies, vld1q_u8(places)), v, other);
}
static inline vbytes bytes_select2(uint64_t bits, vbytes v, vbytes other)
{
    static const uint16_t places[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t kept = vtstq_u16(vdupq_n_u16((uint16_t)bits), vld1q_u16(places));
    return vbslq_u8(vreinterpretq_u8_u16(kept), v, other);
}
static inline vbytes bytes_select4(uint64_t bits, vbytes v, vbytes other)
{
    return vbslq_u8(vreinterpretq_u8_u32(keep32_of_bits((uint32_t)bits)), v, other);
}
static inline vbytes bytes_select8(uint64_t bits, vbytes v, vbytes other)
{
    static const uint64_t places[2] = {1, 2};
    const uint64x2_t kept = vtstq_u64(vdupq_n_u64(bits), vld1q_u64(places));
    return vbslq_u8(vreinterpretq_u8_u64(kept), v, other);
}

typedef float32x4_t vf32;
#define f32_load(p) vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(p)))
#define f32_store(p, v) vst1q_u8((uint8_t *)(p), vreinterpretq_u8_f32(v))
#define f32_set1 vdupq_n_f32
#define f32_add vaddq_f32
#define f32_mul vmulq_f32
#define f32_div vdivq_f32
#define f32_relu(v) vbslq_f32(vcltzq_f32(v), vdupq_n_f32(0), v) /* FMAX would turn -0 into +0 */
#define f32_positive(v) vcgtzq_f32(v)
#define f32_select(keep, v) vreinterpretq_f32_u32(vandq_u32(keep, vreinterpretq_u32_f32(v)))
#define f32_blend(keep, v, other) vbslq_f32(keep, v, other)
#define f32_sqrt vsqrtq_f32
#define f32_of_w32(v) vcvtq_f32_s32(vreinterpretq_s32_u64(v))
#define f32_as_w32(v) vreinterpretq_u64_f32(v)
#define w32_as_f32(v) vreinterpretq_f32_u64(v)

typedef struct {
    float64x2_t first, second;
} vf64;
static inline vf64 f64_load(const char *p)
{
    return (vf64){vreinterpretq_f64_u8(vld1q_u8((const uint8_t *)p)),
                  vreinterpretq_f64_u8(vld1q_u8((const uint8_t *)p + 16))};
}
static inline vf64 f64_set1(double value)
{
    return (vf64){vdupq_n_f64(value), vdupq_n_f64(value)};
}
static inline vf64 f64_add(vf64 a, vf64 b)
{
    return (vf64){vaddq_f64(a.first, b.first), vaddq_f64(a.second, b.second)};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){vmulq_f64(a.first, b.first), vmulq_f64(a.second, b.second)};
}
static inline vf64 f64_div(vf64 a, vf64 b)
{
    return (vf64){vdivq_f64(a.first, b.first), vdivq_f64(a.second, b.second)};
}
static inline vf64 f64_sqrt(vf64 v)
{
    return (vf64){vsqrtq_f64(v.first), vsqrtq_f64(v.second)};
}
static inline vf64 f64_relu(vf64 v)
{
    const float64x2_t zero = vdupq_n_f64(0);
    return (vf64){vbslq_f64(vcltzq_f64(v.first), zero, v.first), vbslq_f64(vcltzq_f64(v.second), zero, v.second)};
}
static inline keep32 f64_positive(vf64 v)
{
    return vcombine_u32(vmovn_u64(vcgtzq_f64(v.first)), vmovn_u64(vcgtzq_f64(v.second)));
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    const int32x4_t mask = vreinterpretq_s32_u32(keep);
    const uint64x2_t first = vreinterpretq_u64_s64(vmovl_s32(vget_low_s32(mask)));
    const uint64x2_t second = vreinterpretq_u64_s64(vmovl_high_s32(mask));
    return (vf64){vreinterpretq_f64_u64(vandq_u64(first, vreinterpretq_u64_f64(v.first))),
                  vreinterpretq_f64_u64(vandq_u64(second, vreinterpretq_u64_f64(v.second)))};
}
static inline vf64 f64_blend(keep32 keep, vf64 v, vf64 other)
{
    const int32x4_t mask = vreinterpretq_s32_u32(keep);
    const uint64x2_t first = vreinterpretq_u64_s64(vmovl_s32(vget_low_s32(mask)));
    const uint64x2_t second = vreinterpretq_u64_s64(vmovl_high_s32(mask));
    return (vf64){vbslq_f64(first, v.first, other.first), vbslq_f64(second, v.second, other.second)};
}
static inline vf64 f64_of_f32(vf32 v)
{
    return (vf64){vcvt_f64_f32(vget_low_f32(v)), vcvt_high_f64_f32(v)};
}
static inline void f64_store(char *p, vf64 v)
{
    vst1q_u8((uint8_t *)p, vreinterpretq_u8_f64(v.first));
    vst1q_u8((uint8_t *)p + 16, vreinterpretq_u8_f64(v.second));
}

#define f16_load(p) vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)(p))))
#define f16_halves(v) vreinterpret_u8_f16(vcvt_f16_f32(v))
#define halves_store(p, halves) vst1_u8((uint8_t *)(p), halves)
#define bf16_load(p) vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)(p))), 16))
static inline uint8x8_t bf16_halves(vf32 v) /* rounds as bf16_of_float does */
{
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
    return vreinterpret_u8_u16(vshrn_n_u32(rounded, 16));
}

#include "../kernels/block_kernels.inc.h"

static int is_supported(void)
{
    return 1;
}

const kernel_table kernels_neon = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
