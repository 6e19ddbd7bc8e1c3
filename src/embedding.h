/* The C interface's table, which lacks nothing but the functions on Python's objects. */
#ifndef CDROPOUT_EMBEDDING_H
#define CDROPOUT_EMBEDDING_H

#include "../cdropout/include/cdropout_table.h"

extern cdropout_table embedding_table;

#endif
