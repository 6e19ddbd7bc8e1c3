/* The kernels of attention.h for one instruction set and one floating type.
 *
 * attention_kernels.cpp includes this file inside a namespace and a region compiled for the instruction set, with these
 * macros, which the end of this file undefines:
 *
 *   REAL, BITS            float and int32_t, or double and int64_t
 *   VECTOR_BYTES          of a vector register
 *   MAX_TILE_ROWS         rows of C that the innermost loop of a matrix product keeps in registers
 *   VECTOR_MAX(a, b)      the larger one; b if one of them is NaN
 *
 * They are compiled as C++ without templates, because compilers do not compile templates for the region's instruction
 * set everywhere.
 *
 * A task computes blocks of kRows rows by kKeys keys: scores = query key^T, weights = 2^(scores - maximum), dropped
 * weights, their product with values. Matrix products are sums over k of A[i][k] B[k][j]. A has rows of the constant
 * stride kStride, so that its elements are addressed from one register, and is read by rows or by columns. B is packed
 * into panels of kPanel columns, [panel][k][column], padded with zeros. */

enum {
    kLanes = VECTOR_BYTES / sizeof(REAL),
    kPanel = 2 * kLanes,
    kRows = 64,
    kKeys = 256,
    kStride = kKeys + 64 / sizeof(REAL), /* not a multiple of 4096 bytes: such rows would compete for a cache set */
    kRowsAhead = 8,                      /* between a row that is read and one that is fetched into the cache */
    kMaskKeys = CDROPOUT_BLOCK,          /* of which a row's mask is made at once */
};

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef BITS BitVector __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL VectorInMemory __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef uint8_t BytesInMemory __attribute__((vector_size(kLanes), aligned(1), may_alias));

INLINE Vector load(const REAL *p)
{
    return *reinterpret_cast<const VectorInMemory *>(p);
}

INLINE void store(REAL *p, Vector v)
{
    *reinterpret_cast<VectorInMemory *>(p) = v;
}

INLINE Vector set1(REAL value)
{
    return Vector{} + value;
}

INLINE REAL sum_of(Vector v)
{
    REAL total = 0;
    for (int i = 0; i < kLanes; i++)
        total += v[i];
    return total;
}

INLINE REAL max_of(Vector v)
{
    REAL top = v[0];
    for (int i = 1; i < kLanes; i++)
        top = v[i] > top ? v[i] : top;
    return top;
}

/* 2^t for t <= 0, or near 0; exactly 0 for t <= -127 (float) or -1023 (double); NaN for NaN. Adding kShift rounds t to
 * an integer in the lowest bits. The polynomial of float was fitted at Chebyshev points with a relative error of 6e-9,
 * that of double is Taylor's. */
INLINE Vector exp2_of(Vector t)
{
    constexpr bool is_float = sizeof(REAL) == 4;
    constexpr REAL kShift = is_float ? REAL(0x1.8p23) : REAL(0x1.8p52);
    constexpr int kExponentAt = is_float ? 23 : 52;
    t = VECTOR_MAX(set1(is_float ? -127 : -1023), t);
    const Vector shifted = t + kShift, f = t - (shifted - kShift);
    Vector y;
    if constexpr (is_float) {
        y = f * REAL(0x1.44400cp-13) + REAL(0x1.5f0896p-10);
        y = y * f + REAL(0x1.3b2a1cp-7);
        y = y * f + REAL(0x1.c6af6cp-5);
        y = y * f + REAL(0x1.ebfbep-3);
    } else {
        y = f * REAL(1.3691488853904124e-12) + REAL(2.5678435993488196e-11);
        y = y * f + REAL(4.44553827187081e-10);
        y = y * f + REAL(7.054911620801121e-09);
        y = y * f + REAL(1.0178086009239696e-07);
        y = y * f + REAL(1.3215486790144305e-06);
        y = y * f + REAL(1.5252733804059838e-05);
        y = y * f + REAL(0.00015403530393381606);
        y = y * f + REAL(0.0013333558146428441);
        y = y * f + REAL(0.009618129107628477);
        y = y * f + REAL(0.055504108664821576);
        y = y * f + REAL(0.2402265069591007);
    }
    y = y * f + REAL(0.6931471805599453);
    y = y * f + REAL(1);
    return (Vector)((BitVector)y + ((BitVector)shifted << kExponentAt));
}

/* All ones where a byte is 1. */
INLINE BitVector kept_lanes(const uint8_t *keep)
{
    return -__builtin_convertvector(*reinterpret_cast<const BytesInMemory *>(keep), BitVector);
}

INLINE Vector where_kept(BitVector kept, Vector v)
{
    return (Vector)((BitVector)v & kept);
}

/* ---- rows of tensors ---- */

INLINE int64_t in_panels(int64_t n)
{
    return (n + kPanel - 1) / kPanel * kPanel;
}

typedef float Floats __attribute__((vector_size(4 * kHalves)));
typedef float FloatsInMemory __attribute__((vector_size(4 * kHalves), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * kHalves)));
typedef uint16_t HalvesInMemory __attribute__((vector_size(2 * kHalves), aligned(2), may_alias));
typedef uint16_t HalfWords __attribute__((vector_size(2 * kHalves)));

