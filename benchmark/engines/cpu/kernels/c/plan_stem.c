/* The stem: an image with its channels last, convolutions, and pooling. */
#include "running.h"

#include <string.h>

static void conv_of(group_run *run, int image, const conv_call *call, int row)
{
    plan_conv_time(run, call, row);
    plan_count(run, image, row, call->n * saibench_conv_macs(call->g, call->outputs));
}

/* The stem's last convolution and the pooling, in bands; a row that two bands pool is kept, not computed again. */
static saibench_extent run_last(group_run *run, int image, const float *x, saibench_extent size)
{
    const plan_stem *stem = &run->network->stem;
    const plan_conv *conv = stem->conv + stem->convolutions - 1;
    const int kernel = stem->pool_kernel, stride = stem->pool_stride, padding = stem->pool_padding;
    const saibench_geometry pool = {0, 0, 0, 0, 1, kernel, kernel, stride, padding, 1, 0};
    const saibench_extent map = plan_out_size(&conv->walk, size), out = plan_out_size(&pool, map);
    const int64_t row_bytes = 4 * (int64_t)map.width * conv->outputs;
    int64_t count = (out.height * row_bytes * stride + BAND_BYTES - 1) / BAND_BYTES;
    float *out_map = run->space->stem_map + image * plan_area(out) * conv->outputs;
    int computed = 0, begin = 0, held;
    float *band;
    count = count < 1 ? 1 : count > out.height ? out.height : count;
    held = (int)((out.height + count - 1) / count) * stride + kernel;
    band = plan_take(run, (size_t)(held * row_bytes));
    for (int i = 0; i < count; i++) {
        const int first = (int)(out.height * (int64_t)i / count), last = (int)(out.height * (i + 1) / count);
        const int above = first * stride - padding, need = above < 0 ? 0 : above;
        const int below = (last - 1) * stride - padding + kernel;
        const int until = last == out.height || below > map.height ? map.height : below;
        double start;
        if (computed > need)
            memmove(band, band + (size_t)(need - begin) * map.width * conv->outputs,
                    (size_t)(computed - need) * (size_t)row_bytes);
        begin = need;
        if (until > computed) {
            saibench_geometry g;
            conv_call call = plan_call(conv, &g, x, size, band + (size_t)(computed - begin) * map.width * conv->outputs);
            call.first = computed * map.width;
            call.n = (until - computed) * map.width;
            call.relu = 1;
            conv_of(run, image, &call, conv->row);
            computed = until;
        }
        start = plan_now();
        saibench_max_pool(band, begin, map.height, map.width, conv->outputs, kernel, stride, padding, first, last,
                          out.width, out_map, run->threads);
        run->seconds[stem->pool_row] += plan_now() - start;
    }
    return out;
}

/* Puts the channels of a pruned stem at their places in maps of all channels. */
static const float *scatter_channels(group_run *run, saibench_extent size)
{
    const plan_stem *stem = &run->network->stem;
    const int have = stem->conv[stem->convolutions - 1].outputs, want = stem->width;
    const size_t rows = plan_area(size);
    float *wide = run->space->scattered;
    memset(wide, 0, sizeof(float) * rows * want);
    for (size_t i = 0; i < rows; i++)
        for (int c = 0; c < have; c++)
            wide[i * want + stem->places[c]] = run->space->stem_map[i * have + c];
    return wide;
}

/* One image's: a stem has few weights and large maps, so that nothing is gained by more at a time. */
static saibench_extent run_one(group_run *run, int image)
{
    const plan_stem *stem = &run->network->stem;
    const int border = stem->conv[0].walk.padding;
    saibench_extent size = {1, run->args->height, run->args->width};
    const size_t padded = (size_t)(size.height + 2 * border) * (size.width + 2 * border);
    const double begin = plan_now();
    float *x = plan_take(run, sizeof(float) * padded * 3);
    run->wrong_image = run->first + image;
    if (!saibench_channels_last(run->args->image[run->first + image], 3, size.height, size.width, border, x,
                                run->threads))
        plan_fail(run, PLAN_BAD_IMAGE);
    run->seconds[stem->conv[0].row] += plan_now() - begin;
    for (int i = 0; i + 1 < stem->convolutions; i++) {
        const saibench_extent out = plan_out_size(&stem->conv[i].walk, size);
        float *y = plan_take(run, sizeof(float) * plan_area(out) * stem->conv[i].outputs);
        saibench_geometry g;
        conv_call call = plan_call(stem->conv + i, &g, x, size, y);
        call.relu = 1;
        conv_of(run, image, &call, stem->conv[i].row);
        x = y;
        size = out;
    }
    return run_last(run, image, x, size);
}

const float *plan_stem_run(group_run *run, saibench_extent *size)
{
    for (int i = 0; i < run->images; i++) {
        *size = run_one(run, i);
        saibench_give_back(run->space->memory);
    }
    size->images = run->images;
    return run->network->stem.places ? scatter_channels(run, *size) : run->space->stem_map;
}
