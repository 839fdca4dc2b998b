/* Images of one size through a network: group by group, phase by phase, block by block. */
#include "plan.h"

#include "running.h"
#include "threads.h"

#include <string.h>
#include <time.h>

void *plan_take(group_run *run, size_t bytes)
{
    void *taken = saibench_take_bytes(run->space->memory, bytes);
    if (!taken)
        plan_fail(run, PLAN_NO_MEMORY);
    return taken;
}

void plan_fail(group_run *run, int error) { longjmp(run->failed, error); }

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

void plan_ask(group_run *run, saibench_request request)
{
    request.image = run->first;
    if (run->args->ask(run->args->caller, &request))
        plan_fail(run, PLAN_ASKED_IN_VAIN);
}

void plan_count(group_run *run, int image, int row, int64_t macs)
{
    run->args->macs[(size_t)(run->first + image) * run->network->rows + row] += macs;
}

static int along(int length, const saibench_geometry *walk)
{
    return (length + 2 * walk->padding - walk->dilation * (walk->kernel_h - 1) - 1) / walk->stride + 1;
}

saibench_extent plan_out_size(const saibench_geometry *walk, saibench_extent in)
{
    const saibench_extent out = {in.images, along(in.height, walk), along(in.width, walk)};
    return out;
}

conv_call plan_call(const plan_conv *conv, saibench_geometry *g, const float *x, saibench_extent in, float *out)
{
    const saibench_extent size = plan_out_size(&conv->walk, in);
    const int border = conv->walk.row_taps ? 2 * conv->walk.padding : 0;
    conv_call call;
    memset(&call, 0, sizeof call);
    *g = conv->walk;
    g->images = in.images;
    g->height = in.height + border;
    g->width = in.width + border;
    g->out_width = size.width;
    call.g = g;
    call.input = x;
    call.packed = conv->packed;
    call.half = conv->half;
    call.bias = conv->bias;
    call.outputs = call.out_stride = conv->outputs;
    call.n = (int)plan_area(size);
    call.out = out;
    if (conv->after) {
        call.after.g = &conv->after->walk;
        call.after.packed = conv->after->packed;
        call.after.half = conv->after->half;
        call.after.outputs = conv->after->outputs;
    }
    return call;
}

/* The first position of an image's in a span's numbers. */
static int64_t begin_of(const plan_span *span, int image)
{
    const int row = image * span->size.height;
    return span->samples ? span->samples->starts[row] : (int64_t)row * span->size.width;
}

int plan_of_image(const plan_span *span, int n, int image)
{
    const int64_t begin = begin_of(span, image), end = begin_of(span, image + 1);
    const int64_t from = span->begin > begin ? span->begin : begin;
    const int64_t to = span->begin + (int64_t)n < end ? span->begin + (int64_t)n : end;
    return to > from ? (int)(to - from) : 0;
}

void plan_conv_time(group_run *run, const conv_call *call, int row)
{
    const double begin = plan_now();
    const int failed = call->n ? saibench_run_conv(call, run->threads) : 0;
    if (failed)
        plan_fail(run, failed & SAIBENCH_OUTSIDE ? PLAN_OUTSIDE : PLAN_NO_MEMORY);
    run->seconds[row] += plan_now() - begin;
}

