/* A residual block on one image: shortcut and branch, and their sum's ReLU, into the block's map.
 *
 * What runs where is the description's; what is decided here is only the order of the work and where its results lie. */
#include "instruction_set.h"
#include "running.h"
#include "threads.h"

#include <math.h>
#include <string.h>

#define BAND_BYTES (3 << 20)

static size_t area(saibench_extent size) { return (size_t)size.height * size.width; }

/* Rows that an interpolation reads lie so many floats apart: up to fifty are read at once, and at a power of two they
 * would share a few sets of L1. */
static int row_distance(int channels) { return channels % 512 ? channels : channels + 16; }

/* Where the rows of a mask's samples are, with the border that a window needs (the Python class `SampleIndex`). */
typedef struct {
    const sample_list *samples;
    int window;
    const int32_t *index;
    const float *gate;
} sample_index;

static sample_index index_of(block_run *k, const sample_list *samples, int window, int compact, int ring)
{
    const saibench_extent size = samples->size;
    const int radius = window / 2, padded = size.width + 2 * radius;
    const size_t positions = (size_t)(size.height + 2 * radius) * padded;
    int32_t *index = plan_take(k->run, sizeof(int32_t) * positions);
    sample_index found = {samples, window, index, NULL};
    saibench_index_samples(samples->positions, samples->starts, size.height, size.width, radius,
                           compact ? (ring > 0 ? ring : 1) : 0, index, k->run->threads);
    if (!samples->binary) {
        float *gate = plan_take(k->run, sizeof(float) * positions);
        memset(gate, 0, sizeof(float) * positions);
        for (int y = 0; y < size.height; y++)
            memcpy(gate + (size_t)(y + radius) * padded + radius, samples->mask + (size_t)y * size.width,
                   sizeof(float) * size.width);
        found.gate = gate;
    }
    return found;
}

/* M at the sampled positions; NULL if it is 1 at all of them. */
static const float *scale_of(block_run *k, const sample_list *samples)
{
    float *scale;
    if (samples->binary)
        return NULL;
    scale = plan_take(k->run, sizeof(float) * (samples->n ? samples->n : 1));
    for (int i = 0; i < samples->n; i++)
        scale[i] = samples->mask[samples->positions[i]];
    return scale;
}

