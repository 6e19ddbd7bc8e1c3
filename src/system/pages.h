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

#endif
