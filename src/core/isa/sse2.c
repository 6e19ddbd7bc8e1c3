/* The verbs of SSE2, which every x86-64 has, for block_kernels.inc.h: vectors of 2 lanes of 64 bits; a mask is one,
 * too. */
#include "../kernel_table.h"

#ifdef HAS_X86_KERNELS

#include <emmintrin.h>
#include <string.h>

#include "../half.h"

#define ISA_NAME "sse2"
#define V64_LANES 2

typedef __m128i v64;
#define v64_load(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define v64_store_le(p, v) _mm_storeu_si128((__m128i *)(void *)(p), v)
#define HAS_STREAMING_STORES
#define stream_fence _mm_sfence
#define v64_set1(word) _mm_set1_epi64x((long long)(word))
#define v64_add _mm_add_epi64
#define v64_and _mm_and_si128
#define v64_xor _mm_xor_si128
#define v64_xor3(a, b, c) _mm_xor_si128(_mm_xor_si128(a, b), c)
#define v64_shl(v, n_bits) _mm_slli_epi64(v, n_bits)
#define v64_shr(v, n_bits) _mm_srli_epi64(v, n_bits)
#define v64_rotl(v, n_bits) _mm_or_si128(_mm_slli_epi64(v, n_bits), _mm_srli_epi64(v, 64 - (n_bits)))
#define v64_mul_lo32 _mm_mul_epu32
#define w32_sub _mm_sub_epi32
#define w32_shl(v, n_bits) _mm_slli_epi32(v, n_bits)
#define w32_shr(v, n_bits) _mm_srli_epi32(v, n_bits)
#define w32_sra(v, n_bits) _mm_srai_epi32(v, n_bits)

/* SSE2 has no "greater or equal", so the vector is all ones where an element is dropped. f32_select is one and-not. */
typedef struct {
    __m128i dropped;
} keep32;

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    return (keep32){_mm_cmpgt_epi32(threshold32, numbers)};
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    return keep_upper(_mm_slli_epi32(numbers, 16), threshold32);
}

static inline keep32 keep32_of_bits(uint32_t bits)
{
    const __m128i kept = _mm_and_si128(_mm_set1_epi32((int)bits), _mm_setr_epi32(1, 2, 4, 8));
    return (keep32){_mm_cmpeq_epi32(kept, _mm_setzero_si128())};
}

/* Differences of 16-bit numbers, packed to bytes, keep their signs, and stay 0 only where they are: at ties. */
#define HAS_DECIDE_WORD
static inline int decide_word(uint64_t *keep_u64, const v64 numbers[8], v64 threshold16)
{
    uint64_t dropped = 0;
    __m128i least = _mm_set1_epi8(-1);
    for (int v = 0; v < 8; v += 4) {
        const __m128i first =
            _mm_packs_epi16(_mm_subs_epi16(numbers[v], threshold16), _mm_subs_epi16(numbers[v + 1], threshold16));
        const __m128i second =
            _mm_packs_epi16(_mm_subs_epi16(numbers[v + 2], threshold16), _mm_subs_epi16(numbers[v + 3], threshold16));
        const __m128i lower = _mm_packs_epi16(_mm_slli_epi16(first, 8), _mm_slli_epi16(second, 8));
        dropped |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_packs_epi16(first, second)) << (4 * v);
        dropped |= (uint64_t)(unsigned)_mm_movemask_epi8(lower) << (32 + 4 * v);
        least = _mm_min_epu8(least, _mm_min_epu8(first, second));
    }
    *keep_u64 = ~dropped;
    return _mm_movemask_epi8(_mm_cmpeq_epi8(least, _mm_setzero_si128()));
}

static inline int any_tie(const v64 numbers[8], v64 threshold16)
{
    v64 ties = _mm_cmpeq_epi16(numbers[0], threshold16);
    for (int v = 1; v < 8; v++)
        ties = _mm_or_si128(ties, _mm_cmpeq_epi16(numbers[v], threshold16));
    return _mm_movemask_epi8(ties) != 0;
}

