"""Runs a job: the parallel loop over its parts, and the slices between which the main thread handles signals, so that
Ctrl-C ends a long call within a second."""

cdef enum:
    MAX_THREADS = 1024  # of one call, whose progress is kept on the stack


cdef bint handles_signals():
    """Whether this is the thread that Python runs the handlers of signals in."""
    return threading.get_ident() == threading.main_thread().ident


cdef inline void run_part(const job *j, size_t part, size_t n_parts) noexcept nogil:
    job_run(j, job_cut(j, part, n_parts), job_cut(j, part + 1, n_parts))


cdef void run_until(const job *j, size_t part, size_t *n_done, size_t n_slices, size_t n_parts, uint64_t began,
                    uint64_t until) noexcept nogil:
    """The remaining slices of a part, up to the first that ends after the deadline. A part lies in one piece."""
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
    """Run each thread's part up to the deadline; return whether slices remain."""
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
    """Run all slices; return True, with Python's error set, where the handler of a signal raised in between. Handlers
    run in the caller's floating-point mode, which every slice restores, and outside of parallel regions."""
    cdef size_t n_done[MAX_THREADS]
    cdef bint is_raised = False
    # A call shorter than this is one parallel region, as if there were no signals: on a busy machine each further
    # region can wait milliseconds for a thread that has no CPU.
    cdef uint64_t began = clock_microseconds()
    memset(n_done, 0, n_threads * sizeof(size_t))
    while not is_raised and run_all_until(
        j, n_done, n_slices, n_threads, began, began + limits.microseconds_between_checks
    ):
        with gil:
            is_raised = run_signal_handlers() != 0
        began = clock_microseconds()
    return is_raised


cdef int run_job(const job *j) except -1:
    """Run the whole job. Raises what the handler of a signal raises: then some elements have been written."""
    cdef size_t n_threads, n_slices
    cdef bint is_interruptible, is_raised
    if j.n_elems < min(limits.min_elems_without_gil, limits.min_elems_per_thread):
        job_run(j, 0, j.n_elems)
        return 0
    # First, because Python may run a due handler in it, and what that raises must not leave a call counted as active.
    is_interruptible = j.n_elems > limits.max_elems_per_slice and handles_signals()
    n_threads = share_of_threads(min(max(<size_t>1, j.n_elems // limits.min_elems_per_thread), <size_t>MAX_THREADS))
    n_slices = (j.n_elems - 1) // (n_threads * limits.max_elems_per_slice) + 1 if is_interruptible else 1
    with nogil:
        is_raised = run_interruptibly(j, n_slices, n_threads)
        leave_active_calls(&calls)
    return -1 if is_raised else 0


cdef int run_request(const job_request *request) except -1:
    """Plan and run a request whose arguments have been checked."""
    cdef job j
    if job_plan(&j, request) != 0:
        raise SystemError("a checked request must be one that can be planned: please report this")
    return run_job(&j)
