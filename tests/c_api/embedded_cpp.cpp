// The C module, compiled as C++17.
#define MODULE embedded_cpp
#include "embedded_c.c"
