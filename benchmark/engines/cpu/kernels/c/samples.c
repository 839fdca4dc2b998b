/* The sampled positions of a mask: counted, listed, found again by an interpolation, and asked what reads them. */
#include "kernels.h"
#include "threads.h"

#include <float.h>
#include <string.h>

/* Positions that are listed at a time. */
#define LISTED 256
/* Rows of a map that are worth another thread. */
#define ROWS 16

typedef struct {
    const float *mask;
    int width;
    int32_t *starts;
    int fractions, invalid;
} count_call;

static void count_rows(void *context, int first, int n)
{
    count_call *c = context;
    int fractions = 0, invalid = 0;
    for (int y = first; y < first + n; y++) {
        const float *line = c->mask + (size_t)y * c->width;
        int32_t count = 0;
        for (int x = 0; x < c->width; x++) {
            const float m = line[x];
            count += m > 0.0f;
            fractions |= (m != 0.0f) & (m != 1.0f);
            invalid |= !((m >= 0.0f) & (m <= FLT_MAX));
        }
        c->starts[y + 1] = count;
    }
    saibench_or(&c->fractions, fractions);
    saibench_or(&c->invalid, invalid);
}

int saibench_count_samples(const float *mask, int height, int width, int32_t *starts, int threads)
{
    count_call c = {mask, width, starts, 0, 0};
    saibench_for(threads, height, ROWS, count_rows, &c);
    starts[0] = 0;
    for (int y = 0; y < height; y++)
        starts[y + 1] += starts[y];
    return c.invalid ? -1 : !c.fractions;
}

typedef struct {
    const float *mask;
    int width;
    const int32_t *starts;
    int32_t *positions;
} list_call;

static void list_rows(void *context, int begin, int rows)
{
    const list_call *c = context;
    for (int y = begin; y < begin + rows; y++) {
        int32_t *next = c->positions + c->starts[y], *const end = c->positions + c->starts[y + 1];
        for (int32_t first = y * c->width; first < (y + 1) * c->width; first += LISTED) {
            /* No branch on the mask, which is noise by design: every position is written, and only those that are
             * sampled are kept by counting on. Into a buffer of its own, since the write behind the last kept one would
             * fall into the next row of `positions`, which may be another thread's. */
            const int32_t last = first + LISTED < (y + 1) * c->width ? first + LISTED : (y + 1) * c->width;
            int32_t found[LISTED + 1];
            int n = 0;
            for (int32_t p = first; p < last; p++) {
                found[n] = p;
                n += c->mask[p] > 0.0f;
            }
            /* A mask that its owner writes to meanwhile is not what was counted: its list is wrong, but in bounds. */
            n = n < end - next ? n : (int)(end - next);
            memcpy(next, found, sizeof(int32_t) * n);
            next += n;
        }
        while (next < end)
            *next++ = y * c->width;
    }
}

void saibench_list_samples(const float *mask, int height, int width, const int32_t *starts, int32_t *positions,
                           int threads)
{
    list_call c = {mask, width, starts, positions};
    saibench_for(threads, height, ROWS, list_rows, &c);
}

typedef struct {
    const int32_t *positions, *starts;
    int height, width, radius, ring;
    int32_t *index; /* of all images, each with its border */
} index_call;

static void index_rows(void *context, int first, int n)
{
    const index_call *c = context;
    const int padded = c->width + 2 * c->radius, tall = c->height + 2 * c->radius;
    for (int i = first; i < first + n; i++) {
        const int y = i % tall - c->radius, row = i / tall * c->height + y;
        int32_t *line = c->index + (size_t)i * padded;
        memset(line, 0xff, sizeof(int32_t) * padded); /* -1: not sampled, as all of the border */
        if (y < 0 || y >= c->height)
            continue;
        for (int32_t s = c->starts[row]; s < c->starts[row + 1]; s++)
            line[c->positions[s] - row * c->width + c->radius] = c->ring ? s % c->ring : c->positions[s];
    }
}

void saibench_index_samples(const int32_t *positions, const int32_t *starts, int images, int height, int width,
                            int radius, int ring, int32_t *index, int threads)
{
    index_call c = {positions, starts, height, width, radius, ring, index};
    saibench_for(threads, images * (height + 2 * radius), ROWS, index_rows, &c);
}

typedef struct {
    const saibench_geometry *g;
    const int32_t *positions, *starts;
    const float *mask;
    uint8_t *wanted;
} read_call;

static void read_rows(void *context, int first, int n)
{
    const read_call *c = context;
    const saibench_geometry *g = c->g;
    const int out_height = saibench_out_height(g);
    for (int row = first; row < first + n; row++) {
        const int y = row % g->height, before = row / g->height * out_height; /* output rows of the images before */
        uint8_t *line = c->wanted + (size_t)row * g->width;
        const float *m = c->mask ? c->mask + (size_t)row * g->width : NULL;
        memset(line, 0, (size_t)g->width);
        for (int u = 0; u < g->kernel_h; u++) {
            /* The output row whose tap u reads row y, if there is one: y = oy * stride - padding + u * dilation. Walked
             * from the input's side, so that each thread writes rows of its own. */
            const int above = y + g->padding - u * g->dilation, oy = above / g->stride;
            if (above < 0 || above % g->stride || oy >= out_height)
                continue;
            for (int32_t i = c->starts[before + oy]; i < c->starts[before + oy + 1]; i++) {
                const int x = (c->positions[i] - (before + oy) * g->out_width) * g->stride - g->padding;
                for (int v = 0; v < g->kernel_w; v++)
                    if (x + v * g->dilation >= 0 && x + v * g->dilation < g->width)
                        line[x + v * g->dilation] = 1;
            }
        }
        for (int x = 0; m && x < g->width; x++)
            line[x] &= m[x] != 1.0f;
    }
}

void saibench_positions_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts,
                             const float *mask, uint8_t *wanted, int threads)
{
    read_call c = {g, positions, starts, mask, wanted};
    saibench_for(threads, g->images * g->height, ROWS, read_rows, &c);
}