typedef __m128i vbytes;
#define BYTES_OF_VECTOR 16
#define bytes_load(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define bytes_store(p, v) _mm_storeu_si128((__m128i *)(void *)(p), v)
#define bytes_stream(p, v) _mm_stream_si128((__m128i *)(void *)(p), v)
static inline vbytes bytes_of_either(__m128i kept, vbytes v, vbytes other)
{
    return _mm_or_si128(_mm_and_si128(kept, v), _mm_andnot_si128(kept, other));
}
static inline vbytes bytes_select1(uint64_t bits, vbytes v, vbytes other)
{
    const __m128i places = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, (char)0x80, 1, 2, 4, 8, 16, 32, 64, (char)0x80);
    const __m128i both = _mm_cvtsi32_si128((int)(bits & 0xFFFF)), pairs = _mm_unpacklo_epi8(both, both);
    const __m128i copies = _mm_shuffle_epi32(_mm_shufflelo_epi16(pairs, 0x50), 0x50); /* words 0, 0, 1, 1 of each */
    return bytes_of_either(_mm_cmpeq_epi8(_mm_and_si128(copies, places), places), v, other);
}
/* bytes_select1 with three bytes to each bit, for a third of the 48 bytes of 16 bits. */
#define HAS_SELECT_TRIPLED
static inline vbytes bytes_select_tripled(uint64_t bits, unsigned third, vbytes v, vbytes other)
{
#define THRICE(a) a, a, a
#define EIGHT_THRICE THRICE(1), THRICE(2), THRICE(4), THRICE(8), THRICE(16), THRICE(32), THRICE(64), THRICE(128)
    static const uint8_t places[48] = {EIGHT_THRICE, EIGHT_THRICE};
#undef THRICE
#undef EIGHT_THRICE
    const __m128i place = bytes_load(places + 16 * third);
    const __m128i both = _mm_cvtsi32_si128((int)(bits & 0xFFFF));
    const __m128i words = _mm_shufflelo_epi16(_mm_unpacklo_epi8(both, both), 0x50); /* 0, 0, 1, 1 */
    const __m128i copies = third == 0   ? _mm_shuffle_epi32(words, 0x00)
                           : third == 1 ? _mm_shuffle_epi32(words, 0x50)
                                        : _mm_shuffle_epi32(words, 0x55);
    return bytes_of_either(_mm_cmpeq_epi8(_mm_and_si128(copies, place), place), v, other);
}
static inline vbytes bytes_select2(uint64_t bits, vbytes v, vbytes other)
{
    const __m128i places = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
    const __m128i chosen = _mm_and_si128(_mm_set1_epi16((short)bits), places);
    return bytes_of_either(_mm_cmpeq_epi16(chosen, places), v, other);
}
static inline vbytes bytes_select4(uint64_t bits, vbytes v, vbytes other)
{
    const __m128i places = _mm_setr_epi32(1, 2, 4, 8);
    const __m128i chosen = _mm_and_si128(_mm_set1_epi32((int)bits), places);
    return bytes_of_either(_mm_cmpeq_epi32(chosen, places), v, other);
}
static inline vbytes bytes_select8(uint64_t bits, vbytes v, vbytes other)
{
    const __m128i places = _mm_setr_epi32(1, 1, 2, 2);
    const __m128i chosen = _mm_and_si128(_mm_set1_epi32((int)bits), places);
    return bytes_of_either(_mm_cmpeq_epi32(chosen, places), v, other);
}

typedef __m128 vf32;
#define f32_load(p) _mm_loadu_ps((const float *)(const void *)(p))
#define f32_set1 _mm_set1_ps
#define f32_add _mm_add_ps
#define f32_mul _mm_mul_ps
#define f32_div _mm_div_ps
#define f32_relu(v) _mm_max_ps(_mm_setzero_ps(), v) /* a NaN in the second operand stays */
#define f32_select(keep, v) _mm_andnot_ps(_mm_castsi128_ps((keep).dropped), v)
#define f32_blend(keep, v, other) _mm_or_ps(f32_select(keep, v), _mm_and_ps(_mm_castsi128_ps((keep).dropped), other))
#define f32_sqrt _mm_sqrt_ps
#define f32_of_w32 _mm_cvtepi32_ps
#define f32_as_w32 _mm_castps_si128
#define w32_as_f32 _mm_castsi128_ps
#define f32_store(p, v) _mm_storeu_ps((float *)(void *)(p), v)
#define f32_stream(p, v) _mm_stream_ps((float *)(void *)(p), v)
static inline keep32 f32_positive(vf32 v)
{
    return (keep32){_mm_castps_si128(_mm_cmpngt_ps(v, _mm_setzero_ps()))};
}

