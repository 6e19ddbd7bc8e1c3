"""How many threads a call may use: the least of OpenMP's limit, the thread's CPUs and the control group's CPU quota,
divided by the number of calls that compute at the same time. docs/design.md, "Threads", has the reasons.
parallel_run.pxi calls share_of_threads."""

# ---- forked children ------------------------------------------------------------------------------------------------

cdef enum:
    FIRST_PROCESS = 1

# A forked child uses one thread: it has no OpenMP threads of its parent, and GNU's runtime would wait for them forever.
cdef int this_process = FIRST_PROCESS

# The thread in which Python runs signal handlers: in a forked child, the one that forked.
cdef unsigned long main_thread = threading.main_thread().ident


cdef void begin_in_child() noexcept nogil:
    """Note that this is another process. The C library calls this in every forked child, also after a fork from C."""
    global this_process, main_thread
    this_process += 1
    main_thread = thread_ident()
    memset(&calls, 0, sizeof(active_calls))


if call_in_forked_children(begin_in_child) != 0:
    raise MemoryError("the system must have memory to note what is to be called in forked children")


def process_number():
    """Return 1 in the process that imported the library, 2 in its forked children, 3 in theirs."""
    return this_process


# ---- the quota ------------------------------------------------------------------------------------------------------

cdef enum:
    NO_QUOTA = 1 << 20  # threads
    # A quota stays valid for limits.microseconds_of_quota for each of these that reading it took: 0.1 % of the time.
    FAST_READING_MICROSECONDS = 20
    MOST_READING_MICROSECONDS = 1000  # the process may have been stopped meanwhile

# The CPU quota that was read last, and until when it is taken as valid. Threads that find it too old at the same time
# each read the quota, and each store a valid answer.
cdef uint64_t quota_threads = 1
cdef uint64_t quota_is_good_until = 0
cdef object quota = machine.CpuQuota()


# OpenMP reads the affinity when it is loaded. An affinity that is narrowed later reduces the number of threads; one
# that was narrow from the beginning does not, so that a larger OMP_NUM_THREADS is followed.
cdef size_t n_cpus_at_import = n_cpus_of_thread()


def cpu_quota():
    """Return the CPU quota of the process as a number of CPUs; None if there is none."""
    n_cpus = quota.n_cpus()
    return cpu_quota_of_system() or None if n_cpus is None else n_cpus


cdef int read_quota(uint64_t now) except -1:
    """Read the quota, unless it was read lately. This is Python code, which may raise and run code of the caller."""
    cdef uint64_t took, valid = limits.microseconds_of_quota
    if now >= load_u64(&quota_is_good_until):
        n_cpus = cpu_quota()
        # Where reading is slow, as on a busy machine, it must not be what every hundredth call waits for.
        took = min(steady_microseconds() - now, <uint64_t>MOST_READING_MICROSECONDS)
        valid *= 1 + took // FAST_READING_MICROSECONDS
        store_u64(&quota_threads, max(1, int(min(n_cpus, NO_QUOTA))) if n_cpus is not None else NO_QUOTA)
        store_u64(&quota_is_good_until, now + valid)
    return 0


cdef size_t allowed_threads() noexcept:
    """Return OpenMP's limit for this caller, but at most the CPUs of the thread and of the quota, as it was read last,
    and at least 1."""
    cdef size_t n_threads = max_threads() if this_process == FIRST_PROCESS else 1
    if n_threads == 1:
        return 1
    cdef size_t n_cpus_now = n_cpus_of_thread()
    if n_cpus_now < n_cpus_at_import:
        n_threads = min(n_threads, n_cpus_now)
    return min(n_threads, load_u64(&quota_threads))


# Without OpenMP, the number of threads of the system (system/team.h). OpenMP reads the variable itself.
if HAS_SYSTEM_TEAM:
    set_team_limit(machine.threads_of_environment(os.environ) or n_cpus_of_team())


# For parallel_run.pxi, which tries threads before OpenMP starts them.
if prepare_pools(machine.openmp_stack_bytes(os.environ)) != 0:
    raise MemoryError("the system must have memory to note what threads there are")


def thread_limit():
    """Return how many threads a call on a large array would use if no other call ran."""
    read_quota(steady_microseconds())
    return allowed_threads()


# ---- builds without OpenMP ------------------------------------------------------------------------------------------

# Why a build is serial, by the numbers of system/threads.h.
SERIAL_REASONS = ("unknown", "asked", "compiler", "link", "run")

# Whether the next call that would use several threads has to warn.
cdef int has_serial_warning = 0
cdef object serial_reason = None


def note_serial_build(reason):
    """Note why the build is serial, one of SERIAL_REASONS; None if it has threads.

    This is called at import. Only tests call this later, in one thread."""
    global serial_reason
    serial_reason = reason
    store_int(&has_serial_warning, reason in ("link", "run"))


note_serial_build(None if HAS_OPENMP or HAS_SYSTEM_TEAM else SERIAL_REASONS[SERIAL_REASON])


def why_serial():
    """Return why the build is serial: "asked" (CDROPOUT_OPENMP=0), "compiler" (it has no OpenMP), "link" or "run" (it
    has, but the build's test library did not link or run) or "unknown"; None if the build has threads."""
    return serial_reason


cdef inline bint may_use_threads(size_t n_elems) noexcept:
    return n_elems // 2 >= limits.min_elems_per_thread


cdef int prepare_threads() except -1:
    """Do all that a call on several threads needs of Python. Callers do this before the stream advances and before
    check_held, because it may raise and may run code of the caller."""
    if this_process == FIRST_PROCESS and max_threads() > 1:
        read_quota(steady_microseconds())
    return warn_if_serial() if load_int(&has_serial_warning) else 0


cdef int warn_if_serial() except -1:
    """Warn once that a large call uses one thread although the compiler had OpenMP. A filter may turn the warning into
    an exception."""
    if n_cpus_of_thread() == 1:
        return 0
    store_int(&has_serial_warning, 0)
    # The warning names the line outside of the package that made the call.
    stack_level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "cdropout":
        stack_level, frame = stack_level + 1, frame.f_back
    warnings.warn(
        "this build of cdropout has no OpenMP, and every call uses one thread: the compiler has OpenMP, but the "
        f"build's test library did not {serial_reason}. Build it again; with CDROPOUT_OPENMP=1 the build fails and "
        "shows the reason, with CDROPOUT_OPENMP=0 it is serial without this warning",
        RuntimeWarning,
        stack_level,
    )
    return 0


# ---- calls from several threads of Python at once -------------------------------------------------------------------
# Calls that compute at the same time share the CPUs. What counts is the most calls within the last tenth of a second:
# OpenMP's threads spin for a millisecond after their work, so a call that is alone for a moment must not wake them.
cdef active_calls calls


cdef size_t share_of_threads(size_t n_wanted) noexcept:
    """Count the call as active, until leave_active_calls(&calls), and return its share of the threads."""
    cdef uint64_t now
    cdef int n_now
    # If a signal handler forks during a call, the child calls leave_active_calls although begin_in_child has reset the
    # count. The count is wrong from then on, but a child does not read it.
    if n_wanted == 1 or this_process != FIRST_PROCESS:
        enter_active_calls(&calls)
        return 1
    now = steady_microseconds()
    n_wanted = min(n_wanted, allowed_threads())
    n_now = enter_active_calls(&calls)
    return max(<size_t>1, n_wanted // <size_t>most_active_calls(&calls, n_now, now))
