/* Which member of the xorshift family feeds dropout fastest?
 *
 * Each candidate scales a float32 array and zeroes the elements whose 16-bit number lies below the threshold, the way
 * the library's kernels do; the candidates differ in nothing but the generator. The floor (a plain multiply by a
 * scalar) is timed between them. Times are medians over interleaved rounds, in ns per element.
 *
 *     cc -O3 -mavx512f -mavx512bw -o choice benchmarks/generator_choice.c && ./choice
 *     cc -O3 -mavx2 -o choice benchmarks/generator_choice.c && ./choice
 *
 * Generators: xoshiro128++ and xoroshiro128++, Blackman & Vigna, ACM TOMS 47(4), 2021; xorshift128+, Vigna, J. Comput.
 * Appl. Math. 315, 2017 (with the shifts 23, 18, 5).
 */
#define _POSIX_C_SOURCE 199309L
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __AVX512BW__
#define ISA "avx512"
#define N_VECS 2 /* vectors in a step of 1024 bits */
typedef __m512i vec;
static inline vec load(const void *p)
{
    return _mm512_loadu_si512(p);
}
static inline vec xor2(vec a, vec b)
{
    return _mm512_xor_si512(a, b);
}
static inline vec xor3(vec a, vec b, vec c)
{
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
#define add32 _mm512_add_epi32
#define add64 _mm512_add_epi64
#define shl32 _mm512_slli_epi32
#define shl64 _mm512_slli_epi64
#define shr64 _mm512_srli_epi64
#define rotl32 _mm512_rol_epi32
#define rotl64 _mm512_rol_epi64
static inline void scale_where(float *out, const float *x, vec bits, vec threshold, __m512 scale)
{
    __m512 v = _mm512_loadu_ps(x);
    __asm__("" : "+v"(v)); /* keep the load out of the masked multiply: masked loads are slow from memory */
    _mm512_storeu_ps(out, _mm512_maskz_mul_ps(_mm512_cmpge_epi32_mask(bits, threshold), v, scale));
}
typedef __m512 fvec;
#define fset _mm512_set1_ps
#define iset _mm512_set1_epi32
static inline int any_tie(const vec *r, vec t)
{
    return !_kortestz_mask32_u8(_mm512_cmpeq_epi16_mask(r[0], t), _mm512_cmpeq_epi16_mask(r[1], t));
}
#else
#define ISA "avx2"
#define N_VECS 4
typedef __m256i vec;
static inline vec load(const void *p)
{
    return _mm256_loadu_si256(p);
}
static inline vec xor2(vec a, vec b)
{
    return _mm256_xor_si256(a, b);
}
static inline vec xor3(vec a, vec b, vec c)
{
    return xor2(xor2(a, b), c);
}
#define add32 _mm256_add_epi32
#define add64 _mm256_add_epi64
#define shl32 _mm256_slli_epi32
#define shl64 _mm256_slli_epi64
#define shr64 _mm256_srli_epi64
#define rotl32(v, k) _mm256_or_si256(_mm256_slli_epi32(v, k), _mm256_srli_epi32(v, 32 - (k)))
#define rotl64(v, k) _mm256_or_si256(_mm256_slli_epi64(v, k), _mm256_srli_epi64(v, 64 - (k)))
typedef __m256 fvec;
static inline void scale_where(float *out, const float *x, vec bits, vec threshold, fvec scale)
{
    __m256 dropped = _mm256_castsi256_ps(_mm256_cmpgt_epi32(threshold, bits));
    _mm256_storeu_ps(out, _mm256_andnot_ps(dropped, _mm256_mul_ps(_mm256_loadu_ps(x), scale)));
}
#define fset _mm256_set1_ps
#define iset _mm256_set1_epi32
static inline int any_tie(const vec *r, vec t)
{
    vec e = _mm256_or_si256(_mm256_or_si256(_mm256_cmpeq_epi16(r[0], t), _mm256_cmpeq_epi16(r[1], t)),
                            _mm256_or_si256(_mm256_cmpeq_epi16(r[2], t), _mm256_cmpeq_epi16(r[3], t)));
    return !_mm256_testz_si256(e, e);
}
#endif

static inline vec next_xoshiro128pp(vec *s)
{
    vec sum = add32(s[0], s[3]), r = add32(rotl32(sum, 7), s[0]), t = shl32(s[1], 9);
    vec s2 = xor2(s[2], s[0]), s3 = xor2(s[3], s[1]);
    vec s1 = xor3(s[1], s[2], s[0]);
    s[0] = xor3(s[0], s[3], s[1]);
    s[1] = s1;
    s[2] = xor2(s2, t);
    s[3] = rotl32(s3, 11);
    return r;
}

static inline vec next_xoroshiro128pp(vec *s)
{
    vec r = add64(rotl64(add64(s[0], s[1]), 17), s[0]);
    vec x = xor2(s[0], s[1]);
    s[0] = xor3(rotl64(s[0], 49), x, shl64(x, 21));
    s[1] = rotl64(x, 28);
    return r;
}

static inline vec next_xorshift128p(vec *s)
{
    vec a = s[0], b = s[1], r = add64(a, b);
    s[0] = b;
    a = xor2(a, shl64(a, 23));
    s[1] = xor2(xor3(a, b, shr64(a, 18)), shr64(b, 5));
    return r;
}

static uint64_t seed_words[4096]; /* every block starts from these: the seeding is timed by the library's benchmark */
static volatile unsigned long n_ties;

/* 64 steps of 64 elements make a block; `next` gives N_VECS vectors of 16-bit numbers a step. */
#define DEFINE_CANDIDATE(NAME, NEXT, STATE_VECS, TIES)                                                           \
    static void NAME(float *out, const float *x, size_t n_elems, int threshold, float scale)                     \
    {                                                                                                            \
        const vec t32 = iset((int)((uint32_t)(threshold - 32768) << 16));                                        \
        const vec t16 = iset((int)(((uint32_t)(threshold - 32768) & 0xffffu) * 0x10001u));                       \
        const fvec sc = fset(scale);                                                                             \
        for (size_t block = 0; block < n_elems / 4096; block++) {                                                \
            vec s[N_VECS][STATE_VECS], r[N_VECS];                                                                \
            for (int v = 0; v < N_VECS; v++)                                                                     \
                for (int w = 0; w < STATE_VECS; w++)                                                             \
                    s[v][w] = load((char *)seed_words + sizeof(vec) * (v * STATE_VECS + w) + 64 * (block % 64)); \
            for (int step = 0; step < 64; step++, out += 64, x += 64) {                                          \
                for (int v = 0; v < N_VECS; v++)                                                                 \
                    r[v] = NEXT(s[v]);                                                                           \
                if (TIES && __builtin_expect(any_tie(r, t16), 0))                                                \
                    n_ties++;                                                                                    \
                for (int v = 0; v < N_VECS; v++) {                                                               \
                    const int per_vec = (int)sizeof(vec) / 4;                                                    \
                    scale_where(out + v * per_vec, x + v * per_vec, r[v], t32, sc);                              \
                    scale_where(out + 32 + v * per_vec, x + 32 + v * per_vec, shl32(r[v], 16), t32, sc);         \
                }                                                                                                \
            }                                                                                                    \
        }                                                                                                        \
    }
DEFINE_CANDIDATE(xoshiro128pp, next_xoshiro128pp, 4, 0)
DEFINE_CANDIDATE(xoshiro128pp_ties, next_xoshiro128pp, 4, 1)
DEFINE_CANDIDATE(xoroshiro128pp, next_xoroshiro128pp, 2, 0)
DEFINE_CANDIDATE(xoroshiro128pp_ties, next_xoroshiro128pp, 2, 1)
DEFINE_CANDIDATE(xorshift128p, next_xorshift128p, 2, 0)
DEFINE_CANDIDATE(xorshift128p_ties, next_xorshift128p, 2, 1)

static void multiply(float *out, const float *x, size_t n_elems, int threshold, float scale)
{
    (void)threshold;
    for (size_t i = 0; i < n_elems; i++)
        out[i] = x[i] * scale;
}

static int compare_doubles(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(float *, const float *, size_t, int, float);
    } candidates[] = {
        {"multiply", multiply},
        {"xoshiro128++", xoshiro128pp},
        {"xoshiro128++ with ties", xoshiro128pp_ties},
        {"xoroshiro128++", xoroshiro128pp},
        {"xoroshiro128++ with ties", xoroshiro128pp_ties},
        {"xorshift128+", xorshift128p},
        {"xorshift128+ with ties", xorshift128p_ties},
    };
    enum { N = sizeof candidates / sizeof *candidates, ROUNDS = 41 };
    const size_t sizes[] = {8192, 65536, 1 << 20, 1 << 24};
    uint64_t h = 1;
    for (int i = 0; i < 4096; i++) {
        h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u + 0x9e3779b97f4a7c15u;
        seed_words[i] = h ^ (h >> 32);
    }
    for (int k = 0; k < 4; k++) {
        const size_t n = sizes[k];
        float *x = aligned_alloc(64, n * 4), *out = aligned_alloc(64, n * 4);
        for (size_t i = 0; i < n; i++) {
            x[i] = 0.5f + (float)(i % 1000);
            out[i] = 0;
        }
        static double t[N][ROUNDS];
        const int repeats = (int)(((size_t)1 << 22) / n) + 1;
        for (int round = 0; round < ROUNDS; round++)
            for (int c = 0; c < N; c++) {
                struct timespec a, b;
                clock_gettime(CLOCK_MONOTONIC, &a);
                for (int i = 0; i < repeats; i++)
                    candidates[c].run(out, x, n, 6553, 1.0f / 0.9f);
                clock_gettime(CLOCK_MONOTONIC, &b);
                t[c][round] =
                    ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)n / repeats;
            }
        for (int c = 0; c < N; c++) {
            qsort(t[c], ROUNDS, sizeof **t, compare_doubles);
            printf("%-7s %9zu elements  %-25s %.4f ns  %.2f x multiply\n", ISA, n, candidates[c].name, t[c][ROUNDS / 2],
                   t[c][ROUNDS / 2] / t[0][ROUNDS / 2]);
        }
        free(x);
        free(out);
    }
    return 0;
}
