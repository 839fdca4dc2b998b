/* Fills of a block: where the samples' rows are, what fills the others, and what a fill is worth counting. */
#include "running.h"
#include "threads.h"

#include <string.h>

sample_index plan_index(block_run *k, const sample_list *samples, int window, int compact, int ring)
{
    const saibench_extent size = samples->size;
    const int radius = window / 2, padded = size.width + 2 * radius, tall = size.height + 2 * radius;
    const size_t positions = (size_t)size.images * tall * padded;
    int32_t *index = plan_take(k->run, sizeof(int32_t) * positions);
    sample_index found = {samples, window, index, NULL};
    saibench_index_samples(samples->positions, samples->starts, size.images, size.height, size.width, radius,
                           compact ? (ring > 0 ? ring : 1) : 0, index, k->run->threads);
    if (!samples->binary) {
        float *gate = plan_take(k->run, sizeof(float) * positions);
        memset(gate, 0, sizeof(float) * positions);
        for (int row = 0; row < plan_rows(size); row++) {
            const size_t line = (size_t)(row / size.height) * tall + row % size.height + radius;
            memcpy(gate + line * padded + radius, samples->mask + (size_t)row * size.width, sizeof(float) * size.width);
        }
        found.gate = gate;
    }
    return found;
}

/* The row of a position, given the map's row and the column; -1 if it was not sampled. */
static int32_t row_of(const sample_index *index, int row, int x)
{
    const int radius = index->window / 2, padded = index->samples->size.width + 2 * radius;
    const int border = (row / index->samples->size.height * 2 + 1) * radius; /* of the images before, and its own */
    return index->index[(size_t)(row + border) * padded + x + radius];
}

const float *plan_scale(block_run *k, const sample_list *samples)
{
    float *scale;
    if (samples->binary)
        return NULL;
    scale = plan_take(k->run, sizeof(float) * (samples->n ? samples->n : 1));
    for (int i = 0; i < samples->n; i++)
        scale[i] = samples->mask[samples->positions[i]];
    return scale;
}

typedef struct {
    const sample_index *index;
    const fill_call *f;
} reuse_call;

/* M Y + (1 - M) X at the wanted positions of some rows of the map. */
static void reuse_rows(void *context, int first, int n)
{
    const reuse_call *c = context;
    const fill_call *f = c->f;
    const sample_list *samples = c->index->samples;
    const int width = samples->size.width, channels = f->channels;
    for (int row = f->row0 + first; row < f->row0 + first + n; row++)
        for (int x = 0; x < width; x++) {
            const size_t p = (size_t)row * width + x;
            const int32_t own = row_of(c->index, row, x);
            const float rest = 1.0f - samples->mask[p];
            if (f->wanted && !f->wanted[p])
                continue;
            for (int i = 0; i < channels; i++) {
                float v = own < 0 ? 0.0f : f->rows[(size_t)own * f->row_stride + i];
                v += rest * f->source[p * channels + i];
                v += f->bias ? f->bias[i] : 0.0f;
                v += f->residual ? f->residual[p * channels + i] : 0.0f;
                f->out[p * channels + i] = f->relu && v < 0.0f ? 0.0f : v;
            }
        }
}

/* The row that fills each position, for the nearest fill. What was answered are positions of each image's own map, which
 * the caller has checked. */
static const int32_t *nearest_rows(block_run *k, const plan_fill *fill, const sample_index *index)
{
    const sample_list *samples = index->samples;
    const saibench_extent size = samples->size;
    const int number = (int)(fill - k->block->fill) + 1;
    int32_t *nearest = plan_take(k->run, sizeof(int32_t) * plan_area(size));
    const saibench_request request = {ASK_NEAREST, k->index, number, 0, 1, 1, size, size, samples->mask, nearest};
    plan_ask(k->run, request);
    for (int row = 0; row < plan_rows(size); row++)
        for (int x = 0; x < size.width; x++) {
            int32_t *own = nearest + (size_t)row * size.width + x;
            *own = row_of(index, row / size.height * size.height + *own / size.width, *own % size.width);
        }
    return nearest;
}