/* What a fill is told besides its samples. */
typedef struct {
    const float *rows;
    int row_stride, channels;
    float *out;
    const float *source; /* for the reuse fill: the convolution's input, matched */
    const uint8_t *wanted;
    int row0, row1;
    const float *bias, *residual;
    int relu, ends; /* ends: this ends the block, whose map the next block's mask products follow */
} fill_call;

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
    const int width = samples->size.width, radius = c->index->window / 2, channels = f->channels;
    for (int y = f->row0 + first; y < f->row0 + first + n; y++)
        for (int x = 0; x < width; x++) {
            const size_t p = (size_t)y * width + x;
            const int32_t own = c->index->index[(size_t)(y + radius) * (width + 2 * radius) + x + radius];
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

/* The row that fills each position, for the nearest fill. */
static const int32_t *nearest_rows(block_run *k, const plan_fill *fill, const sample_index *index)
{
    const sample_list *samples = index->samples;
    const saibench_extent size = samples->size;
    const int radius = index->window / 2, number = (int)(fill - k->block->fill) + 1;
    int32_t *nearest = plan_take(k->run, sizeof(int32_t) * area(size));
    const saibench_request request = {ASK_NEAREST, k->index, number, 1, 1, size, size, samples->mask, nearest};
    plan_ask(k->run, &request);
    for (size_t p = 0; p < area(size); p++) {
        const size_t y = (size_t)nearest[p] / size.width, x = (size_t)nearest[p] % size.width;
        nearest[p] = index->index[(y + radius) * (size.width + 2 * radius) + x + radius];
    }
    return nearest;
}

/* Runs a fill; returns the (missing position, sampled neighbour) pairs that it summed. */
static int64_t run_fill(block_run *k, const plan_fill *fill, const sample_index *index, const fill_call *f)
{
    image_run *run = k->run;
    const double begin = plan_now();
    int64_t pairs = 0;
    if (fill->kind == FILL_REUSE) {
        reuse_call c = {index, f};
        saibench_for(run->threads, f->row1 - f->row0, 4, reuse_rows, &c);
    } else if (f->row1 > f->row0) {
        saibench_blend_args a = {index->samples->size.width,
                                 index->window,
                                 f->channels,
                                 f->row_stride,
                                 index->index,
                                 index->gate,
                                 fill->num,
                                 fill->den,
                                 fill->kind == FILL_NEAREST ? nearest_rows(k, fill, index) : NULL,
                                 1e-5f, /* added to every denominator (paper, text below eq. 3) */
                                 f->rows,
                                 f->bias,
                                 f->residual,
                                 f->out,
                                 f->relu,
                                 fill->squared};
        const saibench_follow *follow = f->ends && !f->wanted ? plan_follow(run) : NULL;
        pairs = saibench_blend(&a, f->wanted, f->row0, f->row1, follow, run->threads);
        run->args->macs[fill->row] += pairs * f->channels;
    }
    run->args->seconds[fill->row] += plan_now() - begin;
    return pairs;
}

/* What convolution `number` reads, brought to its output's shape, for a reuse fill; else NULL. */
static const float *source_of(block_run *k, int number, const float *read)
{
    const plan_block *block = k->block;
    const saibench_extent size = number == 1 ? k->size : k->sizes[number - 2], out = k->sizes[number - 1];
    const plan_conv *conv = block->conv + number - 1;
    float *source;
    if (block->fill[number - 1].kind != FILL_REUSE)
        return NULL;
    source = plan_take(k->run, sizeof(float) * area(out) * conv->outputs);
    {
        const saibench_request request = {ASK_SOURCE, k->index, number, conv->walk.channels, conv->outputs, size,
                                          out,        read,     source};
        plan_ask(k->run, &request);
    }
    return source;
}

/* The positions of the block's map that a fill at its end changes; NULL for all. A branch that is zero where it is not
 * computed leaves the identity there, and the ReLU nothing to do: what came into the block came out of a ReLU. The next
 * block's mask products then take a pass of their own. */
static const uint8_t *changed(block_run *k, int number, const sample_list *samples)
{
    uint8_t *found;
    if (k->block->has_shortcut || k->block->fill[number - 1].kind != FILL_ZEROS)
        return NULL;
    found = plan_take(k->run, area(samples->size));
    for (size_t i = 0; i < area(samples->size); i++)
        found[i] = samples->mask[i] > 0.0f;
    return found;
}

/* conv1 where it computes, then its fill where something reads it: returns its map. */
static const float *run_first(block_run *k)
{
    image_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv;
    const plan_fill *fill = block->fill;
    const sample_list *samples = plan_samples(k, block->computes[0], k->sizes[0]);
    float *features = run->args->features, *rows = features;
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, k->x, k->size, features);
    call.relu = 1;
    if (samples) {
        call.positions = samples->positions;
        call.n = samples->n;
        call.scatter = 1;
        if (fill->kind && !samples->binary) {
            /* A gate's rows are scaled by M, and so cannot stand in the map that is filled from them. */
            call.out = rows = plan_take(run, sizeof(float) * ((size_t)samples->n + 1) * conv->outputs);
            call.scatter = 0;
            call.scale = scale_of(k, samples);
        }
    }
    plan_conv_run(run, &call, conv->row);
    if (samples && fill->kind) {
        const double begin = plan_now();
        const sample_index index = index_of(k, samples, fill->window, !samples->binary, samples->n);
        fill_call f = {rows, conv->outputs, conv->outputs, features, NULL, NULL, 0, k->sizes[0].height, NULL, NULL, 0, 0};
        f.wanted = samples->binary ? plan_missing(k, fill->needed, samples) : plan_positions(k, fill->needed, k->sizes[0]);
        f.source = source_of(k, 1, k->x);
        run->args->seconds[fill->row] += plan_now() - begin;
        run_fill(k, fill, &index, &f);
    }
    return features;
}

