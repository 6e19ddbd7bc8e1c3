#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/library.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace cdropout_torch
{

namespace
{

std::atomic<const cdropout_table *> table{nullptr};

/* Tensors with one of these have no memory that holds their values, or are seen by Python code. */
const c10::DispatchKeySet kNotPlain({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot,
                                     c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper,
                                     c10::DispatchKey::Functionalize, c10::DispatchKey::Negative,
                                     c10::DispatchKey::Conjugate, c10::DispatchKey::ZeroTensor});

/* Set of memory in C order, dense and without gaps, as the kernels walk it: lengths and strides of the mask along it.
 */
void set_axes(cdropout_strided_mask &mask, const Tensor &tensor, uint64_t shared_axes)
{
    const int n_axes = static_cast<int>(tensor.dim());
    uint64_t strides[CDROPOUT_MAX_AXES];
    uint64_t n_positions = 1;
    for (int axis = n_axes - 1; axis >= 0; axis--) {
        const bool is_shared = shared_axes >> axis & 1;
        strides[axis] = is_shared ? 0 : n_positions;
        if (!is_shared)
            n_positions *= static_cast<uint64_t>(tensor.size(axis));
    }
    int order[CDROPOUT_MAX_AXES];
    std::iota(order, order + n_axes, 0);
    std::stable_sort(order, order + n_axes, [&](int a, int b) { return tensor.stride(a) > tensor.stride(b); });
    mask.n_axes = n_axes;
    for (int i = 0; i < n_axes; i++) {
        mask.lens[i] = static_cast<size_t>(tensor.size(order[i]));
        mask.strides[i] = strides[order[i]];
    }
}

/* Call apply(begin, end) for ranges of elements, on PyTorch's threads. Ranges begin at multiples of a block of
 * positions, which would be seeded twice otherwise. */
template <typename Apply> void over_blocks(int64_t n_elems, const Apply &apply)
{
    if (n_elems < 2 * kElemsPerThread) {
        apply(0, n_elems);
        return;
    }
    const int64_t n_blocks = (n_elems + CDROPOUT_BLOCK - 1) / CDROPOUT_BLOCK;
    at::parallel_for(0, n_blocks, kElemsPerThread / CDROPOUT_BLOCK, [&](int64_t begin, int64_t end) {
        apply(begin * CDROPOUT_BLOCK, std::min(end * CDROPOUT_BLOCK, n_elems));
    });
}

/* Write the map of x to out, with an operation of the C interface. Both have the same dense strides. */
void run(const Tensor &x, const Tensor &out, const MaskMap &map, int operation = CDROPOUT_APPLY_MASK)
{
    const cdropout_table &call = functions();
    const int dtype = dtype_of(x);
    const int64_t n_elems = x.numel();
    cdropout_arrays arrays{};
    arrays.out = out.data_ptr();
    arrays.x = x.data_ptr();
    arrays.shift = map.shift;
    arrays.fill = map.fill;
    arrays.past_caches = 2 * x.nbytes() > call.cached_bytes();
    cdropout_strided_mask strided;
    cdropout_mask &mask = strided.mask;
    call.define_mask(&mask, &map.key, 0, map.p);
    mask.scale = map.scale;
    const bool is_run = map.shared_axes == 0 && x.is_contiguous();
    if (!is_run)
        set_axes(strided, x, map.shared_axes);
    over_blocks(n_elems, [&](int64_t begin, int64_t end) {
        const size_t first = static_cast<size_t>(begin), last = static_cast<size_t>(end);
        if (is_run)
            call.apply(operation, dtype, &arrays, &mask, first, last);
        else
            call.apply_strided(operation, dtype, &arrays, &strided, first, last);
    });
}

void set_functions(int64_t address)
{
    table.store(reinterpret_cast<const cdropout_table *>(address));
}

} // namespace

const cdropout_table &functions()
{
    return *table.load(std::memory_order_relaxed);
}

int dtype_of(const Tensor &tensor)
{
    switch (tensor.scalar_type()) {
    case at::kFloat:
        return CDROPOUT_FLOAT32;
    case at::kDouble:
        return CDROPOUT_FLOAT64;
    case at::kHalf:
        return CDROPOUT_FLOAT16;
    case at::kBFloat16:
        return CDROPOUT_BFLOAT16;
    default:
        return -1;
    }
}

MaskMap map_of_dropout(double p, bool is_alpha, uint64_t shared_axes)
{
    cdropout_mask mask{};
    cdropout_arrays arrays{};
    const cdropout_key none{};
    functions().define_mask(&mask, &none, 0, p);
    if (is_alpha)
        functions().set_alpha_dropout(&arrays, &mask);
    return {none, p, mask.scale, arrays.shift, arrays.fill, shared_axes};
}

cdropout_key draw_key(const std::optional<at::Generator> &generator)
{
    auto *source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::scoped_lock<std::mutex> lock(source->mutex_);
    cdropout_key key;
    for (uint64_t &word : key.word)
        word = source->random64() % UINT64_MAX + (UINT64_C(1) << 63);
    return key;
}

bool is_plain(const Tensor &tensor)
{
    if (!tensor.defined() || !tensor.is_cpu() || tensor.layout() != at::kStrided || tensor.is_nested())
        return false;
    if (tensor.key_set().has_any(kNotPlain) || dtype_of(tensor) < 0 || tensor.dim() > CDROPOUT_MAX_AXES)
        return false;
    /* Tensors whose storage was freed have a shape and no memory. */
    return tensor.has_storage() && (tensor.numel() == 0 || tensor.const_data_ptr() != nullptr);
}

bool is_intercepted()
{
    return c10::impl::dispatch_mode_enabled() ||
           c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
           c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::PreDispatch) ||
           c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::Functionalize);
}

