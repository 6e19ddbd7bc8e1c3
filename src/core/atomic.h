/* Atomic operations on int and uint64_t, for position.h, active_calls.h and the .pxi files. ATOMIC_STORE has release
 * order and ATOMIC_LOAD acquire order; the others are relaxed. */
#ifndef CDROPOUT_ATOMIC_H
#define CDROPOUT_ATOMIC_H

#if defined(__GNUC__)
#define ATOMIC_LOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ATOMIC_STORE(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define ATOMIC_ADD(p, change) __atomic_add_fetch(p, change, __ATOMIC_RELAXED)
#define ATOMIC_EXCHANGE_IF(p, seen, wanted) \
    __atomic_compare_exchange_n(p, seen, wanted, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
#elif defined(Py_GIL_DISABLED)
#error "a build for a free-threaded Python needs a compiler with the __atomic builtins (gcc, clang)"
#else /* MSVC: correct for callers with the GIL; without it, ATOMIC_ADD may lose a count of active calls */
#define ATOMIC_LOAD(p) (*(p))
#define ATOMIC_STORE(p, value) ((void)(*(p) = (value)))
#define ATOMIC_ADD(p, change) (*(p) += (change))
#define ATOMIC_EXCHANGE_IF(p, seen, wanted) (*(p) = (wanted), 1)
#endif

#endif
