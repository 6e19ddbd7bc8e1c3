"""How many threads a call may use: OpenMP's limit, the thread's CPUs, the control group's CPU quota, and the number of
other calls that compute at the same time."""

# ---- forked children ------------------------------------------------------------------------------------------------

cdef enum:
    FIRST_PROCESS = 1

# A forked child has none of its parent's OpenMP threads, and GNU's runtime waits for them forever: it keeps to one.
cdef int this_process = FIRST_PROCESS


cdef void begin_in_child() noexcept nogil:
    """What the system calls in a child, also in one that Python does not know of."""
    global this_process
    this_process += 1
    memset(&calls, 0, sizeof(active_calls))


if call_in_forked_children(begin_in_child) != 0:
    raise MemoryError("the system must have memory to note what is to be called in forked children")


def process_number():
    """1 in the process that has imported this, 2 in its forked children, 3 in theirs."""
    return this_process


cdef uint64_t microseconds_now() except? 0:
    return <uint64_t>(<double>time.monotonic() * 1e6)


# ---- the quota ------------------------------------------------------------------------------------------------------

cdef enum:
    ANY_NUMBER = 1 << 20  # of threads, where there is no quota

# Threads that find the answer out of date at the same time each read the quota, and each store a valid answer.
cdef uint64_t quota_threads = 1
cdef uint64_t quota_is_good_until = 0
cdef object quota = machine.CpuQuota()


# OpenMP looks at the affinity when it is loaded. Who narrows it afterwards wants fewer threads; who had it narrow and
# asks for more threads by OMP_NUM_THREADS gets them.
cdef size_t n_cpus_at_import = n_cpus_of_thread()


cdef size_t allowed_threads(uint64_t now) except 0:
    """OpenMP's limit, called from here and now, and no more than the whole CPUs of the quota, but always one."""
    cdef size_t n_threads = max_threads() if this_process == FIRST_PROCESS else 1
    if n_threads == 1:
        return 1
    cdef size_t n_cpus_now = n_cpus_of_thread()
    if n_cpus_now < n_cpus_at_import:
        n_threads = min(n_threads, n_cpus_now)
    if n_threads > 1 and now >= load_u64(&quota_is_good_until):
        n_cpus = quota.n_cpus()
        store_u64(&quota_threads, max(1, int(min(n_cpus, ANY_NUMBER))) if n_cpus is not None else ANY_NUMBER)
        store_u64(&quota_is_good_until, now + limits.microseconds_of_quota)
    return min(n_threads, load_u64(&quota_threads))


def thread_limit():
    """How many threads a large array would be shared out among, if no other call ran at the time."""
    return allowed_threads(microseconds_now())


# ---- calls from several threads of Python at once -------------------------------------------------------------------
# Calls that compute at the same moment share the CPUs, and the most that did within the last tenth of a second counts,
# because OpenMP's threads go on spinning for a millisecond after their work, at the cost of the others: a call that
# happens to be alone for a moment must not wake them.
cdef active_calls calls


cdef size_t share_of_threads(size_t n_wanted) except 0:
    """Count a call in, which leave_active_calls(&calls) takes out again, and return its share of the threads."""
    cdef uint64_t now
    cdef int n_now
    # If the handler of a signal forks during a call, the child leaves a call that it has not entered: its count is
    # wrong from then on, and nothing reads it there.
    if n_wanted == 1 or this_process != FIRST_PROCESS:
        enter_active_calls(&calls)
        return 1
    now = microseconds_now()
    n_wanted = min(n_wanted, allowed_threads(now))
    n_now = enter_active_calls(&calls)
    n_wanted = max(<size_t>1, n_wanted // <size_t>most_active_calls(&calls, n_now, now))
    return available_team(<int>n_wanted)
