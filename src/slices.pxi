"""A long call in slices, between which the main thread handles signals: Ctrl-C ends it within a second."""

# 30 ms where an element takes longest (float16 noise in plain C, 30 ns).
cdef size_t max_elems_per_slice = 1 << 20
# Shorter calls are one parallel region, as if there were no signals: on a busy machine every further one can wait
# milliseconds for a thread that has no CPU, and getting the GIL back can take as long while another thread computes.
cdef uint64_t microseconds_between_checks = 100000
cdef enum:
    MAX_THREADS = 1024  # of one call, whose progress is kept on the stack


def set_slices(n_elems, seconds):
    """For tests and a benchmark: the most elements of a slice, and how often signals are looked for."""
    global max_elems_per_slice, microseconds_between_checks
    max_elems_per_slice = max(1, n_elems)
    microseconds_between_checks = <uint64_t>(<double>seconds * 1e6)


def get_slices():
    """What set_slices sets."""
    return max_elems_per_slice, microseconds_between_checks / 1e6


cdef bint handles_signals():
    """Whether this is the thread that Python runs handlers of signals in."""
    return threading.get_ident() == threading.main_thread().ident


cdef void run_until(const job *j, size_t part, size_t *n_done, size_t n_slices, size_t n_parts, uint64_t began,
                    uint64_t until) noexcept nogil:
    """The slices of a part that are left, up to the first that ends when the time is up; a part lies in one piece."""
    cdef uint64_t now
    while n_done[part] < n_slices:
        run_part(j, part * n_slices + n_done[part], n_parts * n_slices)
        n_done[part] += 1
        if n_done[part] < n_slices:
            now = clock_microseconds()
            if not began <= now < until:  # the clock may have been set back
                return


cdef bint run_all_until(const job *j, size_t *n_done, size_t n_slices, size_t n_threads, uint64_t began,
                        uint64_t until) noexcept nogil:
    """Each thread's part for so long; whether slices are left."""
    cdef Py_ssize_t thread
    # The handler of a signal may have forked since the job began.
    if n_threads == 1 or this_process != FIRST_PROCESS:
        for thread in range(<Py_ssize_t>n_threads):
            run_until(j, thread, n_done, n_slices, n_threads, began, until)
    else:
        for thread in prange(<Py_ssize_t>n_threads, num_threads=<int>n_threads, schedule="static"):
            run_until(j, thread, n_done, n_slices, n_threads, began, until)
    for thread in range(<Py_ssize_t>n_threads):
        if n_done[thread] < n_slices:
            return True
    return False


cdef bint run_interruptibly(const job *j, size_t n_slices, size_t n_threads) noexcept nogil:
    """All slices; True, with Python's error set, where the handler of a signal raised one in between. Handlers run in
    the caller's floating-point mode, which every slice leaves as it was, and outside of parallel regions."""
    cdef size_t n_done[MAX_THREADS]
    cdef bint is_raised = False
    cdef uint64_t began = clock_microseconds()
    memset(n_done, 0, n_threads * sizeof(size_t))
    while not is_raised and run_all_until(j, n_done, n_slices, n_threads, began, began + microseconds_between_checks):
        with gil:
            is_raised = run_handlers_of_signals() != 0
        began = clock_microseconds()
    return is_raised


cdef int copy_elems(cnp.ndarray out, cnp.ndarray x) except -1:
    """out = x, in slices where there is more than one. They are cut where out's are furthest apart in memory: a slice
    through all of it would have the system find all of its pages at once."""
    cdef Py_ssize_t middle
    if cnp.PyArray_SIZE(x) <= <Py_ssize_t>max_elems_per_slice:
        np.copyto(out, x)
        return 0
    strides = [abs(stride) if n > 1 else -1 for stride, n in zip((<object>out).strides, (<object>out).shape)]
    axis = strides.index(max(strides))
    middle = cnp.PyArray_DIM(x, axis) // 2
    for half in (slice(middle), slice(middle, None)):
        part = (slice(None),) * axis + (half,)
        copy_elems(out[part], x[part])
        PyErr_CheckSignals()
    return 0
