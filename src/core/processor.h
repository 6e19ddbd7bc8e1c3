/* Which vector instructions an x86-64 processor and its operating system support. From CPUID and XGETBV, because
 * __builtin_cpu_supports needs a part of the compiler's library: with `zig cc` it answers 0, for MSVC's target it does
 * not link. */
#ifndef CDROPOUT_PROCESSOR_H
#define CDROPOUT_PROCESSOR_H

#include <stdint.h>

#if defined(__x86_64__)

/* What CPUID and XGETBV return: the largest leaf, ECX of leaf 1, EBX of leaf 7, and the register XCR0, in which the
 * operating system tells which registers it saves when it switches between threads. */
typedef struct {
    uint32_t max_leaf, leaf1_ecx, leaf7_ebx;
    uint64_t xcr0;
} processor_answers;

enum {
    LEAF1_ECX_OSXSAVE = 27, /* numbers of bits; this one: XGETBV may be called */
    LEAF1_ECX_AVX = 28,
    LEAF1_ECX_F16C = 29,
    LEAF7_EBX_AVX2 = 5,
    LEAF7_EBX_BMI2 = 8,
    LEAF7_EBX_AVX512F = 16,
    LEAF7_EBX_AVX512DQ = 17,
    LEAF7_EBX_AVX512BW = 30,
    LEAF7_EBX_AVX512VL = 31,
    XCR0_YMM = 0x06, /* masks: the registers of SSE and AVX */
    XCR0_ZMM = 0xE0, /* those that AVX-512 adds */
};

static inline void read_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                     : "0"(leaf), "2"(subleaf));
}

static inline processor_answers ask_processor(void)
{
    processor_answers answers = {0, 0, 0, 0};
    uint32_t registers[4];
    read_cpuid(0, 0, registers);
    answers.max_leaf = registers[0];
    read_cpuid(1, 0, registers);
    answers.leaf1_ecx = registers[2];
    if (answers.max_leaf >= 7) {
        read_cpuid(7, 0, registers);
        answers.leaf7_ebx = registers[1];
    }
    if (answers.leaf1_ecx >> LEAF1_ECX_OSXSAVE & 1) {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        answers.xcr0 = (uint64_t)high << 32 | low;
    }
    return answers;
}

/* Whether the kernels of isa/avx2.c run: AVX2 and F16C. */
static inline int supports_avx2(processor_answers answers)
{
    return (answers.leaf1_ecx >> LEAF1_ECX_OSXSAVE & 1) && (answers.xcr0 & XCR0_YMM) == XCR0_YMM &&
           (answers.leaf1_ecx >> LEAF1_ECX_AVX & 1) && (answers.leaf1_ecx >> LEAF1_ECX_F16C & 1) &&
           answers.max_leaf >= 7 && (answers.leaf7_ebx >> LEAF7_EBX_AVX2 & 1);
}

/* Whether the kernels of isa/avx512.c run: F, BW, DQ and VL, BMI2 and all that AVX2 needs, as every such processor has.
 * macOS saves the registers from a thread's first AVX-512 instruction on, and sets their bits of XCR0 only then. */
static inline int supports_avx512(processor_answers answers)
{
#if defined(__APPLE__)
    const int is_saved = 1;
#else
    const int is_saved = (answers.xcr0 & XCR0_ZMM) == XCR0_ZMM;
#endif
    return supports_avx2(answers) && is_saved && (answers.leaf7_ebx >> LEAF7_EBX_BMI2 & 1) &&
           (answers.leaf7_ebx >> LEAF7_EBX_AVX512F & 1) && (answers.leaf7_ebx >> LEAF7_EBX_AVX512DQ & 1) &&
           (answers.leaf7_ebx >> LEAF7_EBX_AVX512BW & 1) && (answers.leaf7_ebx >> LEAF7_EBX_AVX512VL & 1);
}

#endif

#endif
