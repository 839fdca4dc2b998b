/* The engine's operators. float32, channels last: a map of height H and width W with C channels is H*W rows of C floats,
 * and the maps of several images of one size lie one after the other: image i begins at row i*H*W. Nothing here allocates
 * the caller's memory, validates its arguments (descriptions.py does, for whole networks) or knows about networks.
 *
 * Every function with a `threads` argument runs on that many threads at most, 1 to 256 (threads.h says how). */
#ifndef SAIBENCH_KERNELS_H
#define SAIBENCH_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Where a convolution's output position reads its input. `row_taps` is for few input channels (the stem): a tap is
 * then one kernel row, kernel_w * channels contiguous floats of an input that carries its own zero border. */
typedef struct {
    int images;                 /* whose maps lie one after the other; no tap reads another image's */
    int height, width;          /* input map, border included if row_taps */
    int out_width;              /* positions are (image * out_height + y) * out_width + x */
    int channels;               /* of the input */
    int kernel_h, kernel_w, stride, padding, dilation;
    int row_taps;
} saibench_geometry;

/* Taps of a geometry and floats of one tap. */
int saibench_taps(const saibench_geometry *g);
int saibench_tap_length(const saibench_geometry *g);
/* Rows of the output map of one image. */
int saibench_out_height(const saibench_geometry *g);

/* Instruction sets: 0 portable, 1 AVX2 + FMA, 2 AVX-512. `best` is the highest that this CPU and this build have. */
int saibench_best_isa(void);
int saibench_use_isa(int isa); /* 0, or -1 if the CPU or the build does not have it */
const char *saibench_isa_name(void);

/* Floats of packed weights for `outputs` columns of `depth` = taps * tap length. */
size_t saibench_packed_size(int outputs, int depth);
/* Packs weights (outputs, depth), row-major, depth ordered as taps x channels, for the selected instruction set. */
void saibench_pack(const float *weights, int outputs, int depth, float *packed);
/* The same as bfloat16 in half of the floats, two weights a word; sums stay float32. */
void saibench_pack_half(const float *weights, int outputs, int depth, float *packed);
/* The same for the narrow kernel (masks and offsets), which has so many outputs at most: the portable five vectors. */
#define SAIBENCH_NARROW_LIMIT 20
size_t saibench_narrow_size(int outputs, int depth);
void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed);

/* A narrow 1x1 convolution that follows on rows that are just finished, while they are in cache: `out` has `outputs`
 * floats for each row of the map that it follows. */
typedef struct {
    const float *packed;
    int outputs;
    float *out;
} saibench_follow;

/* Sums the shifted taps of a mask convolution: products (H*W, columns) holds, for each input position, one product
 * per tap; `first` is the column of the mask's tap 0. Gives the logits (images, out_height, out_width); or, hard, 1 where
 * a logit exceeds its threshold (NULL: 0), else 0; or, rectified, the logit where it is above 0, else 0. With `grid`, the
 * mask has 1 at least on every `grid`-th row and column. */
enum { MASK_LOGITS, MASK_IS_HARD, MASK_IS_RECTIFIED };
void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias, int decide,
                   const float *threshold, int grid, float *out, int threads);

/* A stochastic mask of its logits (height, width), which may be `out`: 1 where a logit exceeds log u - log(1 - u) and on
 * every `grid`-th row and column (0: none), else 0. u is what NumPy's Philox draws for the key (two words). */
void saibench_decide(const uint64_t *key, int height, int width, const float *logits, int grid, float *out,
                     int threads);

/* Counts the sampled (> 0) positions of a mask (H, W): starts (H + 1) gets the number before each row. Returns 1 if all
 * values are 0 or 1, 0 if not, -1 if one is negative, infinite or no number. */
int saibench_count_samples(const float *mask, int height, int width, int32_t *starts, int threads);
/* Lists them in order into positions (starts[H]). */
void saibench_list_samples(const float *mask, int height, int width, const int32_t *starts, int32_t *positions,
                           int threads);
/* Fills index (images, H + 2 * radius, W + 2 * radius) with each sampled position's row, else -1: the position itself, or
 * its number in order modulo `ring` (0: its position). */
void saibench_index_samples(const int32_t *positions, const int32_t *starts, int images, int height, int width,
                            int radius, int ring, int32_t *index, int threads);

/* Marks in wanted (H, W) the positions that a convolution with these sampled output positions reads; with the map's own
 * mask (H, W; NULL: none), only those where it is not 1: those to interpolate for it. */
void saibench_positions_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts,
                             const float *mask, uint8_t *wanted, int threads);

/* Added to the denominator of every interpolation (paper, text below eq. 3). */
#define SAIBENCH_EPSILON 1e-5f
/* Floats between rows of so many channels that an interpolation reads: up to fifty rows are read at once, and at a
 * distance that is a power of two they would share a few sets of L1. */
int saibench_row_distance(int channels);

/* Interpolation and the end of a block: for each position of rows [row0, row1) that is `wanted` (a map; NULL: all)
 *     out = relu(own + (1 - M) * sum_q num(q) * rows(q) / (sum_q den(q) * M(q) + epsilon) + bias + residual)
 * over the sampled positions q of the window. `index` (H + window - 1, W + window - 1) holds the row of each sampled
 * position or -1, with a border of -1; `gate` is M with the same border, or NULL for a 0/1 mask; `rows` already carry
 * the factor M and are `row_stride` floats apart. `nearest`, if given, names the one row that fills a position, with
 * weight 1, instead of the window.
 * num == NULL and nearest == NULL fill with zeros; `squared` multiplies `own` by M once more (eq. 4 in eq. 5).
 * `follow`, if given, runs on all positions of the rows, so nothing but all may then be wanted. Rows are those of all
 * images in order; `out`, `residual` begin with row `out_row`. The (position, neighbour) pairs summed are added to
 * `pairs`, by image. */
typedef struct {
    int height, width, window, channels, row_stride, out_row;
    const int32_t *index;
    const float *gate, *num, *den;
    const int32_t *nearest;
    const float *rows, *bias, *residual;
    float *out;
    int relu, squared;
    int64_t *pairs;
} saibench_blend_args;
void saibench_blend(const saibench_blend_args *a, const uint8_t *wanted, int row0, int row1,
                    const saibench_follow *follow, int threads);

/* The largest kernel of a max pooling. */
#define MAX_POOL 15

/* Max pooling with implicit -inf border, out rows [row0, row1) of (out_height, out_width, C); `input` holds the input
 * map from row `input_row0` on. */
void saibench_max_pool(const float *input, int input_row0, int height, int width, int channels, int kernel, int stride,
                       int padding, int row0, int row1, int out_width, float *out, int threads);

/* (C, H, W) to (H + 2 * border, W + 2 * border, C), zero border. Returns whether all values are finite. */
int saibench_channels_last(const float *input, int channels, int height, int width, int border, float *out,
                           int threads);

#endif
