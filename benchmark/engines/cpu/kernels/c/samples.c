/* The sampled positions of a mask: counted, listed, found again by an interpolation, and asked what reads them. */
#include "kernels.h"

#include <float.h>
#include <string.h>

/* Positions that are listed at a time. */
#define LISTED 256

int saibench_count_samples(const float *mask, int height, int width, int32_t *starts, int threads)
{
    int fractions = 0, invalid = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) reduction(| : fractions, invalid)
#endif
    for (int y = 0; y < height; y++) {
        const float *line = mask + (size_t)y * width;
        int32_t count = 0;
        for (int x = 0; x < width; x++) {
            const float m = line[x];
            count += m > 0.0f;
            fractions |= (m != 0.0f) & (m != 1.0f);
            invalid |= !((m >= 0.0f) & (m <= FLT_MAX));
        }
        starts[y + 1] = count;
    }
    starts[0] = 0;
    for (int y = 0; y < height; y++)
        starts[y + 1] += starts[y];
    (void)threads;
    return invalid ? -1 : !fractions;
}

void saibench_list_samples(const float *mask, int height, int width, const int32_t *starts, int32_t *positions,
                           int threads)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int y = 0; y < height; y++) {
        int32_t *next = positions + starts[y];
        for (int32_t first = y * width; first < (y + 1) * width; first += LISTED) {
            /* No branch on the mask, which is noise by design: every position is written, and only those that are
             * sampled are kept by counting on. Into a buffer of its own, since the write behind the last kept one would
             * fall into the next row of `positions`, which may be another thread's. */
            const int32_t last = first + LISTED < (y + 1) * width ? first + LISTED : (y + 1) * width;
            int32_t found[LISTED];
            int n = 0;
            for (int32_t p = first; p < last; p++) {
                found[n] = p;
                n += mask[p] > 0.0f;
            }
            memcpy(next, found, sizeof(int32_t) * n);
            next += n;
        }
    }
    (void)threads;
}

void saibench_index_samples(const int32_t *positions, const int32_t *starts, int height, int width, int radius,
                            int ring, int32_t *index, int threads)
{
    const int padded = width + 2 * radius;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int y = -radius; y < height + radius; y++) {
        int32_t *line = index + (size_t)(y + radius) * padded;
        memset(line, 0xff, sizeof(int32_t) * padded); /* -1: not sampled, as all of the border */
        if (y < 0 || y >= height)
            continue;
        for (int32_t i = starts[y]; i < starts[y + 1]; i++)
            line[positions[i] - y * width + radius] = ring ? i % ring : positions[i];
    }
    (void)threads;
}

void saibench_positions_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts,
                             int out_height, const float *mask, uint8_t *wanted, int threads)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int y = 0; y < g->height; y++) {
        uint8_t *line = wanted + (size_t)y * g->width;
        const float *m = mask ? mask + (size_t)y * g->width : NULL;
        memset(line, 0, (size_t)g->width);
        for (int u = 0; u < g->kernel_h; u++) {
            /* The output row whose tap u reads row y, if there is one: y = oy * stride - padding + u * dilation. Walked
             * from the input's side, so that each thread writes rows of its own. */
            const int above = y + g->padding - u * g->dilation, oy = above / g->stride;
            if (above < 0 || above % g->stride || oy >= out_height)
                continue;
            for (int32_t i = starts[oy]; i < starts[oy + 1]; i++) {
                const int x = (positions[i] - oy * g->out_width) * g->stride - g->padding;
                for (int v = 0; v < g->kernel_w; v++)
                    if (x + v * g->dilation >= 0 && x + v * g->dilation < g->width)
                        line[x + v * g->dilation] = 1;
            }
        }
        for (int x = 0; m && x < g->width; x++)
            line[x] &= m[x] != 1.0f;
    }
    (void)threads;
}