typedef struct {
    __m128d first, second;
} vf64;
static inline vf64 f64_load(const char *p)
{
    return (vf64){_mm_loadu_pd((const double *)(const void *)p), _mm_loadu_pd((const double *)(const void *)p + 2)};
}
static inline vf64 f64_set1(double value)
{
    return (vf64){_mm_set1_pd(value), _mm_set1_pd(value)};
}
static inline vf64 f64_add(vf64 a, vf64 b)
{
    return (vf64){_mm_add_pd(a.first, b.first), _mm_add_pd(a.second, b.second)};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){_mm_mul_pd(a.first, b.first), _mm_mul_pd(a.second, b.second)};
}
static inline vf64 f64_div(vf64 a, vf64 b)
{
    return (vf64){_mm_div_pd(a.first, b.first), _mm_div_pd(a.second, b.second)};
}
static inline vf64 f64_sqrt(vf64 v)
{
    return (vf64){_mm_sqrt_pd(v.first), _mm_sqrt_pd(v.second)};
}
static inline vf64 f64_relu(vf64 v)
{
    return (vf64){_mm_max_pd(_mm_setzero_pd(), v.first), _mm_max_pd(_mm_setzero_pd(), v.second)};
}
static inline keep32 f64_positive(vf64 v)
{
    const __m128 first = _mm_castpd_ps(_mm_cmpngt_pd(v.first, _mm_setzero_pd()));
    const __m128 second = _mm_castpd_ps(_mm_cmpngt_pd(v.second, _mm_setzero_pd()));
    return (keep32){_mm_castps_si128(_mm_shuffle_ps(first, second, 0x88))}; /* the even words of both */
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    const __m128i first = _mm_unpacklo_epi32(keep.dropped, keep.dropped);
    const __m128i second = _mm_unpackhi_epi32(keep.dropped, keep.dropped);
    return (vf64){_mm_andnot_pd(_mm_castsi128_pd(first), v.first), _mm_andnot_pd(_mm_castsi128_pd(second), v.second)};
}
static inline vf64 f64_blend(keep32 keep, vf64 v, vf64 other)
{
    const __m128d first = _mm_castsi128_pd(_mm_unpacklo_epi32(keep.dropped, keep.dropped));
    const __m128d second = _mm_castsi128_pd(_mm_unpackhi_epi32(keep.dropped, keep.dropped));
    return (vf64){_mm_or_pd(_mm_and_pd(first, other.first), _mm_andnot_pd(first, v.first)),
                  _mm_or_pd(_mm_and_pd(second, other.second), _mm_andnot_pd(second, v.second))};
}
static inline vf64 f64_of_f32(vf32 v)
{
    return (vf64){_mm_cvtps_pd(v), _mm_cvtps_pd(_mm_movehl_ps(v, v))};
}
static inline void f64_store(char *p, vf64 v)
{
    _mm_storeu_pd((double *)(void *)p, v.first);
    _mm_storeu_pd((double *)(void *)p + 2, v.second);
}
static inline void f64_stream(char *p, vf64 v)
{
    _mm_stream_pd((double *)(void *)p, v.first);
    _mm_stream_pd((double *)(void *)p + 2, v.second);
}

/* Four 16-bit elements take the lower half of a vector. */
static inline void halves_store(char *p, __m128i halves)
{
    _mm_storel_epi64((__m128i *)(void *)p, halves);
}
static inline void halves_stream(char *p, __m128i halves)
{
    _mm_stream_si64((long long *)(void *)p, _mm_cvtsi128_si64(halves));
}

/* SSE2 has no instructions for float16. The conversions are so slow that a call of a function adds little. */
static __attribute__((noinline)) vf32 f16_load(const char *p)
{
    uint16_t elem[4];
    memcpy(elem, p, sizeof elem);
    return _mm_setr_ps(float_of_f16(elem[0]), float_of_f16(elem[1]), float_of_f16(elem[2]), float_of_f16(elem[3]));
}
static __attribute__((noinline)) __m128i f16_halves(vf32 v)
{
    float value[4];
    _mm_storeu_ps(value, v);
    const uint16_t elem[4] = {f16_of_float(value[0]), f16_of_float(value[1]), f16_of_float(value[2]),
                              f16_of_float(value[3])};
    return _mm_loadl_epi64((const __m128i *)(const void *)elem);
}
static inline vf32 bf16_load(const char *p)
{
    const __m128i halves = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves));
}
static inline __m128i bf16_halves(vf32 v) /* rounds as bf16_of_float does */
{
    const __m128i bits = _mm_castps_si128(v);
    const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    const __m128i rounded = _mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7FFF)), odd);
    const __m128i halves = _mm_srai_epi32(rounded, 16); /* signed, because SSE2 can only pack signed words */
    return _mm_packs_epi32(halves, halves);
}

#include "../kernels/block_kernels.inc.h"

static int is_supported(void)
{
    return 1;
}

const kernel_table kernels_sse2 = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
