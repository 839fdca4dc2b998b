/* Masks from the products of a map with every tap of every mask: sums of shifted products, and the decision. */
#include "kernels.h"

/* Logits of one output row: for each tap, the products of the input row that it reads, shifted by its column. Tap by
 * tap over the whole row, which vectorises, instead of all taps of one position at a time. `begin` and `end` are the
 * output columns whose tap lies in the map: 0 <= ox * stride + shift < width. */
static void mask_row(const saibench_geometry *g, const float *products, int columns, int first, float bias, int oy,
                     float *line)
{
    for (int ox = 0; ox < g->out_width; ox++)
        line[ox] = bias;
    for (int t = 0; t < g->kernel_h * g->kernel_w; t++) {
        const int y = oy * g->stride - g->padding + t / g->kernel_w * g->dilation;
        const int shift = t % g->kernel_w * g->dilation - g->padding;
        const int begin = shift < 0 ? (g->stride - 1 - shift) / g->stride : 0;
        const int end = shift >= g->width ? 0 : (g->width - 1 - shift) / g->stride + 1;
        const float *p;
        if (y < 0 || y >= g->height)
            continue;
        p = products + ((ptrdiff_t)y * g->width + shift) * columns + first + t;
        for (int ox = begin; ox < end && ox < g->out_width; ox++)
            line[ox] += p[(ptrdiff_t)ox * g->stride * columns];
    }
}

void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias,
                   int out_height, int decide, const float *threshold, int grid, float *out, int threads)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int oy = 0; oy < out_height; oy++) {
        float *line = out + (size_t)oy * g->out_width;
        const float *limit = threshold ? threshold + (size_t)oy * g->out_width : NULL;
        mask_row(g, products, columns, first, bias, oy, line);
        if (!decide)
            continue;
        for (int ox = 0; ox < g->out_width; ox++)
            line[ox] = line[ox] > (limit ? limit[ox] : 0.0f) ? 1.0f : 0.0f;
        if (grid && oy % grid == 0)
            for (int ox = 0; ox < g->out_width; ox += grid)
                line[ox] = 1.0f;
    }
    (void)threads;
}
