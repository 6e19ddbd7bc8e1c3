/* Running a range of a job of job_plan_squares, for job_run.c. */
#ifndef CDROPOUT_SQUARES_H
#define CDROPOUT_SQUARES_H

#include "job.h"

/* Elements begin .. end - 1, whole units or up to the end. */
void run_squares(const job *j, size_t begin, size_t end);

#endif
