/* Masks from the products of a map with every tap of every mask: sums of shifted products, and the decision. */
#include "kernels.h"
#include "threads.h"

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

typedef struct {
    const saibench_geometry *g;
    const float *products;
    int columns, first;
    float bias;
    int decide;
    const float *threshold;
    int grid;
    float *out;
} mask_call;

static void mask_rows(void *context, int first, int n)
{
    const mask_call *c = context;
    const int width = c->g->out_width, height = saibench_out_height(c->g);
    for (int oy = first; oy < first + n; oy++) {
        float *line = c->out + (size_t)oy * width;
        const float *limit = c->threshold ? c->threshold + (size_t)oy * width : NULL;
        const float *products = c->products + (size_t)(oy / height) * c->g->height * c->g->width * c->columns;
        const int y = oy % height;
        mask_row(c->g, products, c->columns, c->first, c->bias, y, line);
        if (c->decide == MASK_IS_HARD)
            for (int ox = 0; ox < width; ox++)
                line[ox] = line[ox] > (limit ? limit[ox] : 0.0f) ? 1.0f : 0.0f;
        else if (c->decide == MASK_IS_RECTIFIED)
            for (int ox = 0; ox < width; ox++)
                line[ox] = line[ox] < 0.0f ? 0.0f : line[ox]; /* what is no number stays none, as in PyTorch */
        if (c->grid && y % c->grid == 0)
            for (int ox = 0; ox < width; ox += c->grid)
                line[ox] = line[ox] < 1.0f ? 1.0f : line[ox];
    }
}

void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias,
                   int decide, const float *threshold, int grid, float *out, int threads)
{
    mask_call c = {g, products, columns, first, bias, decide, threshold, grid, out};
    saibench_for(threads, g->images * saibench_out_height(g), 8, mask_rows, &c);
}