void expect_writing(const Tensor &fresh)
{
#ifdef __linux__
    constexpr uintptr_t kFromBytes = 1 << 22; /* NumPy has the same limit for its arrays */
    if (fresh.nbytes() < kFromBytes)
        return;
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(fresh.data_ptr());
    const uintptr_t first = (begin + page - 1) / page * page;
    madvise(reinterpret_cast<void *>(first), (begin + fresh.nbytes() - first) / page * page, MADV_HUGEPAGE);
#else
    (void)fresh;
#endif
}

Tensor apply_map(const Tensor &x, const MaskMap &map)
{
    Tensor out = at::empty_like(x);
    if (x.numel() == 0)
        return out;
    expect_writing(out);
    if (out.strides() == x.strides() && x.is_non_overlapping_and_dense()) {
        run(x, out, map);
    } else {
        out.copy_(x);
        run(out, out, map);
    }
    return out;
}

void apply_map_in_place(const Tensor &x, const MaskMap &map)
{
    if (x.numel() == 0)
        return;
    if (x.is_non_overlapping_and_dense())
        run(x, x, map);
    else
        x.copy_(apply_map(x, map));
}

Tensor factor_of(const MaskMap &map, at::IntArrayRef shape, at::ScalarType dtype)
{
    /* Not at::empty: tracers and torch.func would intercept it. */
    Tensor out = at::detail::empty_cpu(shape, dtype, std::nullopt, std::nullopt, std::nullopt, std::nullopt);
    fill_factor(map, out);
    return out;
}

void fill_factor(const MaskMap &map, const Tensor &out)
{
    if (out.numel() > 0)
        run(out, out, map, CDROPOUT_FILL_SCALED);
}

Tensor keep_of(const MaskMap &map, at::IntArrayRef shape)
{
    Tensor out = at::detail::empty_cpu(shape, at::kByte, std::nullopt, std::nullopt, std::nullopt, std::nullopt);
    cdropout_mask mask;
    functions().define_mask(&mask, &map.key, 0, map.p);
    uint8_t *keep = static_cast<uint8_t *>(out.data_ptr());
    over_blocks(out.numel(), [&](int64_t begin, int64_t end) {
        functions().fill_keep(keep + begin, &mask, static_cast<size_t>(begin), static_cast<size_t>(end));
    });
    return out;
}

TORCH_LIBRARY_FRAGMENT(cdropout, library)
{
    library.def("set_functions(int address) -> ()", set_functions);
}

} // namespace cdropout_torch
