/* A residual block on a group of images: shortcut and branch, and their sum's ReLU, into the block's map.
 *
 * What runs where is the description's; what is decided in these files is only the order of the work and where its
 * results lie. Here is what both kinds of block do; plan_basic.c and plan_bottleneck.c have the rest of each. */
#include "running.h"

float *plan_first(block_run *k)
{
    group_run *run = k->run;
    const plan_block *block = k->block;
    const plan_conv *conv = block->conv;
    const plan_fill *fill = block->fill;
    const sample_list *samples = plan_samples(k, block->computes[0], k->sizes[0]);
    const plan_span span = {samples, k->sizes[0], 0};
    float *features = run->space->features, *rows = features;
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
            call.scale = plan_scale(k, samples);
        }
    }
    plan_conv_run(run, &call, conv->row, span);
    if (samples && fill->kind) {
        const double begin = plan_now();
        const sample_index index = plan_index(k, samples, fill->window, !samples->binary, samples->n);
        fill_call f = {.rows = rows, .row_stride = conv->outputs, .channels = conv->outputs, .out = features};
        f.row1 = plan_rows(k->sizes[0]);
        f.wanted = samples->binary ? plan_missing(k, fill->needed, samples) : plan_positions(k, fill->needed, k->sizes[0]);
        f.source = plan_source(k, 1, k->x);
        run->seconds[fill->row] += plan_now() - begin;
        plan_fill_run(k, fill, &index, &f, NULL);
    }
    return features;
}

void plan_shortcut(block_run *k)
{
    saibench_geometry g;
    if (k->block->has_shortcut) {
        const conv_call call = plan_call(&k->block->shortcut, &g, k->x, k->size, k->out);
        const plan_span span = {NULL, k->sizes[k->block->convolutions - 1], 0};
        plan_conv_run(k->run, &call, k->block->shortcut.row, span);
    }
}

void plan_end_filled(block_run *k, const float *y, const sample_list *samples)
{
    group_run *run = k->run;
    const int number = k->block->convolutions;
    const plan_conv *conv = k->block->conv + number - 1;
    const plan_fill *fill = k->block->fill + number - 1;
    const int distance = saibench_row_distance(conv->outputs);
    const plan_span span = {samples, samples->size, 0};
    const double begin = plan_now();
    const sample_index index = plan_index(k, samples, fill->window, 1, samples->n);
    float *rows = plan_take(run, sizeof(float) * ((size_t)samples->n + 1) * distance);
    fill_call f = {.rows = rows, .row_stride = distance, .channels = conv->outputs, .out = k->out, .residual = k->out};
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, y, k->sizes[number - 2], rows);
    call.positions = samples->positions;
    call.n = samples->n;
    call.out_stride = distance;
    call.scale = plan_scale(k, samples);
    f.wanted = plan_changed(k, number, samples);
    f.row1 = plan_rows(samples->size);
    f.relu = f.ends = 1;
    run->seconds[fill->row] += plan_now() - begin;
    plan_conv_run(run, &call, conv->row, span);
    f.source = plan_source(k, number, y);
    plan_fill_run(k, fill, &index, &f, NULL);
}

void plan_end_dense(block_run *k, const float *y)
{
    group_run *run = k->run;
    const int number = k->block->convolutions;
    const plan_conv *conv = k->block->conv + number - 1;
    const plan_span span = {NULL, k->sizes[number - 1], 0};
    const size_t rows = plan_area(k->sizes[number - 1]);
    saibench_geometry g;
    conv_call call = plan_call(conv, &g, y, k->sizes[number - 2], k->out);
    if (!k->block->places) {
        call.residual = k->out;
        call.relu = 1;
        call.follow = plan_follow(run);
        plan_conv_run(run, &call, conv->row, span);
        return;
    }
    call.out = plan_take(run, sizeof(float) * rows * conv->outputs);
    plan_conv_run(run, &call, conv->row, span);
    for (size_t i = 0; i < rows; i++) {
        float *out = k->out + i * k->channels;
        for (int c = 0; c < conv->outputs; c++)
            out[k->block->places[c]] += call.out[i * conv->outputs + c];
        for (int c = 0; c < k->channels; c++)
            out[c] = out[c] < 0.0f ? 0.0f : out[c];
    }
}

void plan_block_run(block_run *k)
{
    if (k->block->convolutions == 3)
        plan_bottleneck(k);
    else
        plan_basic(k);
}
