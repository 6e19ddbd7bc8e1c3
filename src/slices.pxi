"""A long call in slices, between which the main thread handles signals: Ctrl-C ends it in a fraction of a second."""

# Elements of a slice that each thread computes: 30 ms where one takes longest (float16 noise in plain C, 30 ns).
cdef size_t max_elems_per_slice = 1 << 20
cdef enum:
    N_FIRST_SLICES = 4  # then twice as many at a time, because each time costs teams of threads a few microseconds,
cdef double SECONDS_AT_A_TIME = 0.05  # or half as many where they took longer than this.
# To get the GIL can take 5 ms while another thread of Python computes.
cdef double seconds_between_checks = 0.1


def set_slices(n_elems, seconds):
    """For tests: the most elements of a slice that a thread computes, and how often signals are looked for."""
    global max_elems_per_slice, seconds_between_checks
    max_elems_per_slice = max(1, n_elems)
    seconds_between_checks = seconds


def get_slices():
    """What set_slices sets."""
    return max_elems_per_slice, seconds_between_checks


cdef bint handles_signals():
    """Whether this is the thread that Python runs handlers of signals in."""
    return threading.get_ident() == threading.main_thread().ident


cdef void run_part_in_slices(const job *j, size_t part, size_t begin, size_t end, size_t n_parts,
                             size_t n_slices) noexcept nogil:
    """Slices begin .. end - 1 of a part, which lies in one piece."""
    cdef size_t i
    for i in range(begin, end):
        run_part(j, part * n_slices + i, n_parts * n_slices)


cdef void run_slices(const job *j, size_t begin, size_t end, size_t n_slices, size_t n_threads) noexcept nogil:
    """Slices begin .. end - 1 of each thread's part of the job."""
    cdef Py_ssize_t thread
    # The handler of a signal may have forked since the job began.
    if n_threads == 1 or is_forked_child:
        for thread in range(<Py_ssize_t>n_threads):
            run_part_in_slices(j, thread, begin, end, n_threads, n_slices)
        return
    for thread in prange(<Py_ssize_t>n_threads, num_threads=<int>n_threads, schedule="static"):
        run_part_in_slices(j, thread, begin, end, n_threads, n_slices)


cdef bint run_interruptibly(const job *j, size_t n_slices, size_t n_threads) noexcept nogil:
    """All slices; True, with Python's error set, where the handler of a signal raised one in between."""
    cdef bint is_raised = False
    cdef size_t begin = 0, end, n_at_a_time = N_FIRST_SLICES
    cdef double began, now = seconds_now()
    cdef double checked = now
    while begin < n_slices and not is_raised:
        end = min(begin + n_at_a_time, n_slices)
        began = now
        run_slices(j, begin, end, n_slices, n_threads)
        now = seconds_now()
        n_at_a_time = max(<size_t>1, n_at_a_time // 2) if now - began > SECONDS_AT_A_TIME else 2 * n_at_a_time
        begin = end
        # The clock may have been set back.
        if begin < n_slices and not checked <= now < checked + seconds_between_checks:
            checked = now
            with gil:
                is_raised = run_handlers_of_signals() != 0
    return is_raised


cdef int copy_elems(cnp.ndarray out, cnp.ndarray x) except -1:
    """out = x, in slices along the longest axis where there is more than one."""
    cdef Py_ssize_t n_slices = (cnp.PyArray_SIZE(x) - 1) // <Py_ssize_t>(N_FIRST_SLICES * max_elems_per_slice) + 1
    cdef Py_ssize_t begin, length, n
    if n_slices <= 1:
        np.copyto(out, x)
        return 0
    lengths = (<object>x).shape
    axis = max(range(len(lengths)), key=lengths.__getitem__)
    length = lengths[axis]
    n = (length - 1) // n_slices + 1
    for begin in range(0, length, n):
        part = (slice(None),) * axis + (slice(begin, begin + n),)
        np.copyto(out[part], x[part])
        PyErr_CheckSignals()
    return 0
