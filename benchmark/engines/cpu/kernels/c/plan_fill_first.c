/* A bottleneck's end: conv2 at its samples, the fill of its output, and conv3 everywhere, which adds the shortcut while it
 * has its sums in registers.
 *
 * Bands and ring are those of plan_samples_first.c, but of conv2's rows; behind the ring lie the rows that a band's fill
 * makes, and conv3 takes each position's row from where it is. */
#include "running.h"

/* conv2's rows of the samples [begin, end), into a ring of rows. */
static void run_second_into(block_run *k, const plan_second *s, int begin, int end, float *ring, int held,
                            const float *scale)
{
    const int channels = k->block->conv[1].outputs;
    for (int i = begin, until; i < end; i = until) {
        until = plan_ring_until(i, end, held);
        plan_second_run(k, s, i, until - i, ring + (size_t)(i % held) * channels, scale);
    }
}

/* The row of each position of rows [first, last) of the map: a sample's own, by the index, or behind `held` rows the one
 * of its place. */
static void name_rows(const sample_index *index, int held, int first, int last, int32_t *at)
{
    const int width = index->samples->size.width, height = index->samples->size.height, radius = index->window / 2;
    for (int row = first, p = 0; row < last; row++, p += width) {
        const size_t line = (size_t)(row + (row / height * 2 + 1) * radius) * (width + 2 * radius) + radius;
        for (int x = 0; x < width; x++) {
            const int32_t own = index->index[line + x];
            at[p + x] = own >= 0 && !index->gate ? own : held + p + x;
        }
    }
}

void plan_fill_first(block_run *k, const plan_second *s)
{
    group_run *run = k->run;
    const sample_list *samples = s->samples;
    const plan_fill *fill = k->block->fill + 1;
    const int rows = plan_rows(samples->size), width = samples->size.width, radius = fill->window / 2;
    const int channels = k->block->conv[1].outputs, count = plan_bands(rows, 4.0 * width * channels);
    const int most = ((rows + count - 1) / count + radius) * width;
    const int32_t *starts = samples->starts;
    const saibench_follow *follow = plan_follow(run);
    const double begin = plan_now();
    const float *scale = plan_scale(k, samples);
    const uint8_t *missing = samples->binary ? plan_missing(k, fill->needed, samples) : NULL;
    const int held = plan_most_samples(samples, count, 2 * radius);
    float *ring = plan_take(run, sizeof(float) * ((size_t)held + most) * channels);
    int32_t *at = plan_take(run, sizeof(int32_t) * most);
    int64_t *pairs = plan_zeros(run);
    const sample_index index = plan_index(k, samples, fill->window, 1, held);
    fill_call f = {.rows = ring, .row_stride = channels, .channels = channels, .wanted = missing};
    int done = 0;
    f.out = ring + (size_t)held * channels;
    run->seconds[fill->row] += plan_now() - begin;
    for (int i = 0; i < count; i++) {
        const int first = plan_edge(rows, count, i), last = plan_edge(rows, count, i + 1);
        const int ready = last == rows ? rows : last - radius;
        run_second_into(k, s, starts[first], starts[last], ring, held, scale);
        if (ready <= done)
            continue;
        f.out_row = f.row0 = done;
        f.row1 = ready;
        plan_fill_run(k, fill, &index, &f, pairs);
        name_rows(&index, held, done, ready, at);
        plan_third_rows(k, ring, at, held + most, done, ready, follow);
        done = ready;
    }
    plan_note_beyond(k, samples, pairs, 0);
}