static void run_shortcut(block_run *k)
{
    saibench_geometry g;
    if (k->block->has_shortcut) {
        const conv_call call = plan_call(&k->block->shortcut, &g, k->x, k->size, k->out);
        plan_conv_run(k->run, &call, k->block->shortcut.row);
    }
}

/* The last convolution at its samples, its fill, and the block's end. */
static void end_filled(block_run *k, const float *y, const sample_list *samples)
{
    image_run *run = k->run;
    const int number = k->block->convolutions;
    const plan_conv *conv = k->block->conv + number - 1;
    const plan_fill *fill = k->block->fill + number - 1;
    const int distance = row_distance(conv->outputs);
    const double begin = plan_now();
    const sample_index index = index_of(k, samples, fill->window, 1, samples->n);
    float *rows = plan_take(run, sizeof(float) * ((size_t)samples->n + 1) * distance);
    fill_call f = {rows, distance, conv->outputs, k->out, NULL, changed(k, number, samples), 0, samples->size.height,
                   NULL, k->out,   1,             1};
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, y, k->sizes[number - 2], rows);
    call.positions = samples->positions;
    call.n = samples->n;
    call.out_stride = distance;
    call.scale = scale_of(k, samples);
    run->args->seconds[fill->row] += plan_now() - begin;
    plan_conv_run(run, &call, conv->row);
    f.source = source_of(k, number, y);
    run_fill(k, fill, &index, &f);
}

/* The last convolution everywhere, added to the shortcut. */
static void end_dense(block_run *k, const float *y)
{
    image_run *run = k->run;
    const int number = k->block->convolutions;
    const plan_conv *conv = k->block->conv + number - 1;
    const size_t rows = area(k->sizes[number - 1]);
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, y, k->sizes[number - 2], k->out);
    if (!k->block->places) {
        call.residual = k->out;
        call.relu = 1;
        call.follow = plan_follow(run);
        plan_conv_run(run, &call, conv->row);
        return;
    }
    call.out = plan_take(run, sizeof(float) * rows * conv->outputs);
    plan_conv_run(run, &call, conv->row);
    for (size_t i = 0; i < rows; i++) {
        float *out = k->out + i * k->channels;
        for (int c = 0; c < conv->outputs; c++)
            out[k->block->places[c]] += call.out[i * conv->outputs + c];
        for (int c = 0; c < k->channels; c++)
            out[c] = out[c] < 0.0f ? 0.0f : out[c];
    }
}

static void run_basic(block_run *k)
{
    const float *y = run_first(k);
    const sample_list *samples;
    plan_decide(k, 1, y, k->sizes[0], k->block->conv[0].outputs);
    samples = plan_samples(k, k->block->computes[1], k->sizes[1]);
    run_shortcut(k);
    if (samples)
        end_filled(k, y, samples);
    else
        end_dense(k, y);
}

/* conv2 of a bottleneck at a run of its positions at a time. */
typedef struct {
    const float *features, *offsets;
    const sample_list *samples; /* NULL: everywhere */
} second;

static void run_second(block_run *k, const second *s, int begin, int n, float *out, const float *scale)
{
    image_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv + 1;
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, s->features, k->sizes[0], out);
    call.positions = s->samples ? s->samples->positions + begin : NULL;
    call.first = begin;
    call.n = n;
    call.scale = scale ? scale + begin : NULL;
    call.relu = 1;
    if (s->offsets) {
        const int taps = conv->walk.kernel_h * conv->walk.kernel_w;
        call.offsets = s->offsets + (size_t)begin * 2 * taps;
        run->args->macs[block->bilinear_row] += (int64_t)n * taps * conv->walk.channels * 4; /* a sample: 4 corners */
    }
    plan_conv_run(run, &call, conv->row);
}

