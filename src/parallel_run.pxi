"""Running a planned job: the parallel loop, one range of elements for each thread, without the GIL.

A long call of the main thread leaves the loop ten times a second to run signal handlers, such as that of Ctrl-C. For
this, threads work in slices and look at the clock after each. After the handlers, the call goes on only if the arrays
are still as they were (held_arrays.pxi). scratch.pxi and mask.pxi call run_request."""

cdef enum:
    MAX_THREADS = 1024  # of one call: run_interruptibly keeps the progress of each on its stack
    MAX_SLICES = 1 << 22  # of a thread: job_cut needs the square of the number of all slices in 64 bits


cdef team_pause pause


cdef inline bint handles_signals() noexcept nogil:
    """Whether Python runs signal handlers in this thread. In C, because code in Python may run a handler."""
    return thread_ident() == main_thread


ctypedef int (*check_without_raising)(const held_arrays *) noexcept


cdef inline void run_slice(const job *j, size_t i, size_t n_slices) noexcept nogil:
    job_run(j, job_cut(j, i, n_slices), job_cut(j, i + 1, n_slices))


cdef void run_until(const job *j, size_t thread, size_t *n_done, size_t n_slices, size_t n_threads, uint64_t began,
                    uint64_t until) noexcept nogil:
    """Run the thread's next slices, up to the first that ends after the deadline. A thread's slices are neighbours."""
    cdef uint64_t now
    while n_done[thread] < n_slices:
        run_slice(j, thread * n_slices + n_done[thread], n_threads * n_slices)
        n_done[thread] += 1
        if n_done[thread] < n_slices:
            now = clock_microseconds()
            if not began <= now < until:  # the clock may have been set back
                return


cdef struct team_argument:
    const job *j
    size_t *n_done
    size_t n_slices, n_threads
    uint64_t began, until


cdef void run_in_team(void *argument, size_t thread) noexcept nogil:
    cdef team_argument *run = <team_argument *>argument
    run_until(run.j, thread, run.n_done, run.n_slices, run.n_threads, run.began, run.until)


cdef bint run_all_until(const job *j, size_t *n_done, size_t n_slices, size_t n_threads, uint64_t began,
                        uint64_t until) noexcept nogil:
    """Run the slices of all threads up to the deadline; return whether slices remain."""
    cdef Py_ssize_t thread
    cdef uint64_t cpu_used = 0, cpu_before
    cdef thread_pool *pool = NULL
    cdef int n_granted = 1
    cdef team_argument run
    # A signal handler may have forked since the job began: a forked child must not start OpenMP threads. It may also
    # have called another library, which ended threads: each region asks anew how many there are.
    if n_threads > 1 and this_process == FIRST_PROCESS and not is_team_paused(&pause, began):
        n_granted = begin_region(<int>n_threads, &pool)
    if n_granted == 1:
        for thread in range(<Py_ssize_t>n_threads):
            run_until(j, thread, n_done, n_slices, n_threads, began, until)
    elif HAS_SYSTEM_TEAM:
        run.j, run.n_done, run.n_slices, run.n_threads, run.began, run.until = (
            j, n_done, n_slices, n_threads, began, until
        )
        run_team(n_threads, run_in_team, &run)
    else:
        cpu_before = cpu_microseconds()
        # The calling thread is thread 0. The sum is that of one number and zeros: Cython makes it a reduction.
        for thread in prange(<Py_ssize_t>n_threads, num_threads=n_granted, schedule="static"):
            enter_region(pool)
            run_until(j, thread, n_done, n_slices, n_threads, began, until)
            cpu_used += cpu_microseconds() if thread == 0 else 0
        if cpu_used > 0 and n_granted == <int>n_threads:  # the system tells the CPU time, and thread 0 ran one range
            note_region(&pause, began, clock_microseconds(), cpu_used - cpu_before, n_threads)
    for thread in range(<Py_ssize_t>n_threads):
        if n_done[thread] < n_slices:
            return True
    return False


cdef bint run_interruptibly(const job *j, size_t n_slices, size_t n_threads, const held_arrays *held) noexcept nogil:
    """Run all slices. Return True, with Python's error set, if a signal handler raised an exception or changed an
    array. Handlers run outside of parallel regions and in the caller's floating-point mode, which every slice
    restores."""
    cdef size_t n_done[MAX_THREADS]
    cdef bint is_raised = False
    # A call that ends before the first deadline is a single parallel region: on a busy machine each further region may
    # wait milliseconds for a thread that has no CPU.
    cdef uint64_t began = clock_microseconds()
    memset(n_done, 0, n_threads * sizeof(size_t))
    while not is_raised and run_all_until(
        j, n_done, n_slices, n_threads, began, began + limits.microseconds_between_checks
    ):
        with gil:
            # The cast, as the declaration of run_signal_handlers: Cython must not report the error here.
            is_raised = run_signal_handlers() != 0 or (<check_without_raising>check_held)(held) != 0
        began = clock_microseconds()
    return is_raised


cdef int run_job(const job *j, held_arrays *held) except -1:
    """Run the whole job. If a signal handler raises, raise its exception, and ValueError if it changes a held array;
    some elements have been written then. Until handlers run, this runs no Python code."""
    cdef size_t n_threads, n_slices
    cdef bint is_interruptible, is_raised
    if j.n_elems < min(limits.min_elems_without_gil, limits.min_elems_per_thread):
        job_run(j, 0, j.n_elems)
        return 0
    is_interruptible = j.n_elems > limits.max_elems_per_slice and handles_signals()
    if is_interruptible:
        watch(held)
    n_threads = share_of_threads(min(max(<size_t>1, j.n_elems // job_min_elems_per_thread(j)), <size_t>MAX_THREADS))
    n_slices = (j.n_elems - 1) // (n_threads * limits.max_elems_per_slice) + 1 if is_interruptible else 1
    n_slices = min(n_slices, <size_t>MAX_SLICES)
    with nogil:
        is_raised = run_interruptibly(j, n_slices, n_threads, held)
        leave_active_calls(&calls)
    return -1 if is_raised else 0


cdef int run_request(const job_request *request, held_arrays *held) except -1:
    """Plan and run a request made of checked arguments, after prepare_threads and check_held."""
    cdef job j
    if job_plan(&j, request) != 0:
        raise SystemError("a checked request must be one that can be planned: please report this")
    return run_job(&j, held)
