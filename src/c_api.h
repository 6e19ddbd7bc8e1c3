/* The table of the C interface. c_api.c fills it, except the functions on Python objects, which c_api.pxi adds. */
#ifndef CDROPOUT_C_API_H
#define CDROPOUT_C_API_H

#include "../cdropout/include/cdropout_table.h"

extern cdropout_table c_api_table;

#endif
