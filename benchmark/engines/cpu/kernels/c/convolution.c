/* Convolutions at listed positions: wide, narrow (few outputs) and deformable. They share how positions become row
 * pointers, how work is shared out and what is checked; the arithmetic is the instruction set's. */
#include "follow.h"
#include "instruction_set.h"
#include "operators.h"
#include "threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tiles of one block: its positions' input rows and output columns share L2 with one panel of weights. Whole tiles, so
 * that only the last one of a block is a partial one. */
#define TILES 24
/* Floats of one job's bilinear samples: they stay in L2 beside a panel of weights. */
#define SAMPLES 114688
/* Panels of one job, where work is shared out by outputs. */
#define PANELS 4
/* Work is shared out by outputs where a convolution has so many times as many weights as its positions have
 * channels. */
#define INPUTS 4

int saibench_taps(const saibench_geometry *g) { return g->row_taps ? g->kernel_h : g->kernel_h * g->kernel_w; }

int saibench_tap_length(const saibench_geometry *g)
{
    return g->row_taps ? g->kernel_w * g->channels : g->channels;
}

int saibench_out_height(const saibench_geometry *g)
{
    return (g->height + 2 * (g->row_taps ? 0 : g->padding) - g->dilation * (g->kernel_h - 1) - 1) / g->stride + 1;
}

static int map_positions(const saibench_geometry *g) { return g->images * saibench_out_height(g) * g->out_width; }

/* Where each tap reads, as steps from where the first does. */
static void find_steps(const saibench_geometry *g, ptrdiff_t *steps)
{
    for (int u = 0; u < g->kernel_h; u++)
        for (int v = 0; v < (g->row_taps ? 1 : g->kernel_w); v++)
            *steps++ = ((ptrdiff_t)u * g->dilation * g->width + v * g->dilation) * g->channels;
}

/* Row pointers of `n` positions, taps innermost: where each tap of each position reads its channels. A tap outside of
 * the map reads a row of zeros, so that the inner kernels know no border. With `row_taps` the input has its own border,
 * and a tap is one kernel row: kernel_w * channels floats that lie side by side in memory. */
static void point(const saibench_geometry *g, const float *input, const float *zeros, const ptrdiff_t *steps,
                  const int32_t *positions, int first, int n, const float **rows)
{
    const int taps = saibench_taps(g), padding = g->row_taps ? 0 : g->padding;
    const int high = g->height - g->dilation * (g->kernel_h - 1), wide = g->width - g->dilation * (g->kernel_w - 1);
    const int out_height = saibench_out_height(g);
    const ptrdiff_t image = (ptrdiff_t)g->height * g->width * g->channels;
    const float *map = input; /* of the image in which the last position was */
    int begin = 0, y0 = 0;    /* of its row */
    for (int i = 0; i < n; i++, rows += taps) {
        const int p = positions ? positions[first + i] : first + i;
        int x0;
        const float *corner;
        if (i == 0 || p < begin || p - begin >= g->out_width) {
            const int row = p / g->out_width;
            begin = row * g->out_width;
            y0 = row % out_height * g->stride - padding;
            map = input + row / out_height * image;
        }
        x0 = (p - begin) * g->stride - padding;
        corner = map + ((ptrdiff_t)y0 * g->width + x0) * g->channels;
        if (y0 >= 0 && x0 >= 0 && y0 < high && x0 < wide) {
            for (int t = 0; t < taps; t++)
                rows[t] = corner + steps[t];
            continue;
        }
        for (int t = 0; t < taps; t++) {
            const int y = y0 + t / g->kernel_w * g->dilation, x = x0 + t % g->kernel_w * g->dilation;
            rows[t] = y >= 0 && y < g->height && x >= 0 && x < g->width ? corner + steps[t] : zeros;
        }
    }
}

/* Bilinear corners of one position's taps. As in torchvision, a point counts up to one position outside of the map: the
 * corners inside have their part of the weight, the others weight 0 and the row of zeros. The comparison is written so
 * that it is false for an offset that is no number: the point then lies outside. */
