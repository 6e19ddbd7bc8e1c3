/* The verbs of AVX2 and F16C for block_kernels.inc.h: vectors of 4 lanes of 64 bits; a mask is a vector, too. */
#include "../kernel_table.h"

#ifdef HAS_X86_KERNELS

#include <immintrin.h>
#include <string.h>

#include "../processor.h"
#include "pack_tables.h"
#include "target_region.h"

#define ISA_NAME "avx2"
#define V64_LANES 4

TARGET_REGION_BEGIN("avx2,f16c,popcnt")

typedef __m256i v64;
#define v64_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define v64_store_le(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define stream_fence _mm_sfence
#define v64_set1(word) _mm256_set1_epi64x((long long)(word))
#define v64_add _mm256_add_epi64
#define v64_and _mm256_and_si256
#define v64_xor _mm256_xor_si256
#define v64_xor3(a, b, c) _mm256_xor_si256(_mm256_xor_si256(a, b), c)
#define v64_shl(v, n_bits) _mm256_slli_epi64(v, n_bits)
#define v64_shr(v, n_bits) _mm256_srli_epi64(v, n_bits)
#define v64_rotl(v, n_bits) _mm256_or_si256(_mm256_slli_epi64(v, n_bits), _mm256_srli_epi64(v, 64 - (n_bits)))
#define v64_mul_lo32 _mm256_mul_epu32
#define w32_sub _mm256_sub_epi32
#define w32_shl(v, n_bits) _mm256_slli_epi32(v, n_bits)
#define w32_shr(v, n_bits) _mm256_srli_epi32(v, n_bits)
#define w32_sra(v, n_bits) _mm256_srai_epi32(v, n_bits)

/* Stores of 16 bytes, because NumPy aligns arrays to 16 bytes: half of them are not aligned to 32. */
#define HAS_STREAMING_STORES
static inline void halves_stream(char *p, __m128i v)
{
    _mm_stream_si128((__m128i *)(void *)p, v);
}
static inline void v64_stream(char *p, v64 v)
{
    halves_stream(p, _mm256_castsi256_si128(v));
    halves_stream(p + 16, _mm256_extracti128_si256(v, 1));
}

/* AVX2 has no "greater or equal", so the vector is all ones where an element is dropped. f32_select is one and-not. */
typedef struct {
    __m256i dropped;
} keep32;

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    return (keep32){_mm256_cmpgt_epi32(threshold32, numbers)};
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    return keep_upper(_mm256_slli_epi32(numbers, 16), threshold32);
}

static inline keep32 keep32_of_bits(uint32_t bits)
{
    const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i kept = _mm256_and_si256(_mm256_set1_epi32((int)bits), places);
    return (keep32){_mm256_cmpeq_epi32(kept, _mm256_setzero_si256())};
}

/* Differences of 16-bit numbers, packed to bytes, keep their signs, and stay 0 only where they are: at ties. The halves
 * of the vectors are then put in order. */
#define HAS_DECIDE_WORD
static inline int decide_word(uint64_t *keep_u64, const v64 numbers[4], v64 threshold16)
{
    const __m256i first =
        _mm256_packs_epi16(_mm256_subs_epi16(numbers[0], threshold16), _mm256_subs_epi16(numbers[1], threshold16));
    const __m256i second =
        _mm256_packs_epi16(_mm256_subs_epi16(numbers[2], threshold16), _mm256_subs_epi16(numbers[3], threshold16));
    const __m256i upper = _mm256_packs_epi16(first, second);
    const __m256i lower = _mm256_packs_epi16(_mm256_slli_epi16(first, 8), _mm256_slli_epi16(second, 8));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const uint32_t upper_dropped = (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(upper, order));
    const uint32_t lower_dropped = (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(lower, order));
    *keep_u64 = ~(upper_dropped | (uint64_t)lower_dropped << 32);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(first, second), _mm256_setzero_si256()));
}

static inline int any_tie(const v64 numbers[4], v64 threshold16)
{
    const v64 ties = _mm256_or_si256(
        _mm256_or_si256(_mm256_cmpeq_epi16(numbers[0], threshold16), _mm256_cmpeq_epi16(numbers[1], threshold16)),
        _mm256_or_si256(_mm256_cmpeq_epi16(numbers[2], threshold16), _mm256_cmpeq_epi16(numbers[3], threshold16)));
    return !_mm256_testz_si256(ties, ties);
}

/* Signs: 16-bit numbers of which the highest bit is set where an element is kept or tied, and all bits where it is
 * tied. below16 is one less than the threshold. */
