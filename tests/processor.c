/* Prints whether AVX2 and AVX-512 are supported: by core/processor.h, and by the compiler's builtin. Arguments, if
 * there are any, are made-up answers of the processor in hexadecimal: the largest leaf, ECX of leaf 1, EBX of leaf 7,
 * XCR0. */
#include "../src/core/processor.h"

#include <stdio.h>
#include <stdlib.h>

int main(int n_arguments, char **arguments)
{
    processor_answers answers = ask_processor();
    if (n_arguments == 5) {
        answers.max_leaf = (uint32_t)strtoul(arguments[1], NULL, 16);
        answers.leaf1_ecx = (uint32_t)strtoul(arguments[2], NULL, 16);
        answers.leaf7_ebx = (uint32_t)strtoul(arguments[3], NULL, 16);
        answers.xcr0 = strtoull(arguments[4], NULL, 16);
    }
    printf("%d %d", supports_avx2(answers), supports_avx512(answers));
    printf(" %d %d\n", __builtin_cpu_supports("avx2") != 0,
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("bmi2"));
    return 0;
}