void plan_fill_run(block_run *k, const plan_fill *fill, const sample_index *index, const fill_call *f, int64_t *pairs)
{
    group_run *run = k->run;
    const saibench_extent size = index->samples->size;
    const double begin = plan_now();
    if (fill->kind == FILL_REUSE) {
        reuse_call c = {index, f};
        saibench_for(run->threads, f->row1 - f->row0, 4, reuse_rows, &c);
    } else if (f->row1 > f->row0) {
        const saibench_follow *follow = f->ends && !f->wanted ? plan_follow(run) : NULL;
        int64_t *here = plan_zeros(run);
        saibench_blend_args a;
        memset(&a, 0, sizeof a);
        a.height = size.height;
        a.width = size.width;
        a.window = index->window;
        a.channels = f->channels;
        a.row_stride = f->row_stride;
        a.out_row = f->out_row;
        a.index = index->index;
        a.gate = index->gate;
        a.num = fill->num;
        a.den = fill->den;
        a.nearest = fill->kind == FILL_NEAREST ? nearest_rows(k, fill, index) : NULL;
        a.rows = f->rows;
        a.bias = f->bias;
        a.residual = f->residual;
        a.out = f->out;
        a.relu = f->relu;
        a.squared = fill->squared;
        a.pairs = here;
        saibench_blend(&a, f->wanted, f->row0, f->row1, follow, run->threads);
        for (int i = 0; i < run->images; i++) {
            plan_count(run, i, fill->row, here[i] * f->channels);
            if (pairs)
                pairs[i] += here[i];
        }
    }
    run->seconds[fill->row] += plan_now() - begin;
}

const float *plan_source(block_run *k, int number, const float *read)
{
    const plan_block *block = k->block;
    const saibench_extent size = number == 1 ? k->size : k->sizes[number - 2], out = k->sizes[number - 1];
    const plan_conv *conv = block->conv + number - 1;
    float *source;
    if (block->fill[number - 1].kind != FILL_REUSE)
        return NULL;
    source = plan_take(k->run, sizeof(float) * plan_area(out) * conv->outputs);
    {
        const saibench_request request = {ASK_SOURCE, k->index, number, 0, conv->walk.channels, conv->outputs, size, out,
                                          read,       source};
        plan_ask(k->run, request);
    }
    return source;
}

/* A branch that is zero where it is not computed leaves the identity there, and the ReLU nothing to do: what came into
 * the block came out of a ReLU. The next block's mask products then take a pass of their own. */
const uint8_t *plan_changed(block_run *k, int number, const sample_list *samples)
{
    uint8_t *found;
    if (k->block->has_shortcut || k->block->fill[number - 1].kind != FILL_ZEROS)
        return NULL;
    found = plan_take(k->run, plan_area(samples->size));
    for (size_t i = 0; i < plan_area(samples->size); i++)
        found[i] = samples->mask[i] > 0.0f;
    return found;
}

int64_t *plan_zeros(group_run *run)
{
    int64_t *zeros = plan_take(run, sizeof(int64_t) * run->images);
    memset(zeros, 0, sizeof(int64_t) * run->images);
    return zeros;
}

static int64_t pairs_of_image(const sample_list *samples, int window, int image, int32_t *columns)
{
    const saibench_extent size = samples->size;
    const int radius = window / 2, top = image * size.height, bottom = top + size.height - 1;
    int64_t pairs = 0;
    for (int y = top; y <= bottom; y++) {
        const float *line = samples->mask + (size_t)y * size.width;
        const int above = y - radius < top ? top : y - radius, below = y + radius > bottom ? bottom : y + radius;
        /* Sampled positions of the rows around, summed up along the columns. */
        memset(columns, 0, sizeof(int32_t) * ((size_t)size.width + 1));
        for (int32_t i = samples->starts[above]; i < samples->starts[below + 1]; i++)
            columns[samples->positions[i] % size.width + 1]++;
        for (int x = 0; x < size.width; x++)
            columns[x + 1] += columns[x];
        for (int x = 0; x < size.width; x++)
            if (line[x] != 1.0f) {
                const int right = x + radius + 1 > size.width ? size.width : x + radius + 1;
                pairs += columns[right] - columns[x - radius < 0 ? 0 : x - radius];
            }
    }
    return pairs;
}

void plan_pairs(block_run *k, const sample_list *samples, int window, int64_t *pairs)
{
    int32_t *columns = plan_take(k->run, sizeof(int32_t) * ((size_t)samples->size.width + 1));
    for (int i = 0; window && i < samples->size.images; i++)
        pairs[i] = pairs_of_image(samples, window, i, columns);
}