static void find_corners(const conv_call *c, const float *zeros, int first, int n, corner *corners)
{
    const saibench_geometry *g = c->g;
    const int taps = g->kernel_h * g->kernel_w, out_height = saibench_out_height(g);
    const ptrdiff_t image = (ptrdiff_t)g->height * g->width * g->channels;
    for (int i = first; i < first + n; i++) {
        const int p = c->positions ? c->positions[i] : c->first + i, row = p / g->out_width;
        const int y0 = row % out_height * g->stride - g->padding, x0 = p % g->out_width * g->stride - g->padding;
        const float *map = c->input + row / out_height * image;
        const float *offset = c->offsets + (size_t)i * 2 * taps;
        for (int t = 0; t < taps; t++, offset += 2, corners++) {
            const float y = y0 + t / g->kernel_w * g->dilation + offset[0];
            const float x = x0 + t % g->kernel_w * g->dilation + offset[1];
            const int inside = y > -1.0f && x > -1.0f && y < (float)g->height && x < (float)g->width;
            const int top = inside ? (int)floorf(y) : 0, left = inside ? (int)floorf(x) : 0;
            const float dy = inside ? y - top : 0.0f, dx = inside ? x - left : 0.0f;
            for (int k = 0; k < 4; k++) {
                const int v = top + k / 2, u = left + k % 2;
                const int valid = inside && v >= 0 && u >= 0 && v < g->height && u < g->width;
                corners->row[k] = valid ? map + ((size_t)v * g->width + u) * g->channels : zeros;
                corners->weight[k] = valid ? (k / 2 ? dy : 1.0f - dy) * (k % 2 ? dx : 1.0f - dx) : 0.0f;
            }
        }
    }
}

/* Memory of one thread: row pointers, zeros, and for deformable convolution the samples of a block. One piece, since
 * small convolutions take less time than many pieces would. */
typedef struct {
    ptrdiff_t *steps;
    const float **rows, **residual;
    float **out;
    float *zeros, *samples;
    corner *corners;
    void *memory;
} scratch;

static int scratch_make(scratch *s, int block, int taps, int length, int deform)
{
    const size_t points = (size_t)block * taps, samples = deform ? points : 0;
    char *p = malloc(sizeof(ptrdiff_t) * taps + sizeof(float *) * (points + 2 * (size_t)block) +
                     sizeof(corner) * samples + sizeof(float) * (samples + 1) * length);
    s->memory = p;
    if (!p)
        return 0;
    s->steps = (ptrdiff_t *)p;
    s->rows = (const float **)(s->steps + taps);
    s->residual = s->rows + points;
    s->out = (float **)(s->residual + block);
    s->corners = (corner *)(s->out + block);
    s->zeros = (float *)(s->corners + samples);
    s->samples = s->zeros + length;
    memset(s->zeros, 0, sizeof(float) * length);
    return 1;
}

/* Whether listed positions lie in the output map. */
static int inside(const int32_t *positions, int n, int map)
{
    int out = 0;
    for (int i = 0; i < n; i++)
        out |= (positions[i] < 0) | (positions[i] >= map);
    return !out;
}

/* The weights of an output on, the start of a panel. */
static const float *weights_at(const conv_call *c, int column)
{
    return c->packed + ((size_t)column * saibench_conv_macs(c->g, 1) >> c->half);
}

