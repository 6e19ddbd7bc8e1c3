"""How many threads a call may use: OpenMP's limit, the thread's CPUs, the control group's quota, and what other calls
leave."""

# A forked child has none of its parent's OpenMP threads, and GNU's runtime waits for them forever.
cdef int is_forked_child = 0


def after_fork_in_child():
    """Keeps this process to one thread from now on."""
    global is_forked_child, n_running, n_at_once
    is_forked_child = 1
    n_running = n_at_once = 0


# ---- the quota ------------------------------------------------------------------------------------------------------

# It is read again after this long: a fifth of the period that the kernel usually spreads a quota over, and 300 times
# what reading takes.
QUOTA_SECONDS = 0.02
ANY_NUMBER = 1 << 20
cdef size_t quota_threads = 1
cdef double quota_is_good_until = 0
quota = machine.CpuQuota()


def set_quota(cpu_quota):
    """For tests: what gives n_cpus() in the place of this process's machine.CpuQuota; asked anew from now on."""
    global quota, quota_is_good_until
    quota = machine.CpuQuota() if cpu_quota is None else cpu_quota
    quota_is_good_until = 0


# OpenMP looks at the affinity when it is loaded. Who narrows it afterwards wants fewer threads; who had it narrow and
# asks for more threads by OMP_NUM_THREADS gets them.
cdef size_t n_cpus_at_import = n_cpus_of_thread()


cdef size_t allowed_threads(double now) except 0:
    """OpenMP's limit, called from here and now, and no more than the whole CPUs of the quota, but always one."""
    global quota_threads, quota_is_good_until
    cdef size_t n_threads = 1 if is_forked_child else max_threads()
    cdef size_t n_cpus_now = n_cpus_of_thread() if n_threads > 1 else 1
    if n_cpus_now < n_cpus_at_import:
        n_threads = min(n_threads, n_cpus_now)
    if n_threads > 1 and now >= quota_is_good_until:
        n_cpus = quota.n_cpus()
        quota_threads = max(1, int(min(n_cpus, ANY_NUMBER))) if n_cpus is not None else ANY_NUMBER
        quota_is_good_until = now + QUOTA_SECONDS
    return min(n_threads, quota_threads) if n_threads > 1 else 1


def thread_limit():
    """How many threads a large array would be shared out among, if no other call ran at the time."""
    return allowed_threads(time.monotonic())


# ---- calls from several threads of Python at once -------------------------------------------------------------------
# How many large jobs run at this moment, and the most that did within the last CROWD_SECONDS: they share the CPUs.
# The past counts because OpenMP's threads go on spinning for a millisecond after their work, at the cost of the others:
# a call that happens to be alone for a moment must not wake them.
CROWD_SECONDS = 0.1
cdef int n_running = 0
cdef int n_at_once = 0
cdef double crowd_until = 0


cdef size_t enter_crowd(size_t n_wanted) except 0:
    """Counts a job in, which add_running(&n_running, -1) takes out again, and gives it its share of the threads."""
    global n_at_once, crowd_until
    cdef double now
    cdef int n_now
    # What a handler of a signal forks off leaves a job that it has not entered.
    if n_wanted == 1 or is_forked_child:
        add_running(&n_running, 1)
        return 1
    now = time.monotonic()
    n_wanted = min(n_wanted, allowed_threads(now))
    n_now = add_running(&n_running, 1)
    if n_now >= n_at_once or now >= crowd_until:
        n_at_once = n_now
        crowd_until = now + CROWD_SECONDS
    return team_to_be_had(<int>max(<size_t>1, n_wanted // <size_t>n_at_once))
