/* Interpolation and the end of a block, shared out in tiles of the map; a tile's groups are the instruction set's. */
#include "follow.h"
#include "instruction_set.h"
#include "threads.h"

#include <string.h>

/* Positions that one thread interpolates at a time, so that the rows around them stay in L2. */
#define BLEND_ROWS 4
#define BLEND_COLUMNS 32

/* Runs the follower on the rows of one tile of a map. */
static void follow_tile(const saibench_follow *follow, const saibench_blend_args *a, int y0, int y1, int x0, int x1)
{
    const float *rows[BLEND_ROWS * BLEND_COLUMNS];
    float *out[BLEND_ROWS * BLEND_COLUMNS];
    int n = 0;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++, n++) {
            const size_t p = (size_t)y * a->width + x;
            rows[n] = a->out + p * a->channels;
            out[n] = follow->out + p * follow->outputs;
        }
    saibench_run_follow(follow, rows, out, a->channels, n);
}

int64_t saibench_blend(const saibench_blend_args *a, const uint8_t *wanted, int row0, int row1,
                       const saibench_follow *follow, int threads)
{
    const int across = (a->width + BLEND_COLUMNS - 1) / BLEND_COLUMNS;
    const int down = (row1 - row0 + BLEND_ROWS - 1) / BLEND_ROWS;
    const int spare = BLEND_LANES - a->window;
    blend_tables tables;
    share shares[MAX_SHARES];
    int64_t pairs = 0;
    /* A group's positions read one stretch of each row of the map, `window` columns plus the group's own width, in one
     * vector: so wide may a group be. */
    memset(&tables, 0, sizeof tables);
    tables.reach = spare < BLEND_REACH ? spare : BLEND_REACH;
    for (int i = 0; a->num && i < a->window; i++) {
        memcpy(tables.num[i] + BLEND_LANES, a->num + i * a->window, sizeof(float) * a->window);
        memcpy(tables.den[i] + BLEND_LANES, a->den + i * a->window, sizeof(float) * a->window);
    }
    saibench_isa();
    threads = threads > MAX_SHARES ? MAX_SHARES : threads;
    saibench_share_out(shares, threads, across * down);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : pairs)
#endif
    {
        const unsigned arithmetic = saibench_flush_subnormals();
        int tile;
        while (saibench_take(shares, threads, saibench_this_thread(), 1, 1, &tile) > 0) {
            const int y0 = row0 + tile / across * BLEND_ROWS, x0 = tile % across * BLEND_COLUMNS;
            const int y1 = y0 + BLEND_ROWS < row1 ? y0 + BLEND_ROWS : row1;
            const int x1 = x0 + BLEND_COLUMNS < a->width ? x0 + BLEND_COLUMNS : a->width;
            pairs += saibench_isa()->blend(a, &tables, wanted, y0, y1, x0, x1);
            if (follow)
                follow_tile(follow, a, y0, y1, x0, x1);
        }
        saibench_restore_arithmetic(arithmetic);
    }
    (void)threads;
    return pairs;
}
