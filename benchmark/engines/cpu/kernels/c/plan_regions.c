/* The regions of a block's work on one image (`benchmark.nn.work`): which region a convolution computes, reads or fills
 * the description says; here it becomes what kernels take. */
#include "running.h"

#include <string.h>

static saibench_geometry on(const saibench_geometry *walk, saibench_extent in)
{
    saibench_geometry g = *walk;
    g.images = in.images;
    g.height = in.height;
    g.width = in.width;
    g.out_width = plan_out_size(walk, in).width;
    return g;
}

/* A mask with ones at some positions, or at all. */
static const float *mask_of(group_run *run, const uint8_t *positions, saibench_extent size)
{
    float *mask = plan_take(run, sizeof(float) * plan_area(size));
    for (size_t i = 0; i < plan_area(size); i++)
        mask[i] = !positions || positions[i] ? 1.0f : 0.0f;
    return mask;
}

/* The samples that a convolution reads for: where its own output is computed. */
static const sample_list *readers(block_run *k, const plan_region *region, saibench_extent size)
{
    const saibench_extent out = plan_out_size(&region->walk, size);
    const sample_list *samples = plan_samples(k, region->of, out);
    if (!samples) {
        sample_list *all = k->lists + region->of;
        plan_list(k->run, mask_of(k->run, NULL, out), out, all);
        all->listed = 0; /* everywhere is not a list for anybody else */
        samples = all;
    }
    return samples;
}

static uint8_t *read_by(block_run *k, const plan_region *region, saibench_extent size, const float *missing_of)
{
    const sample_list *samples = readers(k, region, size);
    const saibench_geometry g = on(&region->walk, size);
    uint8_t *wanted = plan_take(k->run, plan_area(size));
    saibench_positions_read(&g, samples->positions, samples->starts, missing_of, wanted, k->run->threads);
    return wanted;
}

/* The mask inside of a region at every stride-th position. */
static const float *subsampled(block_run *k, const plan_region *region, saibench_extent *size)
{
    const plan_region *inside = k->block->region + region->of;
    saibench_extent from;
    const float *mask;
    float *out;
    if (inside->kind == REGION_SUBSAMPLED) {
        mask = subsampled(k, inside, &from);
    } else {
        from = k->decided[inside->mask].size;
        mask = k->decided[inside->mask].mask;
    }
    size->images = from.images;
    size->height = (from.height - 1) / region->stride_y + 1;
    size->width = (from.width - 1) / region->stride_x + 1;
    out = plan_take(k->run, sizeof(float) * plan_area(*size));
    for (int row = 0; row < plan_rows(*size); row++) {
        const int y = row / size->height * from.height + row % size->height * region->stride_y;
        for (int x = 0; x < size->width; x++)
            out[(size_t)row * size->width + x] = mask[(size_t)y * from.width + (size_t)x * region->stride_x];
    }
    return out;
}

const sample_list *plan_samples(block_run *k, int which, saibench_extent size)
{
    const plan_region *region = k->block->region + which;
    sample_list *list = k->lists + which;
    if (region->kind == REGION_EVERYWHERE)
        return NULL;
    if (region->kind == REGION_SAMPLED)
        return k->decided + region->mask;
    if (!list->listed) {
        const float *mask = region->kind == REGION_SUBSAMPLED ? subsampled(k, region, &size)
                                                              : mask_of(k->run, read_by(k, region, size, NULL), size);
        plan_list(k->run, mask, size, list);
    }
    return list;
}

const uint8_t *plan_positions(block_run *k, int which, saibench_extent size)
{
    const plan_region *region = k->block->region + which;
    const sample_list *list;
    uint8_t *positions;
    if (region->kind == REGION_EVERYWHERE)
        return NULL;
    if (region->kind == REGION_READ_BY)
        return read_by(k, region, size, NULL);
    list = plan_samples(k, which, size);
    positions = plan_take(k->run, plan_area(size));
    for (size_t i = 0; i < plan_area(size); i++)
        positions[i] = list->mask[i] > 0.0f;
    return positions;
}

const uint8_t *plan_missing(block_run *k, int which, const sample_list *samples)
{
    const plan_region *region = k->block->region + which;
    const uint8_t *positions;
    uint8_t *missing;
    if (region->kind == REGION_READ_BY)
        return read_by(k, region, samples->size, samples->mask);
    positions = plan_positions(k, which, samples->size);
    missing = plan_take(k->run, plan_area(samples->size));
    for (size_t i = 0; i < plan_area(samples->size); i++)
        missing[i] = (!positions || positions[i]) && samples->mask[i] != 1.0f;
    return missing;
}
