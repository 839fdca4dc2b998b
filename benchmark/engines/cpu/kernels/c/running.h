/* What the files of a plan share: the state of one image and of one block, and how they take memory and time. */
#ifndef SAIBENCH_RUNNING_H
#define SAIBENCH_RUNNING_H

#include "operators.h"
#include "plan.h"

#include <setjmp.h>

/* A mask's sampled positions, listed (the Python class `Samples`). */
typedef struct {
    saibench_extent size;
    const float *mask;
    int32_t *starts, *positions;
    int n, binary, listed;
} sample_list;

/* One image. An error anywhere leaves by `failed`: no kernel is running then, and all memory is the arena's. */
typedef struct {
    const saibench_network *network;
    saibench_run_args *args;
    saibench_arena *memory;
    int threads;
    saibench_follow follow; /* the products of the next block's first pass */
    int follows, followed;  /* whether there is one to follow, and whether a kernel has */
    jmp_buf failed;
} image_run;

/* One block on one image. */
typedef struct {
    image_run *run;
    const plan_block *block;
    int index;
    const float *x;
    saibench_extent size, sizes[3];
    float *out;
    int channels; /* of the block's map */
    sample_list decided[PLAN_MASKS + 1], lists[PLAN_REGIONS];
} block_run;

void *plan_take(image_run *run, size_t bytes);
void plan_fail(image_run *run, int error);
double plan_now(void);
void plan_ask(image_run *run, const saibench_request *request);

saibench_extent plan_out_size(const saibench_geometry *walk, saibench_extent in);
/* A call of a convolution on a map, at all positions; `g` has to last as long as the call. */
conv_call plan_call(const plan_conv *conv, saibench_geometry *g, const float *x, saibench_extent in, float *out);
/* Runs it and adds it to a row of the tally. */
void plan_conv_run(image_run *run, const conv_call *call, int row);

/* Decides the block's masks, early or late, from a map (`size`, `channels`), and lists what they sample. */
void plan_decide(block_run *k, int late, const float *x, saibench_extent size, int channels);
void plan_list(image_run *run, const float *mask, saibench_extent size, sample_list *list);

/* A region as samples (NULL: everywhere), as positions (NULL: all), and those of it that a mask leaves out. */
const sample_list *plan_samples(block_run *k, int region, saibench_extent size);
const uint8_t *plan_positions(block_run *k, int region, saibench_extent size);
const uint8_t *plan_missing(block_run *k, int region, const sample_list *samples);

/* The products of the next block's masks, for whoever finishes the rows of this one's map; NULL where there are none. */
const saibench_follow *plan_follow(image_run *run);

void plan_run_block(block_run *k);

#endif
