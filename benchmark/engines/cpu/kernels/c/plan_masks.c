/* Masks of a block: decided, replaced by those that were given, and listed. */
#include "running.h"

#include <string.h>

void plan_list(group_run *run, const float *mask, saibench_extent size, sample_list *list)
{
    int kind;
    list->size = size;
    list->mask = mask;
    list->starts = plan_take(run, sizeof(int32_t) * ((size_t)plan_rows(size) + 1));
    kind = saibench_count_samples(mask, plan_rows(size), size.width, list->starts, run->threads);
    if (kind < 0)
        plan_fail(run, PLAN_BAD_MASK);
    list->binary = kind;
    list->n = list->starts[plan_rows(size)];
    list->positions = plan_take(run, sizeof(int32_t) * (list->n ? list->n : 1));
    saibench_list_samples(mask, plan_rows(size), size.width, list->starts, list->positions, run->threads);
    list->listed = 1;
}

/* Where the masks of the group begin. */
static float *values_of(const group_run *run, const plan_mask *mask)
{
    return run->args->masks[mask->index] + run->first * run->args->mask_sizes[mask->index];
}

/* One mask is decided: what was given in its place stands, whoever reads it is told, and it is listed. */
static void decided(block_run *k, const plan_mask *mask, saibench_extent size)
{
    group_run *run = k->run;
    const size_t one = (size_t)size.height * size.width;
    float *out = values_of(run, mask);
    run->wrong_mask = mask->index;
    for (int i = 0; run->args->given && i < size.images; i++) {
        const float *given = run->args->given[(size_t)(run->first + i) * run->args->mask_count + mask->index];
        if (given)
            memcpy(out + i * one, given, sizeof(float) * one);
    }
    if (run->network->observed) {
        const saibench_request request = {ASK_DECIDED, k->index, mask->number, 0, 1, 1, size, size, out, NULL};
        plan_ask(run, request);
    }
    plan_list(run, out, size, k->decided + mask->number);
}

static void ask_for(block_run *k, const plan_mask *mask, int what, const float *in, saibench_extent size, int channels,
                    saibench_extent out_size)
{
    const saibench_request request = {what, k->index, mask->number, 0,  channels,
                                      1,    size,     out_size,     in, values_of(k->run, mask)};
    plan_ask(k->run, request);
}

static void decide_learned(block_run *k, const plan_mask *mask, const float *products, int columns,
                           saibench_extent size)
{
    group_run *run = k->run;
    const saibench_extent out_size = plan_out_size(&mask->walk, size);
    const size_t one = (size_t)out_size.height * out_size.width;
    const double begin = plan_now();
    saibench_geometry g = mask->walk;
    float *out = values_of(run, mask);
    const int noisy = mask->kind == MASK_HARD && mask->stochastic;
    const int decide = mask->kind == MASK_RELU              ? MASK_IS_RECTIFIED
                       : mask->kind == MASK_HARD && !noisy ? MASK_IS_HARD
                                                           : MASK_LOGITS;
    float *logits = mask->kind == MASK_VALUES ? plan_take(run, sizeof(float) * plan_area(out_size)) : out;
    g.images = size.images;
    g.height = size.height;
    g.width = size.width;
    g.out_width = out_size.width;
    saibench_mask(&g, products, columns, mask->first, mask->bias, decide, NULL, decide ? mask->grid : 0,
                  logits, run->threads);
    for (int i = 0; i < size.images; i++) {
        const uint64_t *key = run->args->keys + 2 * ((size_t)(run->first + i) * run->args->mask_count + mask->index);
        float *own = out + i * one;
        plan_count(run, i, mask->row, (int64_t)one * g.kernel_h * g.kernel_w * g.channels);
        if (noisy)
            saibench_decide(key, out_size.height, out_size.width, own, mask->grid, own, run->threads);
    }
    if (mask->kind == MASK_VALUES)
        ask_for(k, mask, ASK_VALUES, logits, out_size, 1, out_size);
    decided(k, mask, out_size);
    run->seconds[mask->row] += plan_now() - begin;
}

void plan_decide(block_run *k, int late, const float *x, saibench_extent size, int channels)
{
    const plan_block *block = k->block;
    group_run *run = k->run;
    int passed = late || !run->followed; /* the first pass may have followed on the block before */
    for (int p = 0; p < block->passes; p++) {
        const plan_conv *conv = &block->pass[p].products;
        const float *products = run->space->products;
        if (block->pass[p].late != late)
            continue;
        if (passed) {
            float *own = plan_take(run, sizeof(float) * plan_area(size) * conv->outputs);
            const double begin = plan_now();
            saibench_geometry g;
            conv_call call = plan_call(conv, &g, x, size, own);
            call.narrow = 1;
            if (saibench_run_conv(&call, run->threads))
                plan_fail(run, PLAN_NO_MEMORY);
            run->seconds[conv->row] += plan_now() - begin;
            products = own;
        }
        passed = 1;
        for (int m = 0; m < block->masks; m++)
            if (block->mask[m].kind != MASK_FORWARD && block->mask[m].pass == p)
                decide_learned(k, block->mask + m, products, conv->outputs, size);
    }
    for (int m = 0; m < block->masks; m++) {
        const plan_mask *mask = block->mask + m;
        const saibench_extent out_size = k->sizes[mask->number - 1];
        const double begin = plan_now();
        if (mask->kind != MASK_FORWARD || mask->late != late)
            continue;
        ask_for(k, mask, ASK_FORWARD, x, size, channels, out_size);
        decided(k, mask, out_size);
        run->seconds[mask->row] += plan_now() - begin;
    }
}