INLINE Words loaded_halves(const void *from)
{
    return __builtin_convertvector(*static_cast<const HalvesInMemory *>(from), Words);
}

INLINE Floats of_halves(Words halves, bool is_bfloat16)
{
    if (is_bfloat16)
        return (Floats)(halves << 16);
    /* Moves the fields of a float16 to those of a float32, and corrects the exponent by a product, which also makes
     * subnormal numbers right. The exponent of infinities and NaNs becomes the highest one. */
    const Words magnitude = halves & 0x7FFF;
    const Floats scaled = (Floats)(magnitude << 13) * 0x1p112f;
    const Words special = (Words)(magnitude >= 0x7C00) & 0x7F800000;
    return (Floats)((Words)scaled | special | (halves & 0x8000) << 16);
}

INLINE Words to_halves(Floats values, bool is_bfloat16)
{
    const Words bits = (Words)values;
    if (is_bfloat16) {
        const Words rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
        const Words is_nan = (Words)((bits & 0x7FFFFFFF) > 0x7F800000);
        return (rounded & ~is_nan) | (is_nan & 0x7FC0);
    }
    /* Two products saturate numbers that overflow, and leave others as they are. Then the sum with a power of 2 that is
     * chosen by the exponent rounds to the 11 bits of a float16, or fewer below its normal range. */
    const Words sign = bits & 0x80000000u, magnitude = bits & 0x7FFFFFFFu;
    const Floats saturated = (Floats)magnitude * 0x1p112f * 0x1p-110f;
    Words base = magnitude & 0x7F800000u;
    const Words is_small = (Words)(base < 0x38800000u);
    base = (base & ~is_small) | (is_small & 0x38800000u);
    const Words sum = (Words)((Floats)(base + 0x07800000u) + saturated);
    const Words is_nan = (Words)(magnitude > 0x7F800000u);
    const Words half = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
    return sign >> 16 | (half & ~is_nan) | (is_nan & 0x7E00u);
}

/* to[i] = factor * from[i], for 16-bit numbers and float32. */
INLINE void load_halves(float *to, const char *from, int64_t n, float factor, bool is_bfloat16)
{
    int64_t i = 0;
    for (; i + kHalves <= n; i += kHalves)
        *reinterpret_cast<FloatsInMemory *>(to + i) = of_halves(loaded_halves(from + 2 * i), is_bfloat16) * factor;
    if (i < n) {
        uint16_t rest[kHalves] = {};
        memcpy(rest, from + 2 * i, 2 * static_cast<size_t>(n - i));
        const Floats values = of_halves(loaded_halves(rest), is_bfloat16) * factor;
        memcpy(to + i, &values, 4 * static_cast<size_t>(n - i));
    }
}

INLINE void store_halves(char *to, const float *from, int64_t n, float factor, bool is_bfloat16)
{
    int64_t i = 0;
    for (; i + kHalves <= n; i += kHalves)
        *reinterpret_cast<HalvesInMemory *>(to + 2 * i) = __builtin_convertvector(
            to_halves(*reinterpret_cast<const FloatsInMemory *>(from + i) * factor, is_bfloat16), HalfWords);
    if (i < n) {
        Floats values = {};
        memcpy(&values, from + i, 4 * static_cast<size_t>(n - i));
        const HalfWords halves = __builtin_convertvector(to_halves(values * factor, is_bfloat16), HalfWords);
        memcpy(to + 2 * i, &halves, 2 * static_cast<size_t>(n - i));
    }
}

/* to[i] = factor * from[i] */
static void load_row(REAL *to, const char *from, at::ScalarType dtype, int64_t n, REAL factor)
{
    if constexpr (sizeof(REAL) == 4) {
        if (dtype == at::kBFloat16)
            return load_halves(reinterpret_cast<float *>(to), from, n, factor, true);
        if (dtype == at::kHalf)
            return load_halves(reinterpret_cast<float *>(to), from, n, factor, false);
    }
    const REAL *reals = reinterpret_cast<const REAL *>(from);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        store(to + i, load(reals + i) * factor);
    for (; i < n; i++)
        to[i] = reals[i] * factor;
}

static void store_row(char *to, const REAL *from, at::ScalarType dtype, int64_t n, REAL factor)
{
    if constexpr (sizeof(REAL) == 4) {
        if (dtype == at::kBFloat16)
            return store_halves(to, reinterpret_cast<const float *>(from), n, factor, true);
        if (dtype == at::kHalf)
            return store_halves(to, reinterpret_cast<const float *>(from), n, factor, false);
    }
    REAL *reals = reinterpret_cast<REAL *>(to);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        store(reals + i, load(from + i) * factor);
    for (; i < n; i++)
        reals[i] = from[i] * factor;
}

INLINE char *row_of(const Rows &rows, int64_t batch, int64_t head, int64_t row, size_t n_bytes)
{
    return rows.data + (batch * rows.batch + head * rows.head + row * rows.row) * static_cast<int64_t>(n_bytes);
}