#define HAS_SIGNS
static inline v64 signs_of(v64 numbers, v64 below16)
{
    return _mm256_subs_epi16(below16, numbers);
}
#define signs_of_lower(signs) _mm256_slli_epi32(signs, 16)
#define signs_most(a, b) _mm256_max_epu16(a, b)
static inline int has_tied_sign(v64 signs)
{
    return _mm256_movemask_epi8(_mm256_cmpeq_epi16(signs, _mm256_set1_epi32(-1)));
}
#define f32_load_by_signs(p, signs) _mm256_maskload_ps((const float *)(const void *)(p), signs)
/* The dropped bits in the order in which packing leaves them: vectors 0 and 1 in the lower half, 2 and 3 in the upper;
 * there, the lower lanes of both and then the upper ones; of each word of 32 bits first the lower number. */
static inline uint64_t record_of_signs(const v64 signs[4])
{
    const uint32_t first = (uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(signs[0], signs[1]));
    const uint32_t second = (uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(signs[2], signs[3]));
    return ~(first | (uint64_t)second << 32);
}
static inline unsigned bit_in_record(unsigned elem)
{
    const unsigned word = elem % 32, vec = word / 8, lane = word % 8;
    return 32 * (vec / 2) + 16 * (lane / 4) + 8 * (vec % 2) + 2 * (lane % 4) + (elem < 32);
}
static inline keep32 keep_of_record(uint64_t record, int v, int is_upper)
{
    /* Shifts the bit of each element to the sign: those of the upper numbers of an odd vector, then of the others. */
    const __m256i places = _mm256_setr_epi32(22, 20, 18, 16, 6, 4, 2, 0);
    const __m256i odd_upper = _mm256_sllv_epi32(_mm256_set1_epi32((int)(record >> (v < 2 ? 0 : 32))), places);
    const __m256i signs = _mm256_slli_epi32(odd_upper, (v % 2 == 0 ? 8 : 0) + (is_upper ? 0 : 1));
    return (keep32){_mm256_srai_epi32(signs, 31)};
}

typedef __m256i vbytes;
#define BYTES_OF_VECTOR 32
#define bytes_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define bytes_store(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define bytes_stream(p, v) v64_stream(p, v)
static inline vbytes bytes_select1(uint64_t bits, vbytes v, vbytes other)
{
    const __m256i byte_of_elem = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i places = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte_of_elem);
    return _mm256_blendv_epi8(other, v, _mm256_cmpeq_epi8(_mm256_and_si256(copies, places), places));
}
/* bytes_select1 with three bytes to each bit, for a third of the 96 bytes of 32 bits. */
#define HAS_SELECT_TRIPLED
static inline vbytes bytes_select_tripled(uint64_t bits, unsigned third, vbytes v, vbytes other)
{
    static const uint8_t byte_of_elem[3][32] = {
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2},
        {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3},
    };
#define THRICE(a) a, a, a
#define EIGHT_THRICE THRICE(1), THRICE(2), THRICE(4), THRICE(8), THRICE(16), THRICE(32), THRICE(64), THRICE(128)
    static const uint8_t places[96] = {EIGHT_THRICE, EIGHT_THRICE, EIGHT_THRICE, EIGHT_THRICE};
#undef THRICE
#undef EIGHT_THRICE
    const __m256i place = bytes_load(places + 32 * third);
    const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), bytes_load(byte_of_elem[third]));
    return _mm256_blendv_epi8(other, v, _mm256_cmpeq_epi8(_mm256_and_si256(copies, place), place));
}
static inline vbytes bytes_select2(uint64_t bits, vbytes v, vbytes other)
{
    const __m256i places =
        _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, (short)0x8000);
    const __m256i chosen = _mm256_and_si256(_mm256_set1_epi16((short)bits), places);
    return _mm256_blendv_epi8(other, v, _mm256_cmpeq_epi16(chosen, places));
}
static inline vbytes bytes_select4(uint64_t bits, vbytes v, vbytes other)
{
    const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i chosen = _mm256_and_si256(_mm256_set1_epi32((int)bits), places);
    return _mm256_blendv_epi8(other, v, _mm256_cmpeq_epi32(chosen, places));
}
static inline vbytes bytes_select8(uint64_t bits, vbytes v, vbytes other)
{
    const __m256i places = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i chosen = _mm256_and_si256(_mm256_set1_epi64x((long long)bits), places);
    return _mm256_blendv_epi8(other, v, _mm256_cmpeq_epi64(chosen, places));
}

