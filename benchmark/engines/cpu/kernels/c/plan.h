/* A network as one thing to run: what `benchmark.nn.work` describes of each block, compiled (engines/cpu/compiling.py),
 * and images of one size through all of it in one call. What no kernel does (a mask's own forward, the nearest sampled
 * position) is asked of the caller in between: `saibench_request`. descriptions.py checks every number in here. */
#ifndef SAIBENCH_PLAN_H
#define SAIBENCH_PLAN_H

#include "arena.h"
#include "kernels.h"

/* Maps of images of one size, one after the other. */
typedef struct {
    int images, height, width;
} saibench_extent;

/* A convolution; a run sets the map's size in its geometry. `row` is its row in the tally; `after` is the convolution
 * that runs next, or NULL. */
typedef struct plan_conv {
    saibench_geometry walk;
    int outputs, row, half; /* half: weights are bfloat16 */
    const float *packed, *bias;
    const struct plan_conv *after;
} plan_conv;

/* Positions of a map, in terms of the block's masks (`benchmark.nn.work.Region`). `of` is the region inside. */
enum { REGION_EVERYWHERE, REGION_SAMPLED, REGION_SUBSAMPLED, REGION_READ_BY };
typedef struct {
    int kind, mask, of, stride_y, stride_x;
    saibench_geometry walk;
} plan_region;

enum { FILL_NONE, FILL_ZEROS, FILL_WINDOW, FILL_NEAREST, FILL_REUSE };
typedef struct {
    int kind, row, window, needed, squared;
    const float *num, *den;
} plan_fill;

/* How a mask is decided: by a kernel, 0 or 1 or the logit above 0; by its class from the kernel's logits, or by its own forward. `pass` and `first`:
 * its products in the block's passes; `index`: its number in the network. */
enum { MASK_HARD, MASK_RELU, MASK_VALUES, MASK_FORWARD };
typedef struct {
    int kind, index, number, late, pass, first, grid, stochastic, row;
    float bias;
    saibench_geometry walk;
} plan_mask;

/* One pass over a map: the products of one or two masks, by a narrow 1 x 1 convolution. */
typedef struct {
    plan_conv products;
    int late;
} plan_pass;

#define PLAN_REGIONS 16
#define PLAN_MASKS 3
typedef struct {
    int convolutions; /* 2: basic, 3: bottleneck */
    plan_conv conv[3], shortcut, offset;
    int has_shortcut, has_offset, bilinear_row;
    int computes[3]; /* regions */
    plan_fill fill[3];
    int commutes; /* whether conv3 may run on the samples of conv2's fill */
    const int32_t *places; /* channels that a pruned last convolution has in the block's map; else NULL */
    int masks, passes, regions;
    plan_mask mask[PLAN_MASKS];
    plan_pass pass[PLAN_MASKS];
    plan_region region[PLAN_REGIONS];
} plan_block;

typedef struct {
    int convolutions, pool_kernel, pool_stride, pool_padding, pool_row;
    plan_conv *conv;
    const int32_t *places;
    int width; /* channels with those of a pruned last convolution */
} plan_stem;

typedef struct {
    plan_stem stem;
    int blocks, rows, observed; /* rows: of the tally; observed: whether masks read what others have decided */
    plan_block *block;
} saibench_network;

/* Says what runs after each convolution of a block, and after the last one of the block before; that one is set. */
void saibench_link_block(saibench_network *network, int which);

/* What is asked of the caller, about `images` images from `image` on; each answer is written to `out`. */
enum {
    ASK_VALUES,  /* of a mask: M (out_size) of its logits `in` (out_size) */
    ASK_FORWARD, /* of a mask: M (out_size) of the map `in` (size, channels) */
    ASK_DECIDED, /* nothing: tells that a mask is `in` (out_size) */
    ASK_NEAREST, /* the position (int32) whose row fills each one, by the mask `in` (out_size) */
    ASK_SOURCE   /* the map `in` (size, channels) brought to (out_size, out_channels) */
};
typedef struct {
    int what, block, number, image, channels, out_channels;
    saibench_extent size, out_size;
    const float *in;
    void *out;
} saibench_request;

/* Blocks that run for `group` images at a time before the next ones do. The more images, the more positions a panel of
 * weights serves while it is in cache; the fewer, the more of their maps are. */
typedef struct {
    int first, last, group;
} plan_phase;

/* What one group of images needs while it runs; `products` has room for the products of any block's masks, and may be
 * the stem's map. */
typedef struct {
    float *stem_map, *scattered, *features, *products;
    saibench_arena *memory;
} plan_workspace;

/* Images of one size. Maps and masks are the caller's, those of the images one after the other: `maps` where each block
 * ends, `masks` by a mask's index; `given`, masks in place of the decided ones, by image and index (each, or all of it,
 * NULL); `keys` two words by image and mask. With one workspace all threads run one group; with more, each workspace has
 * a thread of its own and groups of its own. `macs` are those executed, by image and row; `beyond`, which may be below
 * zero, is what of them was not needed: the plan may take a way with more multiply-accumulates and less time. `seconds`
 * are by workspace and row. */
typedef struct {
    int images, height, width, threads, phases, workspaces, mask_count;
    const float *const *image;
    const plan_phase *phase;
    const plan_workspace *workspace;
    float *const *maps;
    const int64_t *map_sizes, *mask_sizes; /* floats of one image */
    float *const *masks;
    const float *const *given;
    const uint64_t *keys;
    int64_t *macs, *beyond;
    double *seconds;
    int (*ask)(void *caller, const saibench_request *request);
    void *caller;
    int wrong_image, wrong_mask; /* which an error is about */
} saibench_run_args;

enum { PLAN_DONE, PLAN_NO_MEMORY, PLAN_BAD_IMAGE, PLAN_BAD_MASK, PLAN_ASKED_IN_VAIN, PLAN_OUTSIDE };
int saibench_run_network(const saibench_network *network, saibench_run_args *args);

#endif
