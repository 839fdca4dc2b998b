/* The operators as plans call them: with everything that one kernel run is told in one place. */
#ifndef SAIBENCH_OPERATORS_H
#define SAIBENCH_OPERATORS_H

#include "kernels.h"

/* The convolution that runs after one, as far as is known before: its weights are fetched while the last ones of the
 * one before are used. */
typedef struct {
    const saibench_geometry *g;
    const float *packed; /* NULL: not known */
    int outputs;
} conv_after;

/* One convolution (kernels.h says what each field is). Without `positions` it runs at first .. first + n - 1. */
typedef struct {
    const saibench_geometry *g;
    const float *input, *packed, *bias;
    int outputs;
    const int32_t *positions;
    int first, n;
    const float *offsets;
    float *out;
    int out_stride, scatter;
    const float *residual, *scale;
    int relu, narrow;
    const saibench_follow *follow;
    conv_after after;
} conv_call;

/* 0, SAIBENCH_NO_MEMORY or SAIBENCH_OUTSIDE. */
int saibench_run_conv(const conv_call *c, int threads);

/* Multiply-accumulates of one position. */
int64_t saibench_conv_macs(const saibench_geometry *g, int outputs);

#endif
