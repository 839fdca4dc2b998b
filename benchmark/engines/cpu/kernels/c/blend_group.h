/* Groups of neighbouring missing positions, which an interpolation fills together: what they are, and how they are
 * gathered without any instruction set. The sums over their rows are in isa/template/blend.h. */
#ifndef SAIBENCH_BLEND_GROUP_H
#define SAIBENCH_BLEND_GROUP_H

#include "kernels.h"

/* Positions that share loads, and the columns of the map that their windows may span. */
#define BLEND_GROUP 4
#define BLEND_REACH 5
#define BLEND_LANES 16
#define MAX_WINDOW 15

/* Kernels with zeros on both sides, so that each position of a group reads its own weights at its own shift. */
typedef struct {
    int reach;
    float num[MAX_WINDOW][3 * BLEND_LANES], den[MAX_WINDOW][3 * BLEND_LANES];
} blend_tables;

/* Neighbouring positions that are filled together: the sampled rows around them with one weight per position. */
typedef struct {
    int size, windowed, count, y, x;
    int32_t position[BLEND_GROUP], own[BLEND_GROUP], shift[BLEND_GROUP];
    float rest[BLEND_GROUP], factor[BLEND_GROUP], own_factor[BLEND_GROUP];
    int32_t row[(MAX_WINDOW + 1) * BLEND_LANES];
    float weight[BLEND_GROUP][(MAX_WINDOW + 1) * BLEND_LANES];
} blend_group;

/* Makes a group of one position from what does not come from the window: its own row, M, and the one row of a nearest
 * fill. Returns whether the window is to be walked as well. */
static inline int blend_needs_window(const saibench_blend_args *a, int y, int x, blend_group *single)
{
    const int radius = a->window / 2, padded = a->width + 2 * radius;
    const int32_t p = y * a->width + x;
    const size_t centre = (size_t)(y + radius) * padded + x + radius;
    const int32_t own = a->index[centre];
    const float gate = own < 0 ? 0.0f : a->gate ? a->gate[centre] : 1.0f;
    single->size = 1;
    single->windowed = single->count = 0;
    single->position[0] = p;
    single->own[0] = own;
    single->own_factor[0] = a->squared ? gate : 1.0f;
    single->rest[0] = 1.0f - gate;
    single->factor[0] = 0.0f;
    if (gate == 1.0f)
        return 0;
    if (a->nearest && a->nearest[p] >= 0) {
        single->row[0] = a->nearest[p];
        single->weight[0][0] = 1.0f;
        single->count = 1;
        single->factor[0] = single->rest[0];
    }
    return a->num != NULL;
}

static inline void blend_add(blend_group *group, const blend_group *single, int y, int x)
{
    const int g = group->size++;
    if (g == 0) {
        group->windowed = 1;
        group->y = y;
        group->x = x;
    }
    group->position[g] = single->position[0];
    group->own[g] = single->own[0];
    group->own_factor[g] = single->own_factor[0];
    group->rest[g] = single->rest[0];
    group->shift[g] = x - group->x;
}

/* The sampled rows around a group and each position's weights, without branches on the mask (it is noise by design).
 * Returns the number of (position, neighbour) pairs. */
static inline int64_t collect_portable(const saibench_blend_args *a, const blend_tables *tables, blend_group *group)
{
    /* The index has a border of half a window on each side, so that the window of a position at (y, x) begins at
     * (y, x) in it. */
    const int window = a->window, padded = a->width + 2 * (window / 2);
    const int lanes = window + group->shift[group->size - 1];
    size_t at = (size_t)group->y * padded + group->x;
    float den[BLEND_GROUP] = {0.0f, 0.0f, 0.0f, 0.0f};
    int64_t pairs = 0;
    int count = 0;
    for (int i = 0; i < window; i++, at += padded)
        for (int j = 0; j < lanes; j++) {
            const int32_t row = a->index[at + j];
            const int sampled = row >= 0;
            const float gate = sampled ? a->gate ? a->gate[at + j] : 1.0f : 0.0f;
            /* Written always, counted when sampled: the next one overwrites what is not. */
            group->row[count] = row;
            for (int g = 0; g < group->size; g++) {
                const int column = BLEND_LANES + j - group->shift[g];
                const int inside = column >= BLEND_LANES && column < BLEND_LANES + window;
                group->weight[g][count] = tables->num[i][column];
                den[g] += tables->den[i][column] * gate;
                pairs += sampled & inside;
            }
            count += sampled;
        }
    group->count = count;
    for (int g = 0; g < group->size; g++)
        group->factor[g] = group->rest[g] / (den[g] + a->eps);
    return pairs;
}

#endif
