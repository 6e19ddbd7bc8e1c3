/* Runs TestU01's batteries SmallCrush and Rabbit (P. L'Ecuyer and R. Simard, ACM TOMS 33(4), 2007) on standard input,
 * whose bytes are taken as 32-bit words in the machine's order. docs/quality.md has the commands.
 *
 *     testu01 BITS        the number of bits that Rabbit reads */
#include "TestU01.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned int next_word(void)
{
    static unsigned int words[1 << 14];
    static size_t at, n;
    if (at == n) {
        n = fread(words, sizeof *words, sizeof words / sizeof *words, stdin);
        at = 0;
        if (n == 0) {
            fprintf(stderr, "testu01: standard input has ended\n");
            exit(2);
        }
    }
    return words[at++];
}

int main(int n_arguments, char **arguments)
{
    static char name[] = "standard input";
    const double n_bits = n_arguments == 2 ? atof(arguments[1]) : 0.0;
    if (n_bits < 500.0) { /* the least that Rabbit takes */
        fprintf(stderr, "usage: testu01 BITS\n");
        return 2;
    }
    unif01_Gen *generator = unif01_CreateExternGenBits(name, next_word);
    bbattery_SmallCrush(generator);
    bbattery_Rabbit(generator, n_bits);
    unif01_DeleteExternGenBits(generator);
    return 0;
}