typedef __m256 vf32;
#define f32_load(p) _mm256_loadu_ps((const float *)(const void *)(p))
#define f32_set1 _mm256_set1_ps
#define f32_add _mm256_add_ps
#define f32_mul _mm256_mul_ps
#define f32_div _mm256_div_ps
#define f32_relu(v) _mm256_max_ps(_mm256_setzero_ps(), v) /* a NaN in the second operand stays */
#define f32_select(keep, v) _mm256_andnot_ps(_mm256_castsi256_ps((keep).dropped), v)
#define f32_blend(keep, v, other) _mm256_blendv_ps(v, other, _mm256_castsi256_ps((keep).dropped))
#define f32_sqrt _mm256_sqrt_ps
#define f32_of_w32 _mm256_cvtepi32_ps
#define f32_as_w32 _mm256_castps_si256
#define w32_as_f32 _mm256_castsi256_ps
#define f32_store(p, v) _mm256_storeu_ps((float *)(void *)(p), v)
#define f32_stream(p, v) v64_stream(p, _mm256_castps_si256(v))
static inline keep32 f32_positive(vf32 v)
{
    return (keep32){_mm256_castps_si256(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NGT_UQ))};
}

typedef struct {
    __m256d first, second;
} vf64;
static inline vf64 f64_load(const char *p)
{
    return (vf64){_mm256_loadu_pd((const double *)(const void *)p),
                  _mm256_loadu_pd((const double *)(const void *)p + 4)};
}
static inline vf64 f64_set1(double value)
{
    return (vf64){_mm256_set1_pd(value), _mm256_set1_pd(value)};
}
static inline vf64 f64_add(vf64 a, vf64 b)
{
    return (vf64){_mm256_add_pd(a.first, b.first), _mm256_add_pd(a.second, b.second)};
}
static inline vf64 f64_div(vf64 a, vf64 b)
{
    return (vf64){_mm256_div_pd(a.first, b.first), _mm256_div_pd(a.second, b.second)};
}
static inline vf64 f64_sqrt(vf64 v)
{
    return (vf64){_mm256_sqrt_pd(v.first), _mm256_sqrt_pd(v.second)};
}
static inline vf64 f64_relu(vf64 v)
{
    return (vf64){_mm256_max_pd(_mm256_setzero_pd(), v.first), _mm256_max_pd(_mm256_setzero_pd(), v.second)};
}
static inline keep32 f64_positive(vf64 v)
{
    const __m256 first = _mm256_castpd_ps(_mm256_cmp_pd(v.first, _mm256_setzero_pd(), _CMP_NGT_UQ));
    const __m256 second = _mm256_castpd_ps(_mm256_cmp_pd(v.second, _mm256_setzero_pd(), _CMP_NGT_UQ));
    const __m256i dropped = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88)); /* even words of each half */
    return (keep32){_mm256_permute4x64_epi64(dropped, 0xD8)};                            /* 0, 2, 1, 3 */
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){_mm256_mul_pd(a.first, b.first), _mm256_mul_pd(a.second, b.second)};
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    const __m256i first = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(keep.dropped));
    const __m256i second = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(keep.dropped, 1));
    return (vf64){_mm256_andnot_pd(_mm256_castsi256_pd(first), v.first),
                  _mm256_andnot_pd(_mm256_castsi256_pd(second), v.second)};
}
static inline vf64 f64_blend(keep32 keep, vf64 v, vf64 other)
{
    const __m256i first = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(keep.dropped));
    const __m256i second = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(keep.dropped, 1));
    return (vf64){_mm256_blendv_pd(v.first, other.first, _mm256_castsi256_pd(first)),
                  _mm256_blendv_pd(v.second, other.second, _mm256_castsi256_pd(second))};
}
static inline vf64 f64_of_f32(vf32 v)
{
    return (vf64){_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}
static inline void f64_store(char *p, vf64 v)
{
    _mm256_storeu_pd((double *)(void *)p, v.first);
    _mm256_storeu_pd((double *)(void *)p + 4, v.second);
}
static inline void f64_stream(char *p, vf64 v)
{
    v64_stream(p, _mm256_castpd_si256(v.first));
    v64_stream(p + 32, _mm256_castpd_si256(v.second));
}

static inline __m128i halves_load(const char *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}
static inline void halves_store(char *p, __m128i halves)
{
    _mm_storeu_si128((__m128i *)(void *)p, halves);
}
#define f16_load(p) _mm256_cvtph_ps(halves_load(p))
#define f16_halves(v) _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define bf16_load(p) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves_load(p)), 16))
static inline __m128i bf16_halves(vf32 v) /* rounds as bf16_of_float does */
{
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i halves = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

#define HAS_PACK
enum { PACK_ELEMS_f32 = 8, PACK_ELEMS_f64 = 4 };
static inline __m256i pack_indices(uint64_t bytes)
{
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
}
/* All ones in the first n of 8 words. */
static inline __m256i first_words(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline __m256i words_of_bits(uint32_t bits)
{
    const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), places), places);
}
static inline __m256i pairs_of_bits(uint32_t bits)
{
    const __m256i places = _mm256_setr_epi64x(1, 2, 4, 8);
    return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(bits), places), places);
}