/* The offsets at conv2's positions, of the block's input. */
static const float *run_offsets(block_run *k, const sample_list *samples)
{
    const plan_conv *conv = &k->block->offset;
    saibench_geometry g;
    conv_call call;
    if (!k->block->has_offset)
        return NULL;
    call = plan_call(conv, &g, k->x, k->size, NULL);
    call.narrow = 1;
    if (samples) {
        call.positions = samples->positions;
        call.n = samples->n;
    }
    call.out = plan_take(k->run, sizeof(float) * ((size_t)call.n + 1) * conv->outputs);
    plan_conv_run(k->run, &call, conv->row);
    return call.out;
}

/* Bands of a map: at most `bytes` of BAND_BYTES each, as equal as they can be. */
static int bands(int height, double row_bytes)
{
    const double count = ceil(height * row_bytes / BAND_BYTES);
    return count < 1 ? 1 : count > height ? height : (int)count;
}

static int edge(int height, int count, int i) { return (int)((int64_t)height * i / count); }

/* conv3 on all positions of some rows of the map, added to the shortcut. `features` has conv2's rows: those of these
 * positions in order, or, with `at`, `held` rows of which it names one for each position. */
static void end_rows(block_run *k, const float *features, const int32_t *at, int held, int first, int last,
                     const saibench_follow *follow)
{
    const plan_conv *conv = k->block->conv + 2;
    const size_t begin = (size_t)first * k->sizes[2].width;
    const int n = (last - first) * k->sizes[2].width;
    const saibench_extent line = {1, at ? held : n};
    float *out = k->out + begin * conv->outputs;
    saibench_follow here;
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, features, line, out);
    call.positions = at;
    call.n = n;
    call.residual = out;
    call.relu = 1;
    if (follow) {
        here = *follow;
        here.out += begin * follow->outputs;
        call.follow = &here;
    }
    plan_conv_run(k->run, &call, conv->row);
}

/* conv2 and conv3 everywhere, band by band. */
static void end_in_bands(block_run *k, const second *s)
{
    const saibench_extent size = k->sizes[2];
    const int inner = k->block->conv[2].walk.channels, count = bands(size.height, 4.0 * size.width * inner);
    const int held = (size.height + count - 1) / count;
    float *features = plan_take(k->run, sizeof(float) * held * size.width * inner);
    const saibench_follow *follow = plan_follow(k->run);
    for (int i = 0; i < count; i++) {
        const int first = edge(size.height, count, i), last = edge(size.height, count, i + 1);
        run_second(k, s, first * size.width, (last - first) * size.width, features, NULL);
        end_rows(k, features, NULL, 0, first, last, follow);
    }
}

