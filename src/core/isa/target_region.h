/* Compiles what lies between TARGET_REGION_BEGIN and TARGET_REGION_END for an instruction set, and nothing else: a flag
 * for the whole file would let the compiler put such code into shared inline functions, and an older processor would
 * meet it. */
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