/* Heads of a row are often neighbours, so that the rows of a head are far apart: processors do not expect the next one. */
INLINE void expect_row(const Rows &rows, int64_t batch, int64_t head, int64_t row, int64_t width, size_t n_bytes)
{
    const char *at = row_of(rows, batch, head, row, n_bytes);
    for (int64_t i = 0; i < width * static_cast<int64_t>(n_bytes); i += 64)
        __builtin_prefetch(at + i);
}

/* Rows first .. first + n - 1 of a head as matrix A: each chunk of kKeys features is a matrix. Features are padded with
 * zeros to whole panels. */
static void load_rows(REAL *to, const Rows &rows, int64_t batch, int64_t head, int64_t first, int64_t n, int64_t width,
                      at::ScalarType dtype, REAL factor)
{
    const size_t n_bytes = c10::elementSize(dtype);
    for (int64_t i = 0; i < n; i++) {
        if (i + kRowsAhead < n)
            expect_row(rows, batch, head, first + i + kRowsAhead, width, n_bytes);
        const char *from = row_of(rows, batch, head, first + i, n_bytes);
        for (int64_t k = 0; k < width; k += kKeys) {
            REAL *row = to + (k / kKeys * kRows + i) * kStride;
            const int64_t n_here = std::min<int64_t>(kKeys, width - k);
            load_row(row, from + k * n_bytes, dtype, n_here, factor);
            for (int64_t j = n_here; j < in_panels(n_here); j++)
                row[j] = 0;
        }
    }
}

INLINE void copy_to_panels(REAL *to, const REAL *row, int64_t panel_elems, int64_t n)
{
    for (int64_t j = 0; j < n; j += kPanel, to += panel_elems) {
        store(to, load(row + j));
        store(to + kLanes, load(row + j + kLanes));
    }
}

/* The panels of B[k][j] = A[k][j] for the rows and features of A. */
static void pack_matrix(REAL *to, const REAL *a, int64_t n, int64_t width)
{
    for (int64_t k = 0; k < width; k += kKeys, to += kKeys * n)
        for (int64_t i = 0; i < n; i++)
            copy_to_panels(to + i * kPanel, a + (k / kKeys * kRows + i) * kStride, kPanel * n,
                           std::min<int64_t>(kKeys, width - k));
}

/* The panels of B[k][j] = rows[k][j]. row has in_panels(width) elements. */
static void pack_rows(REAL *to, const Rows &rows, int64_t batch, int64_t head, int64_t n, int64_t width,
                      at::ScalarType dtype, REAL *row)
{
    const size_t n_bytes = c10::elementSize(dtype);
    std::fill_n(row, in_panels(width), REAL(0));
    for (int64_t k = 0; k < n; k++) {
        if (k + kRowsAhead < n)
            expect_row(rows, batch, head, k + kRowsAhead, width, n_bytes);
        load_row(row, row_of(rows, batch, head, k, n_bytes), dtype, width, 1);
        copy_to_panels(to + k * kPanel, row, kPanel * n, width);
    }
}

