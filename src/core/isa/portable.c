/* The verbs for block_kernels.inc.h in plain C11, for any processor and byte order: a vector is one lane of 64 bits. */
#include "../half.h"
#include "../kernel_table.h"

#include <math.h>
#include <string.h>

#define ISA_NAME "portable"
#define V64_LANES 1

typedef uint64_t v64;
#define v64_load(p) (*(p))
#define v64_set1(word) ((uint64_t)(word))
#define v64_add(a, b) ((a) + (b))
#define v64_and(a, b) ((a) & (b))
#define v64_xor(a, b) ((a) ^ (b))
#define v64_xor3(a, b, c) ((a) ^ (b) ^ (c))
#define v64_shl(v, n_bits) ((v) << (n_bits))
#define v64_shr(v, n_bits) ((v) >> (n_bits))
#define v64_rotl(v, n_bits) ((v) << (n_bits) | (v) >> (64 - (n_bits)))
#define v64_mul_lo32(a, b) ((uint64_t)(uint32_t)(a) * (uint32_t)(b))

static inline uint64_t of_words(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

static inline v64 w32_sub(v64 a, v64 b)
{
    return of_words((uint32_t)a - (uint32_t)b, (uint32_t)(a >> 32) - (uint32_t)(b >> 32));
}

static inline v64 w32_shl(v64 v, int n_bits)
{
    return of_words((uint32_t)v << n_bits, (uint32_t)(v >> 32) << n_bits);
}

static inline v64 w32_shr(v64 v, int n_bits)
{
    return of_words((uint32_t)v >> n_bits, (uint32_t)(v >> 32) >> n_bits);
}

/* C does not define the right shift of a negative number: this sets the bits that it shifts in. */
static inline v64 w32_sra(v64 v, int n_bits)
{
    const uint32_t low = (uint32_t)v, high = (uint32_t)(v >> 32);
    const uint32_t spread = ~(UINT32_MAX >> n_bits);
    return of_words(low >> n_bits | (low >> 31 ? spread : 0), high >> n_bits | (high >> 31 ? spread : 0));
}

static inline void v64_store_le(uint8_t *p, v64 v)
{
    for (int byte = 0; byte < 8; byte++)
        p[byte] = (uint8_t)(v >> (8 * byte));
}

/* For the two elements of a lane: all ones where kept, else 0. */
typedef struct {
    uint32_t mask[2];
} keep32;

static inline keep32 keep_upper(v64 numbers, v64 threshold32)
{
    const int32_t threshold = (int32_t)(uint32_t)threshold32;
    return (keep32){{
        (int32_t)(uint32_t)numbers >= threshold ? UINT32_MAX : 0,
        (int32_t)(uint32_t)(numbers >> 32) >= threshold ? UINT32_MAX : 0,
    }};
}

static inline keep32 keep_lower(v64 numbers, v64 threshold32)
{
    return keep_upper((numbers & 0x0000FFFF0000FFFFu) << 16, threshold32);
}

static inline uint32_t keep32_bits(keep32 keep)
{
    return (keep.mask[0] & 1) | (keep.mask[1] & 2);
}

static inline keep32 keep32_of_bits(uint32_t bits)
{
    return (keep32){{bits & 1 ? UINT32_MAX : 0, bits & 2 ? UINT32_MAX : 0}};
}

/* A 16-bit field that equals the threshold has the difference 0, and subtracting 1 sets its top bit. The borrow may set
 * the top bit of the next field too, but only in a word that has a tie. */
static inline int any_tie(const v64 numbers[16], v64 threshold16)
{
    uint64_t borrows = 0;
    for (int v = 0; v < 16; v++) {
        const uint64_t difference = numbers[v] ^ threshold16;
        borrows |= (difference - 0x0001000100010001u) & ~difference;
    }
    return (borrows & 0x8000800080008000u) != 0;
}

/* Bit e of a number in the e-th byte, or half word, of a vector in the order of memory. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define PLACES_OF_BYTES 0x0102040810204080u
#define PLACES_OF_HALVES 0x0001000200040008u
#else
#define PLACES_OF_BYTES 0x8040201008040201u
#define PLACES_OF_HALVES 0x0008000400020001u
#endif

typedef uint64_t vbytes;
#define BYTES_OF_VECTOR 8
static inline vbytes bytes_load(const char *p)
{
    vbytes v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void bytes_store(char *p, vbytes v)
{
    memcpy(p, &v, sizeof v);
}
static inline vbytes bytes_of_either(vbytes kept, vbytes v, vbytes other)
{
    return other ^ ((v ^ other) & kept);
}
/* Each field keeps one bit of a copy of the bits. Adding the largest number below its top bit carries into the top bit
 * unless the field is 0. */
static inline vbytes bytes_select1(uint64_t bits, vbytes v, vbytes other)
{
    const uint64_t chosen = (bits & 0xFF) * 0x0101010101010101u & PLACES_OF_BYTES;
    const uint64_t is_kept = (chosen + 0x7F7F7F7F7F7F7F7Fu) >> 7 & 0x0101010101010101u;
    return bytes_of_either(is_kept * 0xFF, v, other);
}
static inline vbytes bytes_select2(uint64_t bits, vbytes v, vbytes other)
{
    const uint64_t chosen = (bits & 0xF) * 0x0001000100010001u & PLACES_OF_HALVES;
    const uint64_t is_kept = (chosen + 0x7FFF7FFF7FFF7FFFu) >> 15 & 0x0001000100010001u;
    return bytes_of_either(is_kept * 0xFFFF, v, other);
}
static inline vbytes bytes_select4(uint64_t bits, vbytes v, vbytes other)
{
    const uint32_t kept[2] = {bits & 1 ? UINT32_MAX : 0, bits & 2 ? UINT32_MAX : 0};
    vbytes mask;
    memcpy(&mask, kept, sizeof mask);
    return bytes_of_either(mask, v, other);
}
static inline vbytes bytes_select8(uint64_t bits, vbytes v, vbytes other)
{
    return bits & 1 ? v : other;
}

typedef struct {
    float elem[2];
} vf32;
static inline vf32 f32_load(const char *p)
{
    vf32 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vf32 f32_set1(float value)
{
    return (vf32){{value, value}};
}
static inline vf32 f32_add(vf32 a, vf32 b)
{
    return (vf32){{a.elem[0] + b.elem[0], a.elem[1] + b.elem[1]}};
}
static inline vf32 f32_relu(vf32 v)
{
    return (vf32){{v.elem[0] < 0 ? 0 : v.elem[0], v.elem[1] < 0 ? 0 : v.elem[1]}};
}
static inline keep32 f32_positive(vf32 v)
{
    return (keep32){{v.elem[0] > 0 ? UINT32_MAX : 0, v.elem[1] > 0 ? UINT32_MAX : 0}};
}
static inline vf32 f32_mul(vf32 a, vf32 b)
{
    return (vf32){{a.elem[0] * b.elem[0], a.elem[1] * b.elem[1]}};
}
static inline vf32 f32_div(vf32 a, vf32 b)
{
    return (vf32){{a.elem[0] / b.elem[0], a.elem[1] / b.elem[1]}};
}
static inline vf32 f32_select(keep32 keep, vf32 v)
{
    uint32_t bits[2];
    memcpy(bits, &v, sizeof bits);
    bits[0] &= keep.mask[0];
    bits[1] &= keep.mask[1];
    memcpy(&v, bits, sizeof v);
    return v;
}
static inline vf32 f32_blend(keep32 keep, vf32 v, vf32 other)
{
    return (vf32){{keep.mask[0] ? v.elem[0] : other.elem[0], keep.mask[1] ? v.elem[1] : other.elem[1]}};
}
static inline vf32 f32_sqrt(vf32 v)
{
    return (vf32){{sqrtf(v.elem[0]), sqrtf(v.elem[1])}};
}
static inline vf32 f32_of_w32(v64 v)
{
    return (vf32){{(float)(int32_t)(uint32_t)v, (float)(int32_t)(uint32_t)(v >> 32)}};
}
static inline v64 f32_as_w32(vf32 v)
{
    return of_words(bits_of_float(v.elem[0]), bits_of_float(v.elem[1]));
}
static inline vf32 w32_as_f32(v64 v)
{
    return (vf32){{float_of_bits((uint32_t)v), float_of_bits((uint32_t)(v >> 32))}};
}
static inline void f32_store(char *p, vf32 v)
{
    memcpy(p, &v, sizeof v);
}

typedef struct {
    double elem[2];
} vf64;
static inline vf64 f64_load(const char *p)
{
    vf64 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vf64 f64_set1(double value)
{
    return (vf64){{value, value}};
}
static inline vf64 f64_add(vf64 a, vf64 b)
{
    return (vf64){{a.elem[0] + b.elem[0], a.elem[1] + b.elem[1]}};
}
static inline vf64 f64_relu(vf64 v)
{
    return (vf64){{v.elem[0] < 0 ? 0 : v.elem[0], v.elem[1] < 0 ? 0 : v.elem[1]}};
}
static inline keep32 f64_positive(vf64 v)
{
    return (keep32){{v.elem[0] > 0 ? UINT32_MAX : 0, v.elem[1] > 0 ? UINT32_MAX : 0}};
}
static inline vf64 f64_mul(vf64 a, vf64 b)
{
    return (vf64){{a.elem[0] * b.elem[0], a.elem[1] * b.elem[1]}};
}
static inline vf64 f64_div(vf64 a, vf64 b)
{
    return (vf64){{a.elem[0] / b.elem[0], a.elem[1] / b.elem[1]}};
}
static inline vf64 f64_sqrt(vf64 v)
{
    return (vf64){{sqrt(v.elem[0]), sqrt(v.elem[1])}};
}
static inline vf64 f64_select(keep32 keep, vf64 v)
{
    uint64_t bits[2];
    memcpy(bits, &v, sizeof bits);
    bits[0] &= (uint64_t)keep.mask[0] << 32 | keep.mask[0];
    bits[1] &= (uint64_t)keep.mask[1] << 32 | keep.mask[1];
    memcpy(&v, bits, sizeof v);
    return v;
}
static inline vf64 f64_blend(keep32 keep, vf64 v, vf64 other)
{
    return (vf64){{keep.mask[0] ? v.elem[0] : other.elem[0], keep.mask[1] ? v.elem[1] : other.elem[1]}};
}
static inline vf64 f64_of_f32(vf32 v)
{
    return (vf64){{v.elem[0], v.elem[1]}};
}
static inline void f64_store(char *p, vf64 v)
{
    memcpy(p, &v, sizeof v);
}

typedef struct {
    uint16_t elem[2];
} halves;
static inline void halves_store(char *p, halves h)
{
    memcpy(p, &h, sizeof h);
}
static inline vf32 f16_load(const char *p)
{
    uint16_t elem[2];
    memcpy(elem, p, sizeof elem);
    return (vf32){{float_of_f16(elem[0]), float_of_f16(elem[1])}};
}
static inline halves f16_halves(vf32 v)
{
    return (halves){{f16_of_float(v.elem[0]), f16_of_float(v.elem[1])}};
}
static inline vf32 bf16_load(const char *p)
{
    uint16_t elem[2];
    memcpy(elem, p, sizeof elem);
    return (vf32){{float_of_bf16(elem[0]), float_of_bf16(elem[1])}};
}
static inline halves bf16_halves(vf32 v)
{
    return (halves){{bf16_of_float(v.elem[0]), bf16_of_float(v.elem[1])}};
}

#include "../kernels/block_kernels.inc.h"

static int is_supported(void)
{
    return 1;
}

const kernel_table kernels_portable = KERNEL_TABLE(is_supported);
