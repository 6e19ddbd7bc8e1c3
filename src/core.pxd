"""Declarations, for Cython, of the parts of src/core and src/system that _kernels.pyx uses. No other file has them."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "core/stream.h" nogil:
    enum:
        ELEMS_PER_BLOCK
        RAW_BYTES_PER_BLOCK

    ctypedef struct stream_key:
        uint64_t word[2]


cdef extern from "core/kernel_table.h" nogil:
    enum:
        N_DTYPES
        DTYPE_f32
        DTYPE_f64
        N_OPERATIONS
        OPERATION_apply_mask
        OPERATION_fill_scaled
        OPERATION_relu_dropout
        OPERATION_relu_dropout_backward
        OPERATION_multiply_by_noise
        OPERATION_add_noise
        WITH_BIAS
        WITH_CHOICE
        READS_RESIDUAL

    ctypedef struct dtype_properties:
        const char *name
        size_t n_bytes
        const char *numpy_name

    ctypedef struct operation_properties:
        const char *name
        int steps

    enum:
        N_SUBMATRIX_VERBS
        GATHER_KEPT
        SCATTER_KEPT_ZERO
        SCATTER_KEPT_SET
        SCATTER_KEPT_ADD

    ctypedef struct submatrix:
        char *out
        const char *x
        size_t n_rows, n_columns
        const uint64_t *row_words
        const uint64_t *column_words
        double scale
        int verb

    enum:
        UPDATE_MOMENTUM
        UPDATE_NESTEROV
        UPDATE_ADAM

    ctypedef struct param_update:
        char *param
        const char *grad
        char *first
        char *second
        double l2, decay_first, add_first, decay_second, add_second, eps, factor
        int rule

    ctypedef struct kernel_table:
        const char *isa
        int (*is_supported)() noexcept nogil
        const char *(*fill_raw)(uint8_t *, const stream_key *, uint64_t, size_t) noexcept nogil

    const dtype_properties dtype_table[]
    const operation_properties operation_table[]
    const kernel_table *kernels
    const kernel_table *choose_kernels(const char *name, int *is_known)
    const kernel_table *kernels_at(size_t i)
    const char *changed_arithmetic()


cdef extern from "core/float_mode.h" nogil:
    bint is_zero(double value)


cdef extern from "core/rule.h" nogil:
    const double MAX_STD
    double kept_scale_of "kept_scale"(double p)
    void alpha_dropout_map(double p, double *scale, double *shift, double *fill)


cdef extern from "core/job.h" nogil:
    enum:
        OPERATION_fill_keep
        OPERATION_select
        OPERATION_fill_values
        UPDATE_ELEM_COST
        MAX_AXES
        ELEMS_PER_COUNT
        LISTED_ELEM_COST

    ctypedef struct keep_bits:
        uint64_t *words
        size_t *counts
        int64_t *indices
        bint of_dropped
        bint is_packed

    ctypedef struct squares:
        size_t n_images, height, width, n_channels, side

    ctypedef struct job_request:
        int operation
        int dtype
        stream_key key
        uint64_t first
        double p, scale, shift, fill
        char *out
        const char *x
        const char *residual
        const char *bias
        size_t n_bias, bias_first, n_elems
        int n_axes
        const size_t *lens
        const uint64_t *strides
        uint64_t *record
        bint has_record
        const uint64_t *keep_words

    ctypedef struct job:
        size_t n_elems

    ctypedef struct job_limits:
        size_t max_cached_bytes
        uint64_t max_gathered_stride
        size_t min_recorded_elems
        size_t max_recorded_elems
        size_t min_elems_per_thread
        size_t min_elems_per_xla_thread
        size_t min_elems_without_gil
        size_t max_elems_per_slice
        uint64_t microseconds_between_checks
        uint64_t microseconds_of_quota

    job_limits limits
    job_request blank_request(int operation, int dtype)
    int job_plan(job *j, const job_request *request)
    size_t job_record_words(const job_request *request)
    int job_plan_submatrix(job *j, const submatrix *request, int dtype)
    int job_plan_update(job *j, const param_update *request, const submatrix *kept, size_t n_elems, int dtype)
    int job_plan_bits(job *j, const job_request *request, const keep_bits *bits)
    void job_plan_list(job *j, const keep_bits *bits, size_t n_elems)
    int job_plan_squares(job *j, const job_request *request, const squares *images, const keep_bits *bits)
    size_t squares_counts(const squares *images)
    void job_plan_draws(job *j, uint8_t *out, const double *p, const stream_key *key, uint64_t first, size_t n_elems)
    size_t count_kept(const uint64_t *words, size_t n_elems)
    bint job_is_copy(const job_request *request)
    void job_run(const job *j, size_t begin, size_t end)
    size_t job_min_elems_per_thread(const job *j)
    size_t job_cut(const job *j, size_t i, size_t n_ranges)


cdef extern from "core/position.h" nogil:
    const uint64_t LIMIT "POSITION_LIMIT"
    uint64_t in_whole_blocks(uint64_t n_elems)
    int take_blocks(uint64_t *next_elem, uint64_t n_elems, uint64_t *first)
    void return_blocks(uint64_t *next_elem, uint64_t n_elems, uint64_t first)


cdef extern from "core/atomic.h" nogil:
    int load_int "ATOMIC_LOAD"(int *number)
    void store_int "ATOMIC_STORE"(int *number, int value)
    uint64_t load_u64 "ATOMIC_LOAD"(uint64_t *number)
    void store_u64 "ATOMIC_STORE"(uint64_t *number, uint64_t value)


cdef extern from "core/team_pause.h" nogil:
    ctypedef struct team_pause:
        pass

    bint is_team_paused(const team_pause *pause, uint64_t now)
    void note_region(team_pause *pause, uint64_t began, uint64_t end, uint64_t own_cpu, uint64_t n_threads)


cdef extern from "core/active_calls.h" nogil:
    ctypedef struct active_calls:
        pass

    int enter_active_calls(active_calls *calls)
    void leave_active_calls(active_calls *calls)
    int most_active_calls(active_calls *calls, int n_now, uint64_t now_microseconds)


cdef extern from "system/cache.h" nogil:
    size_t cache_bytes_of_level(int level)


cdef extern from "system/clock.h" nogil:
    uint64_t clock_microseconds()
    uint64_t steady_microseconds()
    uint64_t cpu_microseconds()


cdef extern from "system/pages.h" nogil:
    void ask_for_huge_pages(char *first, size_t n_bytes)


cdef extern from "system/team.h" nogil:
    void run_team(size_t n, void (*function)(void *, size_t) noexcept, void *argument)
    int n_cpus_of_team()


cdef extern from "system/threads.h" nogil:
    enum:
        HAS_OPENMP
        HAS_SYSTEM_TEAM
        SERIAL_REASON "CDROPOUT_SERIAL_REASON"
    void set_threads_of_host(int n_threads)
    void set_team_limit(int n_threads)
    int max_threads()
    int n_cpus_of_thread()
    double cpu_quota_of_system()
    ctypedef struct thread_pool:
        pass
    int prepare_pools(size_t stack_bytes)
    int begin_region(int n_threads, thread_pool **pool)
    void enter_region(thread_pool *pool)
    int call_in_forked_children(void (*function)() noexcept)


cdef extern from "Python.h":
    # noexcept: Cython does not raise Python's error here. The caller, a function that cannot raise, reports it.
    int run_signal_handlers "PyErr_CheckSignals"() noexcept
    unsigned long thread_ident "PyThread_get_thread_ident"() noexcept nogil
    const Py_ssize_t PY_SSIZE_T_MAX
