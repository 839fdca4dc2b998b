/* The operators as plans call them: with everything that one kernel run is told in one place. */
#ifndef SAIBENCH_OPERATORS_H
#define SAIBENCH_OPERATORS_H

#include "kernels.h"

/* The convolution that runs after one, as far as is known before: its weights are fetched while the last ones of the
 * one before are used. */
typedef struct {
    const saibench_geometry *g;
    const float *packed; /* NULL: not known */
    int outputs, half;
} conv_after;

/* One convolution at `n` positions: those listed or, without `positions`, first .. first + n - 1. Row i of `out`, or row
 * positions[i] with `scatter`, is scale * relu(sum + bias + residual) of position i, each part optional. Rows of `out` are
 * `out_stride` floats apart, those of `residual` lie side by side and are numbered as those of `out`. `bias` is as long as
 * saibench_bias_size; with `half`, weights are those of saibench_pack_half. With `offsets` (n, 2 * taps), pairs (dy, dx), it is an unmodulated deformable convolution of one
 * offset group; `narrow` ones have few outputs, weights of saibench_narrow_pack, and a bias and no other part. */
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
    int relu, narrow, half;
    const saibench_follow *follow;
    conv_after after;
} conv_call;

/* What it returns besides 0; a position outside of the map is neither read nor written. */
#define SAIBENCH_NO_MEMORY 1
#define SAIBENCH_OUTSIDE 2

int saibench_run_conv(const conv_call *c, int threads);

/* Multiply-accumulates of one position. */
int64_t saibench_conv_macs(const saibench_geometry *g, int outputs);

#endif