/* (Missing position, sampled neighbour) pairs of a mask (`sparsity.neighbour_pairs`, all positions needed). */
static int64_t pairs_of(block_run *k, const sample_list *samples, int window)
{
    const saibench_extent size = samples->size;
    const int radius = window / 2;
    int32_t *columns = plan_take(k->run, sizeof(int32_t) * ((size_t)size.width + 1));
    int64_t pairs = 0;
    if (window == 0)
        return 0;
    for (int y = 0; y < size.height; y++) {
        const float *line = samples->mask + (size_t)y * size.width;
        const int above = y - radius < 0 ? 0 : y - radius;
        const int below = y + radius >= size.height ? size.height - 1 : y + radius;
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

/* Whether conv3 takes fewer multiply-accumulates on the samples (`sparsity.conv3_plan`). */
static int fewer_on_samples(const plan_conv *conv, int64_t samples, int64_t pairs, int64_t positions)
{
    const int64_t in = conv->walk.channels, out = conv->outputs;
    return samples * in * out + pairs * out <= positions * in * out + pairs * in;
}

/* The pairs need no counting if as many as there could be are few enough. */
static int cheaper_on_samples(block_run *k, const sample_list *samples)
{
    const plan_fill *fill = k->block->fill + 1;
    const plan_conv *conv = k->block->conv + 2;
    const int window = fill->kind == FILL_WINDOW ? fill->window : 0;
    const int64_t positions = (int64_t)area(samples->size);
    const int64_t most = (samples->binary ? positions - samples->n : positions) * window * window;
    return fewer_on_samples(conv, samples->n, most, positions) ||
           fewer_on_samples(conv, samples->n, pairs_of(k, samples, window), positions);
}

/* Whether conv3 takes less time on the samples. The block's map then takes a pass of its own, which reads and writes
 * all of it: each of its values costs the time of some multiply-accumulates of a convolution. Filled before conv3, a row
 * has conv3's inputs alone, a quarter of that. Below half density that has not paid anywhere. */
static int faster_on_samples(block_run *k, const sample_list *samples)
{
    const plan_conv *conv = k->block->conv + 2;
    const double positions = (double)area(samples->size), in = conv->walk.channels, out = conv->outputs;
    return 2 * samples->n < positions ||
           (positions - samples->n) * in * out >= saibench_isa()->map_value * positions * (out - in);
}

/* Where rows from `i` on stop lying side by side in a ring: at its end, or at `end`. */
static int ring_until(int i, int end, int held)
{
    const int wraps = i + held - i % held;
    return wraps < end ? wraps : end;
}

/* conv3's rows of the samples [begin, end) of a band, into a ring of rows. */
static void run_third(block_run *k, const float *features, int begin, int end, float *ring, int held, int distance,
                      const float *scale, int with_bias)
{
    const plan_conv *conv = k->block->conv + 2;
    for (int i = begin, until; i < end; i = until) {
        until = ring_until(i, end, held);
        const saibench_extent line = {1, until - i};
        saibench_geometry g;
        conv_call call = plan_call(conv, &g, features + (size_t)(i - begin) * conv->walk.channels, line,
                                   ring + (size_t)(i % held) * distance);
        call.out_stride = distance;
        call.scale = scale ? scale + i : NULL;
        if (!with_bias)
            call.bias = NULL;
        plan_conv_run(k->run, &call, conv->row);
    }
}

/* The most samples of a band and of `above` rows of the map before it. */
static int most_samples(const sample_list *samples, int count, int above)
{
    const int height = samples->size.height;
    int most = 0;
    for (int i = 0; i < count; i++) {
        const int first = edge(height, count, i) - above, last = edge(height, count, i + 1);
        const int n = samples->starts[last] - samples->starts[first < 0 ? 0 : first];
        most = n > most ? n : most;
    }
    return most;
}

/* conv3 on conv2's rows, then the fill of its output, with shortcut and ReLU in the same pass.
 *
 * The fill is conv3's own (`filled` is 3: M and the bias belong to conv3), or conv2's, which trades places with conv3
 * (2: M belongs to conv2, and conv3's bias comes after the fill).
 *
 * The map's rows are walked in bands. A band's fill reads samples of `radius` map rows above and below it, so the fill
 * lags `radius` rows behind the convolutions; conv3's rows live in a ring that holds the samples of a band and of the
 * window around it, numbered modulo its length, and each band overwrites what no window reads any more. */
static void end_on_samples(block_run *k, const second *s, const sample_list *samples, int filled)
{
    image_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv + 2;
    const plan_fill *fill = block->fill + filled - 1;
    const int height = samples->size.height, radius = fill->window / 2, distance = row_distance(conv->outputs);
    const int whole = fill->kind == FILL_NEAREST; /* its row may be anywhere: all rows are kept */
    const int inner = conv->walk.channels;
    const int count = bands(height, (double)samples->n / height * 4 * (inner + conv->outputs));
    const int32_t *starts = samples->starts;
    const double begin = plan_now();
    const float *scale = scale_of(k, samples);
    const int held = whole ? samples->n : most_samples(samples, count, 2 * radius);
    const int most = most_samples(samples, count, 0);
    int done = 0;
    sample_index index;
    float *ring, *features;
    fill_call f;
    index = index_of(k, samples, fill->window, 1, held);
    ring = plan_take(run, sizeof(float) * ((size_t)held + 1) * distance);
    features = plan_take(run, sizeof(float) * ((size_t)most + 1) * inner);
    memset(&f, 0, sizeof f);
    f.rows = ring;
    f.row_stride = distance;
    f.channels = conv->outputs;
    f.out = k->out;
    f.wanted = filled == 3 ? changed(k, 3, samples) : NULL;
    f.bias = filled == 2 ? conv->bias : NULL;
    f.residual = k->out;
    f.relu = f.ends = 1;
    run->args->seconds[fill->row] += plan_now() - begin;
    for (int i = 0; i < count; i++) {
        const int first = edge(height, count, i), last = edge(height, count, i + 1);
        const int ready = last == height ? height : last - radius;
        run_second(k, s, starts[first], starts[last] - starts[first], features, filled == 2 ? scale : NULL);
        run_third(k, features, starts[first], starts[last], ring, held, distance, filled == 3 ? scale : NULL,
                  filled == 3);
        if ((whole && last < height) || ready <= done)
            continue;
        f.row0 = done;
        f.row1 = done = ready;
        run_fill(k, fill, &index, &f);
    }
}

/* conv2's rows of the samples [begin, end), into a ring of rows. */
static void run_second_into(block_run *k, const second *s, int begin, int end, float *ring, int held,
                            const float *scale)
{
    const int channels = k->block->conv[1].outputs;
    for (int i = begin, until; i < end; i = until) {
        until = ring_until(i, end, held);
        run_second(k, s, i, until - i, ring + (size_t)(i % held) * channels, scale);
    }
}

/* What ran beyond what was needed, where conv3 ran everywhere though fewer multiply-accumulates would have done. */
static void note_beyond(block_run *k, const sample_list *samples, int64_t pairs)
{
    const plan_conv *conv = k->block->conv + 2;
    const int64_t positions = (int64_t)area(samples->size), in = conv->walk.channels, out = conv->outputs;
    if (!k->block->commutes || !fewer_on_samples(conv, samples->n, pairs, positions))
        return;
    k->run->args->beyond[conv->row] += (positions - samples->n) * in * out;
    k->run->args->beyond[k->block->fill[1].row] -= pairs * (out - in);
}

/* The row of each position of some rows of the map: a sample's own, by the index, or behind `held` rows the one of its
 * place. */
static void name_rows(const sample_index *index, int held, int rows, int32_t *at)
{
    const int width = index->samples->size.width, line = width + 2 * (index->window / 2);
    const int32_t *row = index->index + (size_t)(index->window / 2) * (line + 1);
    for (int p = 0; p < rows * width; p += width, row += line)
        for (int x = 0; x < width; x++)
            at[p + x] = row[x] >= 0 && !index->gate ? row[x] : held + p + x;
}

/* conv2 at its samples, the fill of its output, and conv3 everywhere, which adds the shortcut while it has its sums in
 * registers. Bands and ring are those of `end_on_samples`, but of conv2's rows; behind the ring lie the rows that a
 * band's fill makes, and conv3 takes each position's row from where it is. */
static void end_filled_in_bands(block_run *k, const second *s)
{
    image_run *run = k->run;
    const sample_list *samples = s->samples;
    const plan_fill *fill = k->block->fill + 1;
    const int height = samples->size.height, width = samples->size.width, radius = fill->window / 2;
    const int channels = k->block->conv[1].outputs, count = bands(height, 4.0 * width * channels);
    const int most = ((height + count - 1) / count + radius) * width, line = width + 2 * radius;
    const int32_t *starts = samples->starts;
    const saibench_follow *follow = plan_follow(run);
    const double begin = plan_now();
    const float *scale = scale_of(k, samples);
    const uint8_t *missing = samples->binary ? plan_missing(k, fill->needed, samples) : NULL;
    const int held = most_samples(samples, count, 2 * radius);
    float *rows = plan_take(run, sizeof(float) * ((size_t)held + most) * channels);
    int32_t *at = plan_take(run, sizeof(int32_t) * most);
    const sample_index index = index_of(k, samples, fill->window, 1, held);
    int done = 0;
    int64_t pairs = 0;
    run->args->seconds[fill->row] += plan_now() - begin;
    for (int i = 0; i < count; i++) {
        const int first = edge(height, count, i), last = edge(height, count, i + 1);
        const int ready = last == height ? height : last - radius;
        fill_call f = {rows, channels, channels, rows + (size_t)held * channels, NULL, NULL, 0, 0, NULL, NULL, 0, 0};
        sample_index here = index; /* of the rows from `done` on, as if the map began there */
        run_second_into(k, s, starts[first], starts[last], rows, held, scale);
        if (ready <= done)
            continue;
        f.row1 = ready - done;
        f.wanted = missing ? missing + (size_t)done * width : NULL;
        here.index += (size_t)done * line;
        here.gate = index.gate ? index.gate + (size_t)done * line : NULL;
        pairs += run_fill(k, fill, &here, &f);
        name_rows(&here, held, ready - done, at);
        end_rows(k, rows, at, held + most, done, ready, follow);
        done = ready;
    }
    note_beyond(k, samples, pairs);
}

/* conv2 at its samples and its fill where it is needed; the rest of the map is not written. */
static const float *fill_second(block_run *k, const second *s)
{
    image_run *run = k->run;
    const plan_fill *fill = k->block->fill + 1;
    const sample_list *samples = s->samples;
    const int channels = k->block->conv[1].outputs;
    const double begin = plan_now();
    const sample_index index = index_of(k, samples, fill->window, 1, samples->n);
    float *rows = plan_take(run, sizeof(float) * ((size_t)samples->n + 1) * channels);
    float *filled = plan_take(run, sizeof(float) * area(samples->size) * channels);
    fill_call f = {rows, channels, channels, filled, NULL, NULL, 0, samples->size.height, NULL, NULL, 0, 0};
    f.wanted = plan_positions(k, fill->needed, k->sizes[1]);
    run->args->seconds[fill->row] += plan_now() - begin;
    run_second(k, s, 0, samples->n, rows, scale_of(k, samples));
    f.source = source_of(k, 2, s->features);
    run_fill(k, fill, &index, &f);
    return filled;
}

/* conv2's fill and conv3, in whichever order. The fills that look for a row anywhere, or read another map, go over the
 * whole map. */
static void end_commuting(block_run *k, const second *s)
{
    const plan_block *block = k->block;
    const int kind = block->fill[1].kind, banded = kind == FILL_WINDOW || kind == FILL_ZEROS;
    const double begin = plan_now();
    const int on_samples = block->commutes && (!banded || faster_on_samples(k, s->samples)) &&
                           cheaper_on_samples(k, s->samples);
    k->run->args->seconds[block->fill[1].row] += plan_now() - begin;
    if (on_samples)
        end_on_samples(k, s, s->samples, 2);
    else if (banded && !block->places)
        end_filled_in_bands(k, s);
    else
        end_dense(k, fill_second(k, s));
}

static void run_bottleneck(block_run *k)
{
    const plan_block *block = k->block;
    second s;
    s.samples = plan_samples(k, block->computes[1], k->sizes[1]);
    s.offsets = run_offsets(k, s.samples);
    s.features = run_first(k);
    run_shortcut(k);
    if (!s.samples)
        end_in_bands(k, &s);
    else if (!block->fill[1].kind)
        end_on_samples(k, &s, s.samples, 3);
    else if (block->fill[2].kind)
        end_filled(k, fill_second(k, &s), plan_samples(k, block->computes[2], k->sizes[2]));
    else
        end_commuting(k, &s);
}

void plan_run_block(block_run *k)
{
    if (k->block->convolutions == 3)
        run_bottleneck(k);
    else
        run_basic(k);
}
