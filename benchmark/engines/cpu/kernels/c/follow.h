/* The mask products of a map that is being finished. */
#ifndef SAIBENCH_FOLLOW_H
#define SAIBENCH_FOLLOW_H

#include "kernels.h"

/* Runs a narrow 1x1 convolution on n rows of `channels` floats. */
void saibench_run_follow(const saibench_follow *follow, const float *const *rows, float *const *out, int channels,
                         int n);

#endif
