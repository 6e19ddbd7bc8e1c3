/* Large pages for large new arrays, which _kernels.expect_writing asks for. */
#ifndef CDROPOUT_PAGES_H
#define CDROPOUT_PAGES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#if !defined(MADV_HUGEPAGE)
#error "define _DEFAULT_SOURCE before the first header: without it, no large pages would be asked for"
#endif
#endif

/* Asks for large pages in the whole pages of a memory range that has not been written yet. If the system has none or
 * refuses, only the time of the first writing differs. */
static inline void ask_for_huge_pages(char *first, size_t n_bytes)
{
#if defined(__linux__)
    enum { PAGE_BYTES = 4096 }; /* on systems with larger ones, the call fails if the address is not aligned to them */
    size_t before = (size_t)(-(uintptr_t)first) % PAGE_BYTES;
    if (n_bytes > before)
        (void)madvise(first + before, (n_bytes - before) / PAGE_BYTES * PAGE_BYTES, MADV_HUGEPAGE);
#else
    (void)first;
    (void)n_bytes;
#endif
}

/* The same, also for the large pages that the range begins and ends in, whose other parts may belong to other arrays:
 * for an array inside a larger allocation. Of the large pages that such an array touches, the first and the last are
 * not inside it; an array of 2 MiB rarely contains a whole one. */
static inline void ask_for_huge_pages_around(char *first, size_t n_bytes)
{
    enum { HUGE_PAGE_BYTES = 2 << 20 }; /* of x86-64, and of ARM and RISC-V with pages of 4 KiB */
    const size_t before = (uintptr_t)first % HUGE_PAGE_BYTES;
    const size_t behind = (size_t)(-(uintptr_t)(first + n_bytes)) % HUGE_PAGE_BYTES;
    ask_for_huge_pages(first - before, before + n_bytes + behind);
}

#endif
