/* A bottleneck: conv1, conv2 (perhaps deformable) and conv3, whose place before or behind conv2's fill is chosen here.
 *
 * conv3 commutes with a fill that is linear. At the samples, then the fill of its output (plan_samples_first.c), takes the
 * fewest multiply-accumulates nearly always, but a pass over the block's map. Fill first, then conv3 everywhere
 * (plan_fill_first.c), saves that pass. */
#include "instruction_set.h"
#include "running.h"

#include <math.h>

void plan_second_run(block_run *k, const plan_second *s, int begin, int n, float *out, const float *scale)
{
    group_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv + 1;
    const plan_span span = {s->samples, k->sizes[1], begin};
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
        for (int i = 0; i < run->images; i++) /* a sample has 4 corners */
            plan_count(run, i, block->bilinear_row, (int64_t)plan_of_image(&span, n, i) * taps * conv->walk.channels * 4);
    }
    plan_conv_run(run, &call, conv->row, span);
}

/* The offsets at conv2's positions, of the block's input. */
static const float *run_offsets(block_run *k, const sample_list *samples)
{
    const plan_conv *conv = &k->block->offset;
    const plan_span span = {samples, k->sizes[1], 0};
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
    plan_conv_run(k->run, &call, conv->row, span);
    return call.out;
}

int plan_bands(int rows, double row_bytes)
{
    const double count = ceil(rows * row_bytes / BAND_BYTES);
    return count < 1 ? 1 : count > rows ? rows : (int)count;
}

int plan_edge(int rows, int count, int i) { return (int)((int64_t)rows * i / count); }

int plan_ring_until(int i, int end, int held)
{
    const int wraps = i + held - i % held;
    return wraps < end ? wraps : end;
}

int plan_most_samples(const sample_list *samples, int count, int above)
{
    const int rows = plan_rows(samples->size);
    int most = 0;
    for (int i = 0; i < count; i++) {
        const int first = plan_edge(rows, count, i) - above, last = plan_edge(rows, count, i + 1);
        const int n = samples->starts[last] - samples->starts[first < 0 ? 0 : first];
        most = n > most ? n : most;
    }
    return most;
}

void plan_third_rows(block_run *k, const float *features, const int32_t *at, int held, int first, int last,
                     const saibench_follow *follow)
{
    const plan_conv *conv = k->block->conv + 2;
    const size_t begin = (size_t)first * k->sizes[2].width;
    const int n = (last - first) * k->sizes[2].width;
    const saibench_extent line = {1, 1, at ? held : n};
    const plan_span span = {NULL, k->sizes[2], (int)begin};
    saibench_follow here;
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, features, line, k->out + begin * conv->outputs);
    call.positions = at;
    call.n = n;
    call.residual = call.out;
    call.relu = 1;
    if (follow) {
        here = *follow;
        here.out += begin * follow->outputs;
        call.follow = &here;
    }
    plan_conv_run(k->run, &call, conv->row, span);
}

/* conv2 and conv3 everywhere, band by band. */
static void end_in_bands(block_run *k, const plan_second *s)
{
    const saibench_extent size = k->sizes[2];
    const int inner = k->block->conv[2].walk.channels, rows = plan_rows(size);
    const int count = plan_bands(rows, 4.0 * size.width * inner), held = (rows + count - 1) / count;
    float *features = plan_take(k->run, sizeof(float) * held * size.width * inner);
    const saibench_follow *follow = plan_follow(k->run);
    for (int i = 0; i < count; i++) {
        const int first = plan_edge(rows, count, i), last = plan_edge(rows, count, i + 1);
        plan_second_run(k, s, first * size.width, (last - first) * size.width, features, NULL);
        plan_third_rows(k, features, NULL, 0, first, last, follow);
    }
}

int plan_fewer_on_samples(const plan_conv *conv, int64_t samples, int64_t pairs, int64_t positions)
{
    const int64_t in = conv->walk.channels, out = conv->outputs;
    return samples * in * out + pairs * out <= positions * in * out + pairs * in;
}

void plan_note_beyond(block_run *k, const sample_list *samples, const int64_t *pairs, int ran_on_samples)
{
    group_run *run = k->run;
    const plan_conv *conv = k->block->conv + 2;
    const int64_t in = conv->walk.channels, out = conv->outputs;
    const int64_t positions = (int64_t)samples->size.height * samples->size.width;
    const plan_span span = {samples, samples->size, 0};
    const int sign = ran_on_samples ? -1 : 1;
    for (int i = 0; k->block->commutes && i < run->images; i++) {
        const int64_t sampled = plan_of_image(&span, samples->n, i);
        int64_t *beyond = run->args->beyond + (size_t)(run->first + i) * run->network->rows;
        if (plan_fewer_on_samples(conv, sampled, pairs[i], positions) == ran_on_samples)
            continue;
        beyond[conv->row] += sign * (positions - sampled) * in * out;
        beyond[k->block->fill[1].row] -= sign * pairs[i] * (out - in);
    }
}

