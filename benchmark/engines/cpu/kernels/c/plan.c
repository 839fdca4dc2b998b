/* One image through a network: stem, blocks, and what they share. */
#include "plan.h"

#include "running.h"

#include <string.h>
#include <time.h>

/* Bytes that one kernel leaves to the next at a time: they stay in cache between the two. */
#define BAND_BYTES (3 << 20)

void *plan_take(image_run *run, size_t bytes)
{
    void *taken = saibench_take_bytes(run->memory, bytes);
    if (!taken)
        plan_fail(run, PLAN_NO_MEMORY);
    return taken;
}

void plan_fail(image_run *run, int error) { longjmp(run->failed, error); }

double plan_now(void)
{
    struct timespec t;
#ifdef _WIN32
    timespec_get(&t, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void plan_ask(image_run *run, const saibench_request *request)
{
    if (run->args->ask(run->args->caller, request))
        plan_fail(run, PLAN_ASKED_IN_VAIN);
}

static int along(int length, const saibench_geometry *walk)
{
    return (length + 2 * walk->padding - walk->dilation * (walk->kernel_h - 1) - 1) / walk->stride + 1;
}

saibench_extent plan_out_size(const saibench_geometry *walk, saibench_extent in)
{
    const saibench_extent out = {along(in.height, walk), along(in.width, walk)};
    return out;
}

conv_call plan_call(const plan_conv *conv, saibench_geometry *g, const float *x, saibench_extent in, float *out)
{
    const saibench_extent size = plan_out_size(&conv->walk, in);
    const int border = conv->walk.row_taps ? 2 * conv->walk.padding : 0;
    conv_call call;
    memset(&call, 0, sizeof call);
    *g = conv->walk;
    g->height = in.height + border;
    g->width = in.width + border;
    g->out_width = size.width;
    call.g = g;
    call.input = x;
    call.packed = conv->packed;
    call.bias = conv->bias;
    call.outputs = call.out_stride = conv->outputs;
    call.n = size.height * size.width;
    call.out = out;
    if (conv->after) {
        call.after.g = &conv->after->walk;
        call.after.packed = conv->after->packed;
        call.after.outputs = conv->after->outputs;
    }
    return call;
}

void plan_conv_run(image_run *run, const conv_call *call, int row)
{
    const double begin = plan_now();
    const int failed = call->n ? saibench_run_conv(call, run->threads) : 0;
    if (failed)
        plan_fail(run, failed & SAIBENCH_OUTSIDE ? PLAN_OUTSIDE : PLAN_NO_MEMORY);
    run->args->macs[row] += call->n * saibench_conv_macs(call->g, call->outputs);
    run->args->seconds[row] += plan_now() - begin;
}

/* The stem's last convolution and the pooling, in bands; a row that two bands pool is kept, not computed again. */
static saibench_extent run_last(image_run *run, const float *x, saibench_extent size)
{
    const plan_stem *stem = &run->network->stem;
    const plan_conv *conv = stem->conv + stem->convolutions - 1;
    const int kernel = stem->pool_kernel, stride = stem->pool_stride, padding = stem->pool_padding;
    const saibench_geometry pool = {0, 0, 0, 1, kernel, kernel, stride, padding, 1, 0};
    const saibench_extent map = plan_out_size(&conv->walk, size), out = plan_out_size(&pool, map);
    const int64_t row_bytes = 4 * (int64_t)map.width * conv->outputs;
    int64_t count = (out.height * row_bytes * stride + BAND_BYTES - 1) / BAND_BYTES;
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
            plan_conv_run(run, &call, conv->row);
            computed = until;
        }
        start = plan_now();
        saibench_max_pool(band, begin, map.height, map.width, conv->outputs, kernel, stride, padding, first, last,
                          out.width, run->args->stem_map, run->threads);
        run->args->seconds[stem->pool_row] += plan_now() - start;
    }
    return out;
}

/* Puts the channels of a pruned stem at their places in a map of all channels. */
static const float *scatter_channels(image_run *run, saibench_extent size)
{
    const plan_stem *stem = &run->network->stem;
    const int have = stem->conv[stem->convolutions - 1].outputs, want = stem->width;
    const size_t rows = (size_t)size.height * size.width;
    float *wide = run->args->scattered;
    memset(wide, 0, sizeof(float) * rows * want);
    for (size_t i = 0; i < rows; i++)
        for (int c = 0; c < have; c++)
            wide[i * want + stem->places[c]] = run->args->stem_map[i * have + c];
    return wide;
}