/* Computes `columns` outputs from `column` on, the start of a panel, of `n` positions from `first` on. */
static void run_block(const conv_call *c, const scratch *s, int first, int n, int column, int columns,
                      const float *next)
{
    const int taps = saibench_taps(c->g), length = saibench_tap_length(c->g);
    conv_job job;
    if (c->offsets) {
        find_corners(c, s->zeros, first, n, s->corners);
        saibench_isa()->bilinear(s->corners, n * taps, length, s->samples);
        for (int i = 0; i < n * taps; i++)
            s->rows[i] = s->samples + (size_t)i * length;
    } else {
        point(c->g, c->input, s->zeros, s->steps, c->positions, c->positions ? first : c->first + first, n, s->rows);
    }
    for (int i = 0; i < n; i++) {
        const size_t row = c->scatter && c->positions ? (size_t)c->positions[first + i] : (size_t)(first + i);
        s->out[i] = c->out + row * c->out_stride + column;
        if (c->residual)
            s->residual[i] = c->residual + row * c->outputs + column;
    }
    job.taps = taps;
    job.length = length;
    job.outputs = columns;
    job.relu = c->relu;
    job.half = c->half;
    job.packed = weights_at(c, column);
    job.next = next;
    job.bias = c->bias ? c->bias + column : NULL;
    job.rows = s->rows;
    job.residual = c->residual ? s->residual : NULL;
    job.scale = c->scale ? c->scale + first : NULL;
    job.out = s->out;
    if (c->narrow)
        saibench_isa()->narrow(&job, n);
    else
        saibench_isa()->conv(&job, n);
    if (c->follow) {
        /* The rows just written are still in this core's cache: they are the follower's input, and their number in the
         * map (however they were listed or scattered) is its output's. */
        for (int i = 0; i < n; i++) {
            s->rows[i] = s->out[i];
            s->out[i] = c->follow->out + (s->rows[i] - c->out) / c->out_stride * c->follow->outputs;
        }
        saibench_run_follow(c->follow, s->rows, s->out, c->outputs, n);
    }
}

/* Work is shared out by positions, in pieces of at most a block, or by columns, whose pieces are panels and have all
 * positions. */
typedef struct {
    const conv_call *c;
    int by_columns, unit, piece, block, threads, failed; /* `block`: positions of one block */
    const float *after;                                  /* weights of the next convolution */
    size_t after_share;                                  /* floats between those that two threads begin with */
    share shares[MAX_THREADS];
} conv_task;

/* Some columns of positions `first` .. `end` - 1, block by block. They are checked while they are read anyway, since a
 * pass before would cost as much as listing them. What lies outside is neither read nor written, and the caller hears
 * of it. */
static int run_positions(const conv_task *t, const scratch *s, int first, int end, int column, int columns,
                         const float *next)
{
    const conv_call *c = t->c;
    for (int n; first < end; first += n) {
        n = end - first < t->block ? end - first : t->block;
        if (c->positions && !inside(c->positions + first, n, map_positions(c->g)))
            return SAIBENCH_OUTSIDE;
        run_block(c, s, first, n, column, columns, first + n < end ? weights_at(c, column) : next);
    }
    return 0;
}

/* The weights that a thread needs after a piece of its share that ends at `end`: of its next piece or, behind its last,
 * of the convolution that comes next. Where they come from L3 or from memory, the first tile of each panel waits for
 * them: in ResNet-101 at 224x224 for an eighth of the time. It is a guess: a share may be taken by others, and how the
 * next convolution is shared out depends on masks that are not decided yet. */
static const float *next_weights(const conv_task *t, int thread, int end)
{
    const conv_call *c = t->c;
    const share *own = t->shares + thread;
    if (saibench_next(own) == end && end < own->end)
        return t->by_columns ? weights_at(c, end * saibench_isa()->panel) : c->packed;
    return t->after ? t->after + t->after_share * thread : NULL;
}

static int run_piece(const conv_task *t, const scratch *s, int thread, int first, int n)
{
    const conv_call *c = t->c;
    const int panel = saibench_isa()->panel, column = first * panel, left = c->outputs - column;
    const float *next = next_weights(t, thread, first + n);
    if (!t->by_columns)
        return run_positions(t, s, first, first + n, 0, c->outputs, next);
    return run_positions(t, s, 0, c->n, column, n * panel < left ? n * panel : left, next);
}

