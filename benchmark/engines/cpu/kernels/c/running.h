/* What the files of a plan share: the state of a group of images and of one block, and how they take memory and time. */
#ifndef SAIBENCH_RUNNING_H
#define SAIBENCH_RUNNING_H

#include "operators.h"
#include "plan.h"

#include <setjmp.h>

/* Bytes that one kernel leaves to the next at a time: they stay in cache between the two. */
#define BAND_BYTES (3 << 20)

/* A mask's sampled positions, listed, those of the images in order. */
typedef struct {
    saibench_extent size;
    const float *mask;
    int32_t *starts, *positions; /* starts: how many are sampled before each row of the map, the images' in order */
    int n, binary, listed;
} sample_list;

/* A group of images, `first` on. An error anywhere leaves by `failed`: no kernel is running then, and all memory is the
 * arena's. */
typedef struct {
    const saibench_network *network;
    saibench_run_args *args;
    const plan_workspace *space;
    double *seconds;
    int first, images, threads;
    saibench_follow follow; /* the products of the next block's first pass */
    int follows, followed;  /* whether there is one to follow, and whether a kernel has */
    int wrong_image, wrong_mask;
    jmp_buf failed;
} group_run;

/* One block on a group of images. */
typedef struct {
    group_run *run;
    const plan_block *block;
    int index;
    const float *x;
    saibench_extent size, sizes[3];
    float *out;
    int channels; /* of the block's map */
    sample_list decided[PLAN_MASKS + 1], lists[PLAN_REGIONS];
} block_run;

static inline int plan_rows(saibench_extent size) { return size.images * size.height; }
static inline size_t plan_area(saibench_extent size) { return (size_t)plan_rows(size) * size.width; }

void *plan_take(group_run *run, size_t bytes);
void plan_fail(group_run *run, int error);
double plan_now(void);
void plan_ask(group_run *run, saibench_request request);

/* Adds to the tally of an image of the group. */
void plan_count(group_run *run, int image, int row, int64_t macs);

saibench_extent plan_out_size(const saibench_geometry *walk, saibench_extent in);
/* A call of a convolution on a map, at all positions; `g` has to last as long as the call. */
conv_call plan_call(const plan_conv *conv, saibench_geometry *g, const float *x, saibench_extent in, float *out);

/* The positions that a call computes, for the tally: those of a list, or all of a map, from number `begin` on. */
typedef struct {
    const sample_list *samples; /* NULL: all */
    saibench_extent size;
    int begin;
} plan_span;
/* How many of `n` positions of a span belong to an image of the group. */
int plan_of_image(const plan_span *span, int n, int image);
/* Runs a convolution and adds its seconds to a row of the tally; or those and its multiply-accumulates. */
void plan_conv_time(group_run *run, const conv_call *call, int row);
void plan_conv_run(group_run *run, const conv_call *call, int row, plan_span span);

/* Decides the block's masks, early or late, from a map (`size`, `channels`), and lists what they sample. */
void plan_decide(block_run *k, int late, const float *x, saibench_extent size, int channels);
void plan_list(group_run *run, const float *mask, saibench_extent size, sample_list *list);

/* A region as samples (NULL: everywhere), as positions (NULL: all), and those of it that a mask leaves out. */
const sample_list *plan_samples(block_run *k, int region, saibench_extent size);
const uint8_t *plan_positions(block_run *k, int region, saibench_extent size);
const uint8_t *plan_missing(block_run *k, int region, const sample_list *samples);

/* The products of the next block's masks, for whoever finishes the rows of this one's map; NULL where there are none. */
const saibench_follow *plan_follow(group_run *run);

/* Where the rows of a mask's samples are, with the border that a window needs. */
typedef struct {
    const sample_list *samples;
    int window;
    const int32_t *index;
    const float *gate;
} sample_index;
/* Compact rows are numbered in order, modulo `ring`; others by their position. */
sample_index plan_index(block_run *k, const sample_list *samples, int window, int compact, int ring);