static const float *run_stem(image_run *run, saibench_extent *size)
{
    const plan_stem *stem = &run->network->stem;
    const saibench_geometry *first = &stem->conv[0].walk;
    const int border = first->padding;
    const size_t padded = (size_t)(size->height + 2 * border) * (size->width + 2 * border);
    const double begin = plan_now();
    float *x = plan_take(run, sizeof(float) * padded * 3);
    if (!saibench_channels_last(run->args->image, 3, size->height, size->width, border, x, run->threads))
        plan_fail(run, PLAN_BAD_IMAGE);
    run->args->seconds[stem->conv[0].row] += plan_now() - begin;
    for (int i = 0; i + 1 < stem->convolutions; i++) {
        const saibench_extent out = plan_out_size(&stem->conv[i].walk, *size);
        float *y = plan_take(run, sizeof(float) * out.height * out.width * stem->conv[i].outputs);
        saibench_geometry g;
        conv_call call = plan_call(stem->conv + i, &g, x, *size, y);
        call.relu = 1;
        plan_conv_run(run, &call, stem->conv[i].row);
        x = y;
        *size = out;
    }
    *size = run_last(run, x, *size);
    return stem->places ? scatter_channels(run, *size) : run->args->stem_map;
}

void saibench_link_block(saibench_network *network, int which)
{
    plan_block *block = network->block + which;
    if (which > 0)
        block[-1].conv[block[-1].convolutions - 1].after = block->conv;
    block->conv[0].after = block->has_shortcut ? &block->shortcut : block->conv + 1;
    block->shortcut.after = block->conv + 1;
    if (block->convolutions == 3)
        block->conv[1].after = block->conv + 2;
}

/* Says what follows on the rows of a block's map: the products of the next block's first pass over its input. */
static void expect(image_run *run, const plan_block *next)
{
    run->follows = run->followed = 0;
    for (int i = 0; next && i < next->passes && !run->follows; i++)
        if (!next->pass[i].late) {
            run->follow.packed = next->pass[i].products.packed;
            run->follow.outputs = next->pass[i].products.outputs;
            run->follow.out = run->args->products;
            run->follows = 1;
        }
}

const saibench_follow *plan_follow(image_run *run)
{
    run->followed = run->follows;
    return run->follows ? &run->follow : NULL;
}

static void run_all(image_run *run)
{
    const saibench_network *network = run->network;
    saibench_extent size = {run->args->height, run->args->width};
    const float *x = run_stem(run, &size);
    saibench_give_back(run->memory);
    for (int i = 0; i < network->blocks; i++) {
        block_run k;
        const plan_block *block = network->block + i;
        memset(&k, 0, sizeof k);
        k.run = run;
        k.block = block;
        k.index = i;
        k.size = size;
        k.out = run->args->maps[i];
        k.channels = block->has_shortcut ? block->shortcut.outputs : block->conv[0].walk.channels;
        for (int c = 0; c < block->convolutions; c++)
            k.sizes[c] = plan_out_size(&block->conv[c].walk, c ? k.sizes[c - 1] : size);
        /* Without a projection a block adds to its input in place; a stage's first block must leave it as it is. */
        if (!block->has_shortcut && x != k.out) {
            memcpy(k.out, x, sizeof(float) * size.height * size.width * k.channels);
            x = k.out;
        }
        k.x = x;
        plan_decide(&k, 0, x, size, block->conv[0].walk.channels);
        expect(run, i + 1 < network->blocks ? block + 1 : NULL);
        plan_run_block(&k);
        saibench_give_back(run->memory);
        x = k.out;
        size = k.sizes[block->convolutions - 1];
    }
}

int saibench_run_network(const saibench_network *network, saibench_run_args *args)
{
    image_run run;
    int error;
    memset(&run, 0, sizeof run);
    run.network = network;
    run.args = args;
    run.memory = args->memory;
    run.threads = args->threads;
    saibench_give_back(run.memory);
    error = setjmp(run.failed);
    if (error == 0)
        run_all(&run);
    else
        saibench_give_back(run.memory);
    return error;
}