/* The pairs need no counting if as many as there could be are few enough. */
static int cheaper_on_samples(block_run *k, const sample_list *samples)
{
    const plan_fill *fill = k->block->fill + 1;
    const plan_conv *conv = k->block->conv + 2;
    const int window = fill->kind == FILL_WINDOW ? fill->window : 0;
    const int64_t positions = (int64_t)plan_area(samples->size);
    const int64_t most = (samples->binary ? positions - samples->n : positions) * window * window;
    int64_t *pairs, all = 0;
    if (plan_fewer_on_samples(conv, samples->n, most, positions))
        return 1;
    pairs = plan_zeros(k->run);
    plan_pairs(k, samples, window, pairs);
    for (int i = 0; i < samples->size.images; i++)
        all += pairs[i];
    return plan_fewer_on_samples(conv, samples->n, all, positions);
}

/* Whether conv3 takes less time on the samples. The block's map then takes a pass of its own, which reads and writes
 * all of it: each of its values costs the time of some multiply-accumulates of a convolution. Filled before conv3, a row
 * has conv3's inputs alone, a quarter of that. Below half density that has not paid anywhere. */
static int faster_on_samples(block_run *k, const sample_list *samples)
{
    const plan_conv *conv = k->block->conv + 2;
    const double positions = (double)plan_area(samples->size), in = conv->walk.channels, out = conv->outputs;
    return 2 * samples->n < positions ||
           (positions - samples->n) * in * out >= saibench_isa()->map_value * positions * (out - in);
}

/* conv2 at its samples and its fill where it is needed; the rest of the map is not written. */
static const float *fill_second(block_run *k, const plan_second *s)
{
    group_run *run = k->run;
    const plan_fill *fill = k->block->fill + 1;
    const sample_list *samples = s->samples;
    const int channels = k->block->conv[1].outputs;
    const double begin = plan_now();
    const sample_index index = plan_index(k, samples, fill->window, 1, samples->n);
    float *rows = plan_take(run, sizeof(float) * ((size_t)samples->n + 1) * channels);
    float *filled = plan_take(run, sizeof(float) * plan_area(samples->size) * channels);
    fill_call f = {.rows = rows, .row_stride = channels, .channels = channels, .out = filled};
    f.row1 = plan_rows(samples->size);
    f.wanted = plan_positions(k, fill->needed, k->sizes[1]);
    run->seconds[fill->row] += plan_now() - begin;
    plan_second_run(k, s, 0, samples->n, rows, plan_scale(k, samples));
    f.source = plan_source(k, 2, s->features);
    plan_fill_run(k, fill, &index, &f, NULL);
    return filled;
}

/* conv2's fill and conv3, in whichever order. The fills that look for a row anywhere, or read another map, go over the
 * whole map. */
static void end_commuting(block_run *k, const plan_second *s)
{
    const plan_block *block = k->block;
    const int kind = block->fill[1].kind, banded = kind == FILL_WINDOW || kind == FILL_ZEROS;
    const double begin = plan_now();
    const int on_samples = block->commutes && (!banded || faster_on_samples(k, s->samples)) &&
                           cheaper_on_samples(k, s->samples);
    k->run->seconds[block->fill[1].row] += plan_now() - begin;
    if (on_samples)
        plan_samples_first(k, s, s->samples, 2);
    else if (banded && !block->places)
        plan_fill_first(k, s);
    else
        plan_end_dense(k, fill_second(k, s));
}

void plan_bottleneck(block_run *k)
{
    const plan_block *block = k->block;
    plan_second s;
    s.samples = plan_samples(k, block->computes[1], k->sizes[1]);
    s.offsets = run_offsets(k, s.samples);
    s.features = plan_first(k);
    plan_shortcut(k);
    if (!s.samples)
        end_in_bands(k, &s);
    else if (!block->fill[1].kind)
        plan_samples_first(k, &s, s.samples, 3);
    else if (block->fill[2].kind)
        plan_end_filled(k, fill_second(k, &s), plan_samples(k, block->computes[2], k->sizes[2]));
    else
        end_commuting(k, &s);
}
