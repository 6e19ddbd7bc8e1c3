/* Atomic operations on int and uint64_t, for position.h, active_calls.h and the .pxi files. ATOMIC_STORE has release
 * order and ATOMIC_LOAD acquire order; the others are relaxed. */
#ifndef CDROPOUT_ATOMIC_H
#define CDROPOUT_ATOMIC_H

#include "compiler.h"

#define ATOMIC_LOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ATOMIC_STORE(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define ATOMIC_ADD(p, change) __atomic_add_fetch(p, change, __ATOMIC_RELAXED)
#define ATOMIC_EXCHANGE_IF(p, seen, wanted) \
    __atomic_compare_exchange_n(p, seen, wanted, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)

#endif