void plan_conv_run(group_run *run, const conv_call *call, int row, plan_span span)
{
    plan_conv_time(run, call, row);
    for (int i = 0; i < run->images; i++)
        plan_count(run, i, row, plan_of_image(&span, call->n, i) * saibench_conv_macs(call->g, call->outputs));
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
static void expect(group_run *run, const plan_block *next)
{
    run->follows = run->followed = 0;
    for (int i = 0; next && i < next->passes && !run->follows; i++)
        if (!next->pass[i].late) {
            run->follow.packed = next->pass[i].products.packed;
            run->follow.outputs = next->pass[i].products.outputs;
            run->follow.out = run->space->products;
            run->follows = 1;
        }
}

const saibench_follow *plan_follow(group_run *run)
{
    run->followed = run->follows;
    return run->follows ? &run->follow : NULL;
}

static saibench_extent run_one_block(group_run *run, int which, const float *x, saibench_extent size, int is_last)
{
    const plan_block *block = run->network->block + which;
    block_run k;
    memset(&k, 0, sizeof k);
    k.run = run;
    k.block = block;
    k.index = which;
    k.size = size;
    k.out = run->args->maps[which] + run->first * run->args->map_sizes[which];
    k.channels = block->has_shortcut ? block->shortcut.outputs : block->conv[0].walk.channels;
    for (int c = 0; c < block->convolutions; c++)
        k.sizes[c] = plan_out_size(&block->conv[c].walk, c ? k.sizes[c - 1] : size);
    /* Without a projection a block adds to its input in place; a stage's first block must leave it as it is. */
    if (!block->has_shortcut && x != k.out) {
        memcpy(k.out, x, sizeof(float) * plan_area(size) * k.channels);
        x = k.out;
    }
    k.x = x;
    plan_decide(&k, 0, x, size, block->conv[0].walk.channels);
    expect(run, is_last ? NULL : block + 1);
    plan_block_run(&k);
    saibench_give_back(run->space->memory);
    return k.sizes[block->convolutions - 1];
}

/* Height and width of the map that a block reads: nothing of an image's size depends on its masks. */
static saibench_extent size_before(const saibench_network *network, int which, saibench_extent size)
{
    const plan_stem *stem = &network->stem;
    const saibench_geometry pool = {0, 0, 0, 0, 1, stem->pool_kernel, stem->pool_kernel, stem->pool_stride,
                                    stem->pool_padding, 1, 0};
    for (int c = 0; c < stem->convolutions; c++)
        size = plan_out_size(&stem->conv[c].walk, size);
    size = plan_out_size(&pool, size);
    for (int b = 0; b < which; b++)
        for (int c = 0; c < network->block[b].convolutions; c++)
            size = plan_out_size(&network->block[b].conv[c].walk, size);
    return size;
}

static void run_phase(group_run *run, const plan_phase *phase)
{
    const saibench_extent image = {run->images, run->args->height, run->args->width};
    saibench_extent size = size_before(run->network, phase->first, image);
    const float *x;
    if (phase->first == 0) {
        size = image;
        x = plan_stem_run(run, &size);
        saibench_give_back(run->space->memory);
    } else {
        x = run->args->maps[phase->first - 1] + run->first * run->args->map_sizes[phase->first - 1];
    }
    for (int i = phase->first; i <= phase->last; i++) {
        size = run_one_block(run, i, x, size, i == phase->last);
        x = run->args->maps[i] + run->first * run->args->map_sizes[i];
    }
}

typedef struct {
    const saibench_network *network;
    saibench_run_args *args;
    const plan_phase *phase;
    share shares[MAX_THREADS];
    int error;
} groups_task;

/* One group of images through one phase; returns an error. */
static int run_group(groups_task *task, int workspace, int first)
{
    saibench_run_args *args = task->args;
    group_run run;
    int error;
    memset(&run, 0, sizeof run);
    run.network = task->network;
    run.args = args;
    run.space = args->workspace + workspace;
    run.seconds = args->seconds + (size_t)workspace * task->network->rows;
    run.threads = args->workspaces > 1 ? 1 : args->threads;
    run.first = first;
    run.images = args->images - first < task->phase->group ? args->images - first : task->phase->group;
    saibench_give_back(run.space->memory);
    error = setjmp(run.failed);
    if (error == 0)
        run_phase(&run, task->phase);
    else
        saibench_give_back(run.space->memory);
    if (error && saibench_first_error(&task->error, error)) {
        task->args->wrong_image = run.wrong_image;
        task->args->wrong_mask = run.wrong_mask;
    }
    return error;
}

static void run_groups(void *context, int thread)
{
    groups_task *t = context;
    const int group = t->phase->group;
    int which, error = 0;
    while (!error && saibench_take(t->shares, t->args->workspaces, thread, 1, 1, &which) > 0)
        error = run_group(t, thread, which * group);
}

int saibench_run_network(const saibench_network *network, saibench_run_args *args)
{
    groups_task task;
    task.network = network;
    task.args = args;
    task.error = PLAN_DONE;
    for (int p = 0; p < args->phases && task.error == PLAN_DONE; p++) {
        const int group = args->phase[p].group;
        task.phase = args->phase + p;
        saibench_share_out(task.shares, args->workspaces, (args->images + group - 1) / group);
        if (args->workspaces > 1)
            saibench_run(args->workspaces, run_groups, &task);
        else
            run_groups(&task, 0);
    }
    return task.error;
}