/* The panels of B[k][j] = rows[j][k]. scratch has 4 width elements. */
static void pack_transposed(REAL *to, const Rows &rows, int64_t batch, int64_t head, int64_t n, int64_t width,
                            at::ScalarType dtype, REAL *scratch)
{
    enum { kBlock = 4 };
    typedef REAL Four __attribute__((vector_size(kBlock * sizeof(REAL))));
    typedef REAL FourInMemory __attribute__((vector_size(kBlock * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
    typedef BITS FourIndices __attribute__((vector_size(kBlock * sizeof(REAL)), unused));
    const size_t n_bytes = c10::elementSize(dtype);
    const bool is_copied = n_bytes != sizeof(REAL);
    for (int64_t j = 0; j < in_panels(n); j += kBlock) {
        for (int64_t i = j + kRowsAhead; i < std::min<int64_t>(n, j + kRowsAhead + kBlock); i++)
            expect_row(rows, batch, head, i, width, n_bytes);
        REAL *panel = to + j / kPanel * kPanel * width + j % kPanel;
        const int64_t n_here = n - j;
        const REAL *source[kBlock];
        for (int i = 0; i < kBlock; i++) {
            const char *row = row_of(rows, batch, head, j + (i < n_here ? i : 0), n_bytes);
            source[i] = reinterpret_cast<const REAL *>(row);
            if (i >= n_here || is_copied)
                source[i] = scratch + i * width;
            if (i >= n_here)
                std::fill_n(scratch + i * width, width, REAL(0));
            else if (is_copied)
                load_row(scratch + i * width, row, dtype, width, 1);
        }
        int64_t k = 0;
        for (; k + kBlock <= width; k += kBlock) {
            Four r[kBlock];
            for (int i = 0; i < kBlock; i++)
                r[i] = *reinterpret_cast<const FourInMemory *>(source[i] + k);
            const Four a = SHUFFLE_FOUR(r[0], r[1], 0, 4, 1, 5), b = SHUFFLE_FOUR(r[0], r[1], 2, 6, 3, 7);
            const Four c = SHUFFLE_FOUR(r[2], r[3], 0, 4, 1, 5), d = SHUFFLE_FOUR(r[2], r[3], 2, 6, 3, 7);
            REAL *at = panel + k * kPanel;
            *reinterpret_cast<FourInMemory *>(at) = SHUFFLE_FOUR(a, c, 0, 1, 4, 5);
            *reinterpret_cast<FourInMemory *>(at + kPanel) = SHUFFLE_FOUR(a, c, 2, 3, 6, 7);
            *reinterpret_cast<FourInMemory *>(at + 2 * kPanel) = SHUFFLE_FOUR(b, d, 0, 1, 4, 5);
            *reinterpret_cast<FourInMemory *>(at + 3 * kPanel) = SHUFFLE_FOUR(b, d, 2, 3, 6, 7);
        }
        for (; k < width; k++)
            for (int i = 0; i < kBlock; i++)
                panel[k * kPanel + i] = source[i][k];
    }
}

/* ---- matrix products ---- */

/* C = A B, or C += A B, for n_rows rows (a constant after inlining) and one panel of columns. */
INLINE void multiply_tile(const int n_rows, const bool by_columns, int64_t n_k, const REAL *a, const REAL *b, REAL *c,
                          int64_t c_stride, bool adds)
{
    Vector sum[MAX_TILE_ROWS][2];
    UNROLLED
    for (int i = 0; i < n_rows; i++) {
        sum[i][0] = adds ? load(c + i * c_stride) : Vector{};
        sum[i][1] = adds ? load(c + i * c_stride + kLanes) : Vector{};
    }
    for (int64_t k = 0; k < n_k; k++) {
        const Vector b0 = load(b), b1 = load(b + kLanes);
        UNROLLED
        for (int i = 0; i < n_rows; i++) {
            const REAL factor = by_columns ? a[i] : a[i * kStride];
            sum[i][0] += b0 * factor;
            sum[i][1] += b1 * factor;
        }
        a += by_columns ? kStride : 1;
        b += kPanel;
    }
    UNROLLED
    for (int i = 0; i < n_rows; i++) {
        store(c + i * c_stride, sum[i][0]);
        store(c + i * c_stride + kLanes, sum[i][1]);
    }
}

#define TILE(n_rows)                                                                                                \
    static OUT_OF_LINE void rows_##n_rows(int64_t n_k, const REAL *a, const REAL *b, REAL *c, int64_t c_stride,     \
                                          bool adds)                                                                \
    {                                                                                                               \
        multiply_tile(n_rows, false, n_k, a, b, c, c_stride, adds);                                                 \
    }                                                                                                               \
    static OUT_OF_LINE void columns_##n_rows(int64_t n_k, const REAL *a, const REAL *b, REAL *c, int64_t c_stride,  \
                                             bool adds)                                                             \
    {                                                                                                               \
        multiply_tile(n_rows, true, n_k, a, b, c, c_stride, adds);                                                  \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
#if MAX_TILE_ROWS >= 6
TILE(6)
#endif
#if MAX_TILE_ROWS >= 12
TILE(8)
TILE(12)
#endif
#undef TILE

/* How many rows the next tile takes: few vectors of sums leave the processor waiting for each of them. */
INLINE int64_t next_rows(int64_t n_left)
{
#if MAX_TILE_ROWS >= 12
    if (n_left >= 12 && n_left != 16 && n_left != 14)
        return 12;
    if (n_left >= 8)
        return 8;
#endif
#if MAX_TILE_ROWS >= 6
    if (n_left >= 6 && n_left != 8 && n_left != 7)
        return 6;
#endif
    return n_left >= 4 ? 4 : n_left;
}

INLINE void multiply_rows(int64_t n_rows, bool by_columns, int64_t n_k, const REAL *a, const REAL *b, REAL *c,
                          int64_t c_stride, bool adds)
{
#define CASE(n)                                                                                                     \
    case n:                                                                                                         \
        return by_columns ? columns_##n(n_k, a, b, c, c_stride, adds) : rows_##n(n_k, a, b, c, c_stride, adds);
    switch (n_rows) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
#if MAX_TILE_ROWS >= 6
        CASE(6)
#endif
#if MAX_TILE_ROWS >= 12
        CASE(8)
        CASE(12)
#endif
    }
#undef CASE
}

/* What of a block is computed: row i and key j with j + shift <= i, or all if shift is small enough. */
struct Block {
    int64_t n_rows, n_keys, shift;
};

/* scores[i][j] = sum over features of A[i][k] B[k][j]; B begins at the block's first key. */
static void multiply_for_scores(const Block &block, int64_t width, const REAL *a, const REAL *b, REAL *scores)
{
    for (int64_t j = 0; j < block.n_keys; j += kPanel, b += kPanel * width) {
        const int64_t first = std::max<int64_t>(0, j + block.shift);
        for (int64_t k = 0; k < width; k += kKeys) {
            const REAL *chunk = a + k * kRows / kKeys * kStride;
            for (int64_t i = first, n; i < block.n_rows; i += n) {
                n = next_rows(block.n_rows - i);
                multiply_rows(n, false, std::min<int64_t>(kKeys, width - k), chunk + i * kStride, b + k * kPanel,
                              scores + i * kStride + j, kStride, k > 0);
            }
        }
    }
}

/* sums[i][c] += sum over keys of A[i][j] B[j][c]; a panel of B has b_rows rows, and begins at the block's first key. */
static void multiply_by_keys(const Block &block, int64_t n_columns, const REAL *a, const REAL *b, int64_t b_rows,
                             REAL *sums)
{
    for (int64_t c = 0; c < n_columns; c += kPanel, b += kPanel * b_rows)
        for (int64_t i = 0, n; i < block.n_rows; i += n) {
            n = next_rows(block.n_rows - i);
            const int64_t n_k = std::min(block.n_keys, i + n - block.shift);
            if (n_k > 0)
                multiply_rows(n, false, n_k, a + i * kStride, b, sums + i * n_columns + c, n_columns, true);
        }
}

/* sums[j][c] += sum over rows of A[i][j] B[i][c]; the block's rows are all rows of B. */
static void multiply_by_rows(const Block &block, int64_t n_columns, const REAL *a, const REAL *b, REAL *sums)
{
    for (int64_t c = 0; c < n_columns; c += kPanel, b += kPanel * block.n_rows)
        for (int64_t j = 0, n; j < block.n_keys; j += n) {
            n = next_rows(block.n_keys - j);
            const int64_t first = std::max<int64_t>(0, j + block.shift);
            if (first < block.n_rows)
                multiply_rows(n, true, block.n_rows - first, a + first * kStride + j, b + first * kPanel,
                              sums + j * n_columns + c, n_columns, true);
        }
}

/* ---- tasks ---- */

/* Memory of a thread. */
struct Scratch {
    std::unique_ptr<char[]> memory;
    char *next;

    explicit Scratch(int64_t n_elems) : memory(new char[static_cast<size_t>(n_elems) * sizeof(REAL) + 4096])
    {
        const uintptr_t at = reinterpret_cast<uintptr_t>(memory.get());
        next = memory.get() + ((at + 63) / 64 * 64 - at);
    }

    REAL *take(int64_t n_elems) /* a multiple of 64 bytes apart */
    {
        REAL *taken = reinterpret_cast<REAL *>(next);
        next += padded(n_elems) * static_cast<int64_t>(sizeof(REAL));
        return taken;
    }

    static int64_t padded(int64_t n_elems)
    {
        return (n_elems + 15) / 16 * 16;
    }
};

/* The keep bytes of a block of rows. They are made for whole rows, because to begin at any position costs the seeding
 * of a block of positions. */
struct KeepBytes {
    std::vector<uint8_t> bytes;
    int64_t row_bytes = 0, first_key = -1;

    /* Make bytes for the keys from key on, below end_key, unless they are there. */
    void make(const Attention &task, uint64_t first_row, int64_t n_rows, int64_t key, int64_t end_key)
    {
        if (first_key >= 0 && key < first_key + kMaskKeys && key >= first_key)
            return;
        const uint64_t n_keys = static_cast<uint64_t>(task.n_keys);
        const uint64_t position = first_row * n_keys;
        row_bytes = std::min<int64_t>(kMaskKeys, task.n_keys);
        bytes.resize(static_cast<size_t>(n_rows * row_bytes + kPanel));
        first_key = key;
        const int64_t n_here = std::min<int64_t>(row_bytes, end_key - key);
        /* A block of positions costs about 2000 positions to seed and to step to its middle. */
        if (task.n_keys <= kMaskKeys && n_here + 2000 > task.n_keys) {
            functions().fill_keep(bytes.data(), &at(task, position), 0, static_cast<size_t>(n_rows) * n_keys);
            return;
        }
        for (int64_t i = 0; i < n_rows; i++)
            functions().fill_keep(bytes.data() + i * row_bytes,
                                  &at(task, position + static_cast<uint64_t>(i) * n_keys + static_cast<uint64_t>(key)),
                                  0, static_cast<size_t>(n_here));
    }

    const uint8_t *row(int64_t i, int64_t key) const
    {
        return bytes.data() + i * row_bytes + (key - first_key);
    }

  private:
    cdropout_mask placed;

    const cdropout_mask &at(const Attention &task, uint64_t position)
    {
        placed = task.mask;
        placed.start += position;
        return placed;
    }
};

/* Add the bias of a row to scores of n keys from `key` on, in units of log2. */
static void add_bias(REAL *scores, const Bias &bias, int64_t batch, int64_t head, int64_t row, int64_t key, int64_t n)
{
    const int64_t first = batch * bias.batch + head * bias.head + row * bias.row + key * bias.key;
    const REAL log2_e = REAL(1.4426950408889634), none = -std::numeric_limits<REAL>::infinity();
    if (bias.dtype == at::kBool) {
        const uint8_t *used = reinterpret_cast<const uint8_t *>(bias.data) + first;
        for (int64_t j = 0; j < n; j++)
            scores[j] = used[j * bias.key] ? scores[j] : none;
        return;
    }
    if (bias.key == 1) {
        REAL values[kKeys];
        if (bias.dtype == at::kFloat && sizeof(REAL) == 8)
            for (int64_t j = 0; j < n; j++)
                values[j] = reinterpret_cast<const float *>(bias.data)[first + j] * log2_e;
        else
            load_row(values, bias.data + first * static_cast<int64_t>(c10::elementSize(bias.dtype)), bias.dtype, n,
                     log2_e);
        for (int64_t j = 0; j < n; j++)
            scores[j] += values[j];
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        const int64_t at = first + j * bias.key;
        REAL value;
        if (bias.dtype == at::kDouble)
            value = static_cast<REAL>(reinterpret_cast<const double *>(bias.data)[at]);
        else if (bias.dtype == at::kFloat)
            value = reinterpret_cast<const float *>(bias.data)[at];
        else
            load_row(&value, bias.data + 2 * at, bias.dtype, 1, 1);
        scores[j] += value * log2_e;
    }
}

/* The task's keys that row i may use. */
INLINE int64_t keys_of_row(const Attention &task, int64_t i)
{
    return task.is_causal ? std::min(task.n_keys, i + 1) : task.n_keys;
}

INLINE REAL scale_of_kept(const Attention &task)
{
    return task.mask.p >= 1.0 ? REAL(0) : REAL(1.0 / (1.0 - task.mask.p));
}

static void forward(const Attention &task, int64_t first_task, int64_t end_task)
{
    const int64_t n_blocks = (task.n_rows + kRows - 1) / kRows, n_keys = keys_of_row(task, task.n_rows - 1);
    const int64_t out_columns = in_panels(task.value_width), n_chunks = (task.width + kKeys - 1) / kKeys;
    const REAL score_scale = REAL(task.scale * 1.4426950408889634), none = -std::numeric_limits<REAL>::infinity();
    const int64_t sizes[] = {in_panels(n_keys) * task.width, n_keys * out_columns, n_chunks * kRows * kStride,
                             kRows * kStride, kRows * out_columns, 4 * std::max(task.width, out_columns)};
    int64_t total = 0;
    for (const int64_t size : sizes)
        total += Scratch::padded(size);
    Scratch scratch(total);
    REAL *keys = scratch.take(sizes[0]), *values = scratch.take(sizes[1]), *query = scratch.take(sizes[2]);
    REAL *weights = scratch.take(sizes[3]), *sums = scratch.take(sizes[4]), *four_rows = scratch.take(sizes[5]);
    REAL top[kRows], total_weight[kRows];
    KeepBytes keep;
    int64_t packed = -1;
    for (int64_t index = first_task; index < end_task; index++) {
        const int64_t batch = index / n_blocks / task.n_heads, head = index / n_blocks % task.n_heads;
        const int64_t key_head = head / (task.n_heads / task.n_key_heads), nth = index % n_blocks;
        /* From both ends in turn, so that threads that share a causal head have equal work. */
        const int64_t first_row = (nth % 2 == 0 ? nth / 2 : n_blocks - 1 - nth / 2) * kRows;
        const int64_t n_rows = std::min<int64_t>(kRows, task.n_rows - first_row);
        const int64_t end_key = keys_of_row(task, first_row + n_rows - 1);
        if (packed != batch * task.n_key_heads + key_head) {
            packed = batch * task.n_key_heads + key_head;
            pack_transposed(keys, task.key, batch, key_head, n_keys, task.width, task.dtype, four_rows);
            pack_rows(values, task.value, batch, key_head, n_keys, task.value_width, task.dtype, four_rows);
        }
        load_rows(query, task.query, batch, head, first_row, n_rows, task.width, task.dtype, score_scale);
        std::fill_n(sums, n_rows * out_columns, REAL(0));
        std::fill_n(top, n_rows, none);
        std::fill_n(total_weight, n_rows, REAL(0));
        keep.first_key = -1;
        const int64_t mask_row = (batch * task.n_heads + head) * task.n_rows + first_row;
        for (int64_t key = 0; key < end_key; key += kKeys) {
            const Block block{n_rows, std::min<int64_t>(kKeys, end_key - key),
                              task.is_causal ? key - first_row : -task.n_rows - kKeys};
            multiply_for_scores(block, task.width, query, keys + key * task.width, weights);
            keep.make(task, static_cast<uint64_t>(mask_row), n_rows, key, end_key);
            for (int64_t i = 0; i < n_rows; i++) {
                REAL *row = weights + i * kStride;
                const int64_t n = std::min(block.n_keys, keys_of_row(task, first_row + i) - key);
                const int64_t n_zeroed = in_panels(block.n_keys);
                if (n <= 0) {
                    std::fill_n(row, n_zeroed, REAL(0));
                    continue;
                }
                if (task.bias.data != nullptr)
                    add_bias(row, task.bias, batch, head, first_row + i, key, n);
                const int64_t n_vectors = (n + kLanes - 1) / kLanes * kLanes;
                for (int64_t j = n; j < n_vectors; j++)
                    row[j] = none;
                Vector tops = set1(none);
                for (int64_t j = 0; j < n_vectors; j += kLanes)
                    tops = VECTOR_MAX(load(row + j), tops);
                const REAL new_top = std::max(top[i], max_of(tops));
                const Vector subtracted = set1(new_top == none ? 0 : new_top);
                Vector total_vector = {};
                const uint8_t *kept = keep.row(i, key);
                for (int64_t j = 0; j < n_vectors; j += kLanes) {
                    const Vector weight = exp2_of(load(row + j) - subtracted);
                    total_vector += weight;
                    store(row + j, where_kept(kept_lanes(kept + j), weight));
                }
                for (int64_t j = n_vectors; j < n_zeroed; j++)
                    row[j] = 0;
                if (new_top != top[i] && key > 0 && total_weight[i] != 0) {
                    const REAL factor = std::exp2(top[i] - new_top);
                    total_weight[i] *= factor;
                    for (int64_t c = 0; c < out_columns; c += kLanes)
                        store(sums + i * out_columns + c, load(sums + i * out_columns + c) * factor);
                }
                top[i] = new_top;
                total_weight[i] += sum_of(total_vector);
            }
            multiply_by_keys(block, out_columns, weights, values + key * kPanel, n_keys, sums);
        }
        REAL *log_sum = static_cast<REAL *>(task.log_sum) + mask_row;
        for (int64_t i = 0; i < n_rows; i++) {
            const bool has_keys = total_weight[i] != 0; /* also if it is NaN */
            log_sum[i] = has_keys ? top[i] + std::log2(total_weight[i]) : -none;
            store_row(row_of(task.out, batch, head, first_row + i, c10::elementSize(task.dtype)), sums + i * out_columns,
                      task.dtype, task.value_width, has_keys ? scale_of_kept(task) / total_weight[i] : 0);
        }
    }
}

/* Elements of dkey, then of dvalue, of a head. */
static int64_t n_sum_elems(const Attention &task)
{
    return task.n_keys * (in_panels(task.width) + in_panels(task.value_width));
}

static void store_sums(const Attention &task, int64_t batch, int64_t head, const REAL *sums)
{
    const int64_t columns = in_panels(task.width), value_columns = in_panels(task.value_width);
    const size_t n_bytes = c10::elementSize(task.dtype);
    const REAL *value_sums = sums + task.n_keys * columns;
    for (int64_t j = 0; j < task.n_keys; j++) {
        /* The sums are of query times scale log2(e). */
        store_row(row_of(task.dkey, batch, head, j, n_bytes), sums + j * columns, task.dtype, task.width,
                  REAL(0.6931471805599453));
        store_row(row_of(task.dvalue, batch, head, j, n_bytes), value_sums + j * value_columns, task.dtype,
                  task.value_width, 1);
    }
}

static void backward(const Attention &task, int64_t first_task, int64_t end_task)
{
    const int64_t n_blocks = (task.n_rows + kRows - 1) / kRows, n_keys = keys_of_row(task, task.n_rows - 1);
    const int64_t columns = in_panels(task.width), value_columns = in_panels(task.value_width);
    const int64_t n_chunks = (task.width + kKeys - 1) / kKeys, n_value_chunks = (task.value_width + kKeys - 1) / kKeys;
    const int64_t n_grouped = task.n_heads / task.n_key_heads, n_sums = n_sum_elems(task);
    const REAL score_scale = REAL(task.scale * 1.4426950408889634), kept_scale = scale_of_kept(task);
    const size_t n_bytes = c10::elementSize(task.dtype);
    const int64_t sizes[] = {
        in_panels(n_keys) * task.width, in_panels(n_keys) * task.value_width, n_keys * columns,
        n_chunks * kRows * kStride,     n_value_chunks * kRows * kStride,     kRows * columns,
        kRows * value_columns,          kRows * columns,                      kRows * kStride,
        kRows * kStride,                4 * std::max(columns, value_columns), task.n_parts > 1 ? 0 : n_sums};
    int64_t total = 0;
    for (const int64_t size : sizes)
        total += Scratch::padded(size);
    Scratch scratch(total);
    const int64_t *size = sizes;
    REAL *keys_transposed = scratch.take(*size++), *values_transposed = scratch.take(*size++);
    REAL *keys = scratch.take(*size++), *query = scratch.take(*size++), *dout = scratch.take(*size++);
    REAL *query_packed = scratch.take(*size++), *dout_packed = scratch.take(*size++);
    REAL *dquery = scratch.take(*size++), *weights = scratch.take(*size++), *dweights = scratch.take(*size++);
    REAL *four_rows = scratch.take(*size++), *own_sums = scratch.take(*size++);
    REAL row_sums[kRows];
    KeepBytes keep;
    int64_t packed = -1;
    for (int64_t index = first_task; index < end_task; index++) {
        const int64_t group = index / task.n_parts, part = index % task.n_parts;
        const int64_t batch = group / task.n_key_heads, key_head = group % task.n_key_heads;
        REAL *sums = task.n_parts > 1 ? static_cast<REAL *>(task.partial) + index * n_sums : own_sums;
        REAL *value_sums = sums + task.n_keys * columns;
        std::fill_n(sums, n_sums, REAL(0));
        if (packed != group) {
            packed = group;
            pack_transposed(keys_transposed, task.key, batch, key_head, n_keys, task.width, task.dtype, four_rows);
            pack_transposed(values_transposed, task.value, batch, key_head, n_keys, task.value_width, task.dtype,
                            four_rows);
            pack_rows(keys, task.key, batch, key_head, n_keys, task.width, task.dtype, four_rows);
        }
        for (int64_t nth = part; nth < n_grouped * n_blocks; nth += task.n_parts) {
            const int64_t head = key_head * n_grouped + nth / n_blocks, first_row = nth % n_blocks * kRows;
            const int64_t n_rows = std::min<int64_t>(kRows, task.n_rows - first_row);
            const int64_t end_key = keys_of_row(task, first_row + n_rows - 1);
            const int64_t mask_row = (batch * task.n_heads + head) * task.n_rows + first_row;
            load_rows(query, task.query, batch, head, first_row, n_rows, task.width, task.dtype, score_scale);
            pack_matrix(query_packed, query, n_rows, task.width);
            load_rows(dout, task.dout, batch, head, first_row, n_rows, task.value_width, task.dtype, kept_scale);
            pack_matrix(dout_packed, dout, n_rows, task.value_width);
            for (int64_t i = 0; i < n_rows; i++) {
                /* Softmax's backward pass needs the sum of weights * dweights for each row: that of out * dout. */
                if (i + kRowsAhead < n_rows)
                    expect_row(task.out, batch, head, first_row + i + kRowsAhead, task.value_width, n_bytes);
                load_row(four_rows, row_of(task.out, batch, head, first_row + i, n_bytes), task.dtype, task.value_width,
                         kept_scale != 0 ? 1 / kept_scale : 0);
                REAL sum = 0;
                for (int64_t k = 0; k < task.value_width; k += kKeys) {
                    const REAL *a = four_rows + k, *b = dout + (k / kKeys * kRows + i) * kStride;
                    const int64_t n = std::min<int64_t>(kKeys, task.value_width - k);
                    Vector vector_sum = {};
                    int64_t j = 0;
                    for (; j + kLanes <= n; j += kLanes)
                        vector_sum += load(a + j) * load(b + j);
                    sum += sum_of(vector_sum);
                    for (; j < n; j++)
                        sum += a[j] * b[j];
                }
                row_sums[i] = sum;
            }
            std::fill_n(dquery, n_rows * columns, REAL(0));
            keep.first_key = -1;
            const REAL *log_sum = static_cast<const REAL *>(task.log_sum) + mask_row;
            for (int64_t key = 0; key < end_key; key += kKeys) {
                const Block block{n_rows, std::min<int64_t>(kKeys, end_key - key),
                                  task.is_causal ? key - first_row : -task.n_rows - kKeys};
                multiply_for_scores(block, task.width, query, keys_transposed + key * task.width, weights);
                multiply_for_scores(block, task.value_width, dout, values_transposed + key * task.value_width, dweights);
                keep.make(task, static_cast<uint64_t>(mask_row), n_rows, key, end_key);
                for (int64_t i = 0; i < n_rows; i++) {
                    REAL *row = weights + i * kStride, *drow = dweights + i * kStride;
                    const int64_t n =
                        std::max<int64_t>(0, std::min(block.n_keys, keys_of_row(task, first_row + i) - key));
                    if (n > 0 && task.bias.data != nullptr)
                        add_bias(row, task.bias, batch, head, first_row + i, key, n);
                    const uint8_t *kept = keep.row(i, key);
                    const REAL subtracted = log_sum[i], row_sum = row_sums[i];
                    int64_t j = 0;
                    for (; j < n; j += kLanes) {
                        const BitVector lanes = kept_lanes(kept + j);
                        const Vector weight = exp2_of(load(row + j) - subtracted);
                        store(row + j, where_kept(lanes, weight));
                        store(drow + j, weight * (where_kept(lanes, load(drow + j)) - row_sum));
                    }
                    for (j = n; j < in_panels(block.n_keys); j++)
                        row[j] = drow[j] = 0;
                }
                multiply_by_rows(block, value_columns, weights, dout_packed, value_sums + key * value_columns);
                multiply_by_keys(block, columns, dweights, keys + key * kPanel, n_keys, dquery);
                multiply_by_rows(block, columns, dweights, query_packed, sums + key * columns);
            }
            for (int64_t i = 0; i < n_rows; i++)
                store_row(row_of(task.dquery, batch, head, first_row + i, n_bytes), dquery + i * columns, task.dtype,
                          task.width, REAL(task.scale));
        }
        if (task.n_parts == 1)
            store_sums(task, batch, key_head, sums);
    }
}

static void add_parts(const Attention &task, int64_t first_task, int64_t end_task)
{
    const int64_t n_sums = n_sum_elems(task);
    for (int64_t group = first_task; group < end_task; group++) {
        REAL *sums = static_cast<REAL *>(task.partial) + group * task.n_parts * n_sums;
        for (int64_t part = 1; part < task.n_parts; part++)
            for (int64_t i = 0; i < n_sums; i += kLanes) /* rows are padded to whole panels */
                store(sums + i, load(sums + i) + load(sums + part * n_sums + i));
        store_sums(task, group / task.n_key_heads, group % task.n_key_heads, sums);
    }
}

const AttentionKernels kernels = {kRows, n_sum_elems, forward, backward, add_parts};

#undef REAL
#undef BITS
#undef MAX_TILE_ROWS
#undef VECTOR_MAX
