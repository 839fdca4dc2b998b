/* A bottleneck's end: conv3 on conv2's rows at the samples, then the fill of its output, with shortcut and ReLU in the
 * same pass.
 *
 * The fill is conv3's own (`filled` is 3: M and the bias belong to conv3), or conv2's, which trades places with conv3
 * (2: M belongs to conv2, and conv3's bias comes after the fill).
 *
 * The map's rows are walked in bands. A band's fill reads samples of `radius` map rows above and below it, so the fill
 * lags `radius` rows behind the convolutions; conv3's rows live in a ring that holds the samples of a band and of the
 * window around it, numbered modulo its length, and each band overwrites what no window reads any more. */
#include "running.h"

/* conv3's rows of the samples [begin, end) of a band, into a ring of rows. */
static void run_third(block_run *k, const sample_list *samples, const float *features, int begin, int end, float *ring,
                      int held, int distance, const float *scale, int with_bias)
{
    const plan_conv *conv = k->block->conv + 2;
    for (int i = begin, until; i < end; i = until) {
        until = plan_ring_until(i, end, held);
        const saibench_extent line = {1, 1, until - i};
        const plan_span span = {samples, samples->size, i};
        saibench_geometry g;
        conv_call call = plan_call(conv, &g, features + (size_t)(i - begin) * conv->walk.channels, line,
                                   ring + (size_t)(i % held) * distance);
        call.out_stride = distance;
        call.scale = scale ? scale + i : NULL;
        if (!with_bias)
            call.bias = NULL;
        plan_conv_run(k->run, &call, conv->row, span);
    }
}

void plan_samples_first(block_run *k, const plan_second *s, const sample_list *samples, int filled)
{
    group_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv + 2;
    const plan_fill *fill = block->fill + filled - 1;
    const int rows = plan_rows(samples->size), radius = fill->window / 2;
    const int distance = saibench_row_distance(conv->outputs);
    const int whole = fill->kind == FILL_NEAREST; /* its row may be anywhere: all rows are kept */
    const int inner = conv->walk.channels;
    const int count = plan_bands(rows, (double)samples->n / rows * 4 * (inner + conv->outputs));
    const int32_t *starts = samples->starts;
    const double begin = plan_now();
    const float *scale = plan_scale(k, samples);
    const int held = whole ? samples->n : plan_most_samples(samples, count, 2 * radius);
    const int most = plan_most_samples(samples, count, 0);
    const sample_index index = plan_index(k, samples, fill->window, 1, held);
    float *ring = plan_take(run, sizeof(float) * ((size_t)held + 1) * distance);
    float *features = plan_take(run, sizeof(float) * ((size_t)most + 1) * inner);
    fill_call f = {.rows = ring, .row_stride = distance, .channels = conv->outputs, .out = k->out, .residual = k->out};
    int64_t *pairs = plan_zeros(run);
    int done = 0;
    f.wanted = filled == 3 ? plan_changed(k, 3, samples) : NULL;
    f.bias = filled == 2 ? conv->bias : NULL;
    f.relu = f.ends = 1;
    run->seconds[fill->row] += plan_now() - begin;
    for (int i = 0; i < count; i++) {
        const int first = plan_edge(rows, count, i), last = plan_edge(rows, count, i + 1);
        const int ready = last == rows ? rows : last - radius;
        plan_second_run(k, s, starts[first], starts[last] - starts[first], features, filled == 2 ? scale : NULL);
        run_third(k, samples, features, starts[first], starts[last], ring, held, distance, filled == 3 ? scale : NULL,
                  filled == 3);
        if ((whole && last < rows) || ready <= done)
            continue;
        f.row0 = done;
        f.row1 = done = ready;
        plan_fill_run(k, fill, &index, &f, pairs);
    }
    if (filled == 2)
        plan_note_beyond(k, samples, pairs, 1);
}
