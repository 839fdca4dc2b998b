/* The engine's kernels: what `_kernels.pyx` calls. float32, channels last: a map of height H and width W with C
 * channels is H*W rows of C floats. Nothing here allocates the caller's memory, validates its arguments (that are the
 * Python functions of this package) or knows about networks.
 *
 * Every function with a `threads` argument runs on that many threads at most, 1 to 256 (threads.h says how). */
#ifndef SAIBENCH_KERNELS_H
#define SAIBENCH_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* Where a convolution's output position reads its input. `row_taps` is for few input channels (the stem): a tap is
 * then one kernel row, kernel_w * channels contiguous floats of an input that carries its own zero border. */
typedef struct {
    int height, width;          /* input map, border included if row_taps */
    int out_width;              /* positions are y * out_width + x */
    int channels;               /* of the input */
    int kernel_h, kernel_w, stride, padding, dilation;
    int row_taps;
} saibench_geometry;

/* Taps of a geometry and floats of one tap. */
int saibench_taps(const saibench_geometry *g);
int saibench_tap_length(const saibench_geometry *g);

/* Instruction sets: 0 portable, 1 AVX2 + FMA, 2 AVX-512. `best` is the highest that this CPU and this build have. */
int saibench_best_isa(void);
int saibench_use_isa(int isa); /* 0, or -1 if the CPU or the build does not have it */
const char *saibench_isa_name(void);

/* Floats of packed weights for `outputs` columns of `depth` = taps * tap length. */
size_t saibench_packed_size(int outputs, int depth);
/* Packs weights (outputs, depth), row-major, depth ordered as taps x channels, for the selected instruction set. */
void saibench_pack(const float *weights, int outputs, int depth, float *packed);
/* The same for the narrow kernel (masks and offsets: few outputs). */
size_t saibench_narrow_size(int outputs, int depth);
void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed);

/* A narrow 1x1 convolution that follows on rows that are just finished, while they are in cache: `out` has `outputs`
 * floats for each row of the map that it follows. */
typedef struct {
    const float *packed;
    int outputs;
    float *out;
} saibench_follow;

/* Convolution at `n` positions (NULL: positions 0 .. n-1). Rows of `out` are `out_stride` floats apart. `bias` is padded
 * to a whole panel (as long as saibench_bias_size). Position i is written to row i of `out`, or to row positions[i] when
 * `scatter`; `residual` has the same rows as `out`. out = scale[i] * relu(conv + bias + residual), each part optional; so
 * is `follow`. */
/* What the three convolutions return besides 0; a position outside of the map is neither read nor written. */
#define SAIBENCH_NO_MEMORY 1
#define SAIBENCH_OUTSIDE 2
size_t saibench_bias_size(int outputs);
int saibench_conv(const saibench_geometry *g, const float *input, const float *packed, const float *bias, int outputs,
                  const int32_t *positions, int n, float *out, int out_stride, int scatter, const float *residual,
                  const float *scale, int relu, const saibench_follow *follow, int threads);

/* The same with few outputs and no epilogue: out (n, outputs), bias optional (not padded). */
int saibench_narrow(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                    int outputs, const int32_t *positions, int n, float *out, int scatter, int threads);

/* Unmodulated deformable convolution, one offset group: offsets (n, 2 * taps) as (dy, dx) pairs. */
int saibench_deform(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                    int outputs, const int32_t *positions, int n, const float *offsets, float *out, int scatter,
                    const float *scale, int relu, int threads);

/* Sums the shifted taps of a mask convolution: products (H*W, columns) holds, for each input position, one product
 * per tap; `first` is the column of the mask's tap 0. Gives the logits (out_height, out_width) or, if `decide`, 1 where
 * a logit exceeds its threshold (NULL: 0) and on every `grid`-th row and column (0: none), else 0. */
void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias,
                   int out_height, int decide, const float *threshold, int grid, float *out, int threads);

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
/* Fills index (H + 2 * radius, W + 2 * radius) with each sampled position's row, else -1: the position itself, or its
 * number in order modulo `ring` (0: its position). */
void saibench_index_samples(const int32_t *positions, const int32_t *starts, int height, int width, int radius,
                            int ring, int32_t *index, int threads);

/* Marks in wanted (H, W) the positions that a convolution with these sampled output positions reads; with the map's own
 * mask (H, W; NULL: none), only those where it is not 1: those to interpolate for it. */
void saibench_positions_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts,
                             int out_height, const float *mask, uint8_t *wanted, int threads);

/* Interpolation and the end of a block: for each position of rows [row0, row1) that is `wanted` (a map; NULL: all)
 *     out = relu(own + (1 - M) * sum_q num(q) * rows(q) / (sum_q den(q) * M(q) + eps) + bias + residual)
 * over the sampled positions q of the window. `index` (H + window - 1, W + window - 1) holds the row of each sampled
 * position or -1, with a border of -1; `gate` is M with the same border, or NULL for a 0/1 mask; `rows` already carry
 * the factor M and are `row_stride` floats apart. `nearest`, if given, names the one row that fills a position, with
 * weight 1, instead of the window.
 * num == NULL and nearest == NULL fill with zeros; `squared` multiplies `own` by M once more (eq. 4 in eq. 5).
 * `follow`, if given, runs on all positions of the rows, so nothing but all may then be wanted. Returns the number of
 * (position, neighbour) pairs summed. */
typedef struct {
    int width, window, channels, row_stride;
    const int32_t *index;
    const float *gate, *num, *den;
    const int32_t *nearest;
    float eps;
    const float *rows, *bias, *residual;
    float *out;
    int relu, squared;
} saibench_blend_args;
int64_t saibench_blend(const saibench_blend_args *a, const uint8_t *wanted, int row0, int row1,
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