typedef __m256 pack_f32;
#define pack_load_f32(p) f32_load(p)
#define pack_load_some_f32(p, n) _mm256_maskload_ps((const float *)(const void *)(p), first_words(n))
#define pack_store_f32(p, v) f32_store(p, v)
#define pack_store_some_f32(p, v, n) _mm256_maskstore_ps((float *)(void *)(p), first_words(n), v)
#define pack_set1_f32(value) _mm256_set1_ps(value)
#define pack_mul_f32(a, b) _mm256_mul_ps(a, b)
#define pack_add_f32(a, b) _mm256_add_ps(a, b)
#define pack_chosen_f32(bits, v) _mm256_permutevar8x32_ps(v, pack_indices(pack_words_f32[bits]))
#define spread_chosen_f32(bits, v)                                                   \
    _mm256_and_ps(_mm256_permutevar8x32_ps(v, pack_indices(spread_words_f32[bits])), \
                  _mm256_castsi256_ps(words_of_bits(bits)))
#define pack_blend_f32(bits, v, other) _mm256_blendv_ps(other, v, _mm256_castsi256_ps(words_of_bits(bits)))

typedef __m256d pack_f64;
static inline __m256d permuted_pairs(__m256d v, uint64_t bytes)
{
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(v), pack_indices(bytes)));
}
#define pack_load_f64(p) _mm256_loadu_pd((const double *)(const void *)(p))
#define pack_load_some_f64(p, n) _mm256_maskload_pd((const double *)(const void *)(p), first_words(2 * (n)))
#define pack_store_f64(p, v) _mm256_storeu_pd((double *)(void *)(p), v)
#define pack_store_some_f64(p, v, n) _mm256_maskstore_pd((double *)(void *)(p), first_words(2 * (n)), v)
#define pack_set1_f64(value) _mm256_set1_pd(value)
#define pack_mul_f64(a, b) _mm256_mul_pd(a, b)
#define pack_add_f64(a, b) _mm256_add_pd(a, b)
#define pack_chosen_f64(bits, v) permuted_pairs(v, pack_words_f64[bits])
#define spread_chosen_f64(bits, v) \
    _mm256_and_pd(permuted_pairs(v, spread_words_f64[bits]), _mm256_castsi256_pd(pairs_of_bits(bits)))
#define pack_blend_f64(bits, v, other) _mm256_blendv_pd(other, v, _mm256_castsi256_pd(pairs_of_bits(bits)))

/* Listed indices: a byte for each 32-bit word, whose highest bit is set where the word becomes 0. */
#define HAS_PACK_SPREAD
enum { PACK_INDEX_BYTES_f32 = 8, PACK_INDEX_BYTES_f64 = 8 };
static inline void list_spread(uint8_t *index, uint64_t spread, uint32_t word_bits)
{
    /* A bit of each byte; the addition carries into the highest bit of the bytes that have it. */
    const uint64_t high_bits = 0x8080808080808080u;
    const uint64_t chosen = (word_bits * 0x0101010101010101u) & 0x8040201008040201u;
    const uint64_t marked = spread | (~((chosen + ~high_bits) | chosen) & high_bits);
    memcpy(index, &marked, sizeof marked);
}
static inline __m256 spread_words(const uint8_t *index, __m256 v)
{
    const __m256i from = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)index));
    return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(from, 31)), _mm256_permutevar8x32_ps(v, from));
}
#define pack_list_spread_f32(index, bits) list_spread(index, spread_words_f32[bits], bits)
#define pack_spread_f32(index, v) spread_words(index, v)
#define pack_list_spread_f64(index, bits)      \
    list_spread(index, spread_words_f64[bits], \
                ((bits) & 1) * 3 | ((bits) & 2) * 6 | ((bits) & 4) * 12 | ((bits) & 8) * 24)
#define pack_spread_f64(index, v) _mm256_castps_pd(spread_words(index, _mm256_castpd_ps(v)))

#include "../kernels/block_kernels.inc.h"

TARGET_REGION_END

static int is_supported(void)
{
    return supports_avx2(ask_processor());
}

const kernel_table kernels_avx2 = KERNEL_TABLE(is_supported);

#else
typedef int translation_unit_is_not_empty;
#endif
