/* Interpolation and the end of a block, shared out in tiles of the map; a tile's groups are the instruction set's. */
#include "follow.h"
#include "instruction_set.h"
#include "threads.h"

#include <string.h>

/* Runs the follower on the rows of one tile of a map. */
static void follow_tile(const saibench_follow *follow, const saibench_blend_args *a, int y0, int y1, int x0, int x1)
{
    const float *rows[BLEND_ROWS * BLEND_COLUMNS];
    float *out[BLEND_ROWS * BLEND_COLUMNS];
    int n = 0;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++, n++) {
            const size_t p = (size_t)(y - a->out_row) * a->width + x;
            rows[n] = a->out + p * a->channels;
            out[n] = follow->out + p * follow->outputs;
        }
    saibench_run_follow(follow, rows, out, a->channels, n);
}

typedef struct {
    const saibench_blend_args *a;
    const uint8_t *wanted;
    const saibench_follow *follow;
    int row0, row1, across, threads;
    share shares[MAX_THREADS];
    blend_tables tables;
} blend_call;

static void blend_tiles(void *context, int thread)
{
    blend_call *c = context;
    const saibench_blend_args *a = c->a;
    const unsigned arithmetic = saibench_flush_subnormals();
    const int border = a->window - 1, line = a->width + border;
    int tile;
    while (saibench_take(c->shares, c->threads, thread, 1, 1, &tile) > 0) {
        const int y0 = c->row0 + tile / c->across * BLEND_ROWS, x0 = tile % c->across * BLEND_COLUMNS;
        const int y1 = y0 + BLEND_ROWS < c->row1 ? y0 + BLEND_ROWS : c->row1;
        const int x1 = x0 + BLEND_COLUMNS < a->width ? x0 + BLEND_COLUMNS : a->width;
        /* The index has a border around each image's map: rows of the tile from there on, image by image. */
        for (int y = y0, next; y < y1; y = next) {
            const int image = y / a->height, end = (image + 1) * a->height;
            saibench_blend_args own = *a;
            next = end < y1 ? end : y1;
            own.index += (size_t)image * border * line;
            own.gate = a->gate ? a->gate + (size_t)image * border * line : NULL;
            saibench_add(a->pairs + image, saibench_isa()->blend(&own, &c->tables, c->wanted, y, next, x0, x1));
        }
        if (c->follow)
            follow_tile(c->follow, a, y0, y1, x0, x1);
    }
    saibench_restore_arithmetic(arithmetic);
}

int saibench_row_distance(int channels) { return channels % 512 ? channels : channels + 16; }

void saibench_blend(const saibench_blend_args *a, const uint8_t *wanted, int row0, int row1,
                    const saibench_follow *follow, int threads)
{
    const int across = (a->width + BLEND_COLUMNS - 1) / BLEND_COLUMNS;
    const int down = (row1 - row0 + BLEND_ROWS - 1) / BLEND_ROWS;
    const int spare = (a->window > NARROW_WINDOW ? MAX_WINDOW : NARROW_WINDOW) + 1 - a->window;
    blend_call c;
    c.a = a;
    c.wanted = wanted;
    c.follow = follow;
    c.row0 = row0;
    c.row1 = row1;
    c.across = across;
    c.threads = threads;
    /* A group's positions read one stretch of each row of the map, `window` columns plus the group's own width, in as
     * many lanes as there are: so wide may a group be. */
    memset(c.tables.num, 0, sizeof(float) * a->window * BLEND_LINE);
    memset(c.tables.den, 0, sizeof(float) * a->window * BLEND_LINE);
    c.tables.num[BLEND_ONE] = 1.0f;
    c.tables.reach = spare < BLEND_REACH ? spare : BLEND_REACH;
    for (int i = 0; a->num && i < a->window; i++) {
        memcpy(c.tables.num + BLEND_AT(i, 0), a->num + i * a->window, sizeof(float) * a->window);
        memcpy(c.tables.den + BLEND_AT(i, 0), a->den + i * a->window, sizeof(float) * a->window);
    }
    saibench_isa();
    saibench_share_out(c.shares, threads, across * down);
    saibench_run(threads, blend_tiles, &c);
}