static void run_pieces(void *context, int thread)
{
    conv_task *t = context;
    const conv_call *c = t->c;
    const unsigned arithmetic = saibench_flush_subnormals();
    scratch s;
    int first, n, failed;
    failed = scratch_make(&s, t->block, saibench_taps(c->g), saibench_tap_length(c->g), c->offsets != NULL)
                 ? 0
                 : SAIBENCH_NO_MEMORY;
    if (!failed)
        find_steps(c->g, s.steps);
    while (!failed && (n = saibench_take(t->shares, t->threads, thread, t->unit, t->piece, &first)) > 0)
        failed = run_piece(t, &s, thread, first, n);
    free(s.memory);
    saibench_or(&t->failed, failed);
    saibench_restore_arithmetic(arithmetic);
}

int64_t saibench_conv_macs(const saibench_geometry *g, int outputs)
{
    return (int64_t)saibench_taps(g) * saibench_tap_length(g) * outputs;
}

/* Threads that a convolution is worth: to hand work over takes a microsecond, in which a core does WORTH. */
#define WORTH 200000
static int worth(const conv_call *c, int threads)
{
    const int64_t most = 1 + saibench_conv_macs(c->g, c->outputs) * c->n / WORTH;
    return most < threads ? (int)most : threads;
}

/* Whether threads share out the outputs of a convolution, and not its positions: where there are few positions, all
 * threads would read all weights, which come from L3 or from memory and take longer than the arithmetic. Each then
 * reads its own part of them, and all of the input. What is done once for a position (samples, what follows a finished
 * row) stays with positions. With many, the weights are not waited for, and rows that two threads wrote come slower to
 * whoever reads them next. */
static int by_columns(const conv_call *c, int threads)
{
    const int64_t weights = saibench_conv_macs(c->g, c->outputs) >> c->half, input = (int64_t)c->n * c->g->channels;
    if (threads < 2 || c->narrow || c->offsets || c->follow)
        return 0;
    return c->outputs >= threads * saibench_isa()->panel && weights > INPUTS * input;
}

/* Where each thread will begin in the weights of the next convolution: it has about as many positions. */
static void look_ahead(conv_task *t, int threads)
{
    const conv_after *after = &t->c->after;
    t->after = after->packed;
    t->after_share = 0;
    if (after->packed) {
        conv_call next;
        memset(&next, 0, sizeof next);
        next.g = after->g;
        next.outputs = after->outputs;
        next.half = after->half;
        next.n = t->c->n;
        if (by_columns(&next, threads)) {
            const int panel = saibench_isa()->panel;
            const int panels = (after->outputs + panel - 1) / panel;
            t->after_share = (size_t)(panels / threads) * panel * saibench_conv_macs(after->g, 1) >> after->half;
        }
    }
}

int saibench_run_conv(const conv_call *c, int threads)
{
    const int taps = saibench_taps(c->g), length = saibench_tap_length(c->g);
    /* The instruction set is chosen here, on one thread, before all of them ask for it. */
    const int panel = saibench_isa()->panel, tile = saibench_isa()->tile;
    conv_task t;
    t.c = c;
    t.block = TILES * tile;
    t.failed = 0;
    if (c->offsets) {
        /* The samples of a job are taps * length floats a position. Two tiles at least: with one, the weights would be
         * read from L2 for every tile. */
        const int tiles = SAMPLES / (taps * length) / tile;
        t.block = (tiles < 2 ? 2 : tiles > TILES ? TILES : tiles) * tile;
    }
    t.threads = threads = worth(c, threads);
    t.by_columns = by_columns(c, threads);
    look_ahead(&t, threads);
    t.unit = t.by_columns ? 1 : tile;
    t.piece = t.by_columns ? PANELS : t.block;
    saibench_share_out(t.shares, threads, t.by_columns ? (c->outputs + panel - 1) / panel : c->n);
    saibench_run(threads, run_pieces, &t);
    return t.failed;
}
