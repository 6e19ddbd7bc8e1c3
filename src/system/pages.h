/* Large pages for memory that is about to be written for the first time. */
#ifndef CDROPOUT_PAGES_H
#define CDROPOUT_PAGES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Asks for them, for the whole pages inside; a system without them, or that refuses, changes nothing but the time. */
static inline void ask_for_huge_pages(char *first, size_t n_bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    enum { PAGE_BYTES = 4096 }; /* or more: then the call fails, unless the memory happens to lie right */
    size_t before = (size_t)(-(uintptr_t)first) % PAGE_BYTES;
    if (n_bytes > before)
        (void)madvise(first + before, (n_bytes - before) / PAGE_BYTES * PAGE_BYTES, MADV_HUGEPAGE);
#else
    (void)first;
    (void)n_bytes;
#endif
}

#endif
