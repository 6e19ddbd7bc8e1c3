/* Compiles the code between TARGET_REGION_BEGIN(features) and TARGET_REGION_END for an instruction set. With a compiler
 * flag for the whole file instead, inline functions of other headers could be compiled for it, too, and the linker
 * might keep that copy for all callers, which an older processor cannot run. */
#ifndef CDROPOUT_TARGET_REGION_H
#define CDROPOUT_TARGET_REGION_H

#define REGION_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_REGION_BEGIN(features) \
    REGION_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_REGION_END REGION_PRAGMA(clang attribute pop)
#else
#define TARGET_REGION_BEGIN(features) \
    REGION_PRAGMA(GCC push_options)   \
    REGION_PRAGMA(GCC target(features))
#define TARGET_REGION_END REGION_PRAGMA(GCC pop_options)
#endif

#endif