/* What a fill is told besides its samples. Rows of the map are those of the images in order. */
typedef struct {
    const float *rows;
    int row_stride, channels;
    float *out;
    int out_row;         /* row of the map that `out` begins with */
    const float *source; /* for the reuse fill: the convolution's input, matched */
    const uint8_t *wanted;
    int row0, row1;
    const float *bias, *residual;
    int relu, ends; /* ends: this ends the block, whose map the next block's mask products follow */
} fill_call;
/* Runs a fill; adds the (missing position, sampled neighbour) pairs that it summed to `pairs`, by image. */
void plan_fill_run(block_run *k, const plan_fill *fill, const sample_index *index, const fill_call *f, int64_t *pairs);
/* What convolution `number` reads, brought to its output's shape, for a reuse fill; else NULL. */
const float *plan_source(block_run *k, int number, const float *read);
/* M at the sampled positions; NULL if it is 1 at all of them. */
const float *plan_scale(block_run *k, const sample_list *samples);
/* The positions of the block's map that a fill at its end changes; NULL for all. */
const uint8_t *plan_changed(block_run *k, int number, const sample_list *samples);
/* Pairs of a mask (`sparsity.neighbour_pairs`, all positions needed), by image. */
void plan_pairs(block_run *k, const sample_list *samples, int window, int64_t *pairs);
/* Zeros, one for each image. */
int64_t *plan_zeros(group_run *run);

/* Parts of a block: conv1 with its fill, the shortcut, and the two ends that all blocks may have, the last convolution
 * at its samples with a fill of its own, or everywhere. */
float *plan_first(block_run *k);
void plan_shortcut(block_run *k);
void plan_end_filled(block_run *k, const float *y, const sample_list *samples);
void plan_end_dense(block_run *k, const float *y);

void plan_basic(block_run *k);
void plan_bottleneck(block_run *k);

/* conv2 of a bottleneck at a run of its positions at a time. */
typedef struct {
    const float *features, *offsets;
    const sample_list *samples; /* NULL: everywhere */
} plan_second;
void plan_second_run(block_run *k, const plan_second *s, int begin, int n, float *out, const float *scale);
/* conv3 on all positions of some rows of the map, added to the shortcut. `features` has conv2's rows: those of these
 * positions in order, or, with `at`, `held` rows of which it names one for each position. */
void plan_third_rows(block_run *k, const float *features, const int32_t *at, int held, int first, int last,
                     const saibench_follow *follow);

/* The two orders of conv3 and the fill before it. `filled` is the convolution whose fill it is: 3, or 2 which trades
 * places with conv3. */
void plan_samples_first(block_run *k, const plan_second *s, const sample_list *samples, int filled);
void plan_fill_first(block_run *k, const plan_second *s);
/* Whether conv3 takes fewer multiply-accumulates on the samples (`sparsity.conv3_plan`). */
int plan_fewer_on_samples(const plan_conv *conv, int64_t samples, int64_t pairs, int64_t positions);
/* Notes what ran beyond what an image needed by itself, where conv3 ran everywhere though fewer multiply-accumulates would
 * have done on the samples, or the other way round for an image of a group. */
void plan_note_beyond(block_run *k, const sample_list *samples, const int64_t *pairs, int ran_on_samples);

/* Bands of rows: at most BAND_BYTES each, as equal as they can be; the row at which band i begins; where rows of a ring
 * stop lying side by side, at the ring's end or at `end`; the most samples of a band and `above` rows before it. */
int plan_bands(int rows, double row_bytes);
int plan_edge(int rows, int count, int i);
int plan_ring_until(int i, int end, int held);
int plan_most_samples(const sample_list *samples, int count, int above);

const float *plan_stem_run(group_run *run, saibench_extent *size);
void plan_block_run(block_run *k);

#endif
