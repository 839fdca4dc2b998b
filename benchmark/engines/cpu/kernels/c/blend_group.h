/* Groups of neighbouring missing positions, which an interpolation fills together: what they are, and how they are
 * gathered without any instruction set. The sums over their rows are in isa/template/blend.h. */
#ifndef SAIBENCH_BLEND_GROUP_H
#define SAIBENCH_BLEND_GROUP_H

#include "kernels.h"
#include "portability.h"

/* Positions that share loads, and how many columns the last of them may lie behind the first. */
#define BLEND_GROUP 4
#define BLEND_REACH 5
/* The widest window, and the columns of the map that the windows of a group span at most: a set of lanes then fits into
 * 32 bits. Windows up to NARROW_WINDOW, all that matter for speed, span half of them: one vector of AVX-512. */
#define MAX_WINDOW 31
#define NARROW_WINDOW 15
#define BLEND_LANES 32

/* Kernels with zeros on both sides, so that each position of a group reads its own weights at its own shift: the weight
 * of a neighbour in row i and column j of a group's window is, for a position `shift` columns on, the number at
 * BLEND_AT(i, j) - shift. `shift` is BLEND_REACH at most, so that BLEND_ZEROS before a line are enough; behind it are
 * those of the next. Behind all of them stands a 1, for the row of a nearest fill. */
#define BLEND_ZEROS 16
#define BLEND_LINE (BLEND_ZEROS + BLEND_LANES)
#define BLEND_AT(i, j) ((i) * BLEND_LINE + BLEND_ZEROS + (j))
#define BLEND_ONE (MAX_WINDOW * BLEND_LINE)
typedef struct {
    int reach;
    float num[BLEND_ONE + 1], den[BLEND_ONE + 1];
} blend_tables;

/* Neighbouring positions that are filled together: the sampled rows around them, and where each one's weights stand.
 * Behind the last row is room for a whole vector, since vectors are stored of which only the sampled lanes count. */
#define BLEND_NEIGHBOURS ((MAX_WINDOW + 1) * BLEND_LANES)
typedef struct {
    int size, count, y, x;
    int32_t position[BLEND_GROUP], own[BLEND_GROUP], shift[BLEND_GROUP];
    float rest[BLEND_GROUP], factor[BLEND_GROUP], own_factor[BLEND_GROUP];
    int32_t row[BLEND_NEIGHBOURS], at[BLEND_NEIGHBOURS];
} blend_group;

/* A tile of the map, which one thread interpolates at a time, so that the rows around it stay in L2. */
#define BLEND_COLUMNS 32
#define BLEND_ROWS 4

/* M at a position, 0 where nothing is sampled. */
static inline float blend_gate(const saibench_blend_args *a, size_t centre)
{
    return a->index[centre] < 0 ? 0.0f : a->gate ? a->gate[centre] : 1.0f;
}

static inline size_t blend_centre(const saibench_blend_args *a, int y, int x)
{
    const int radius = a->window / 2;
    return (size_t)(y + radius) * (a->width + 2 * radius) + x + radius;
}

/* The wanted positions of one row of a tile: those that their own row alone makes, and those that their window does. No
 * branch on the mask, which is noise by design: each position is written to both lists, and counted in one. */
static inline void blend_sort(const saibench_blend_args *a, const uint8_t *wanted, int y, int x0, int x1, int32_t *own,
                              int *owns, int32_t *around, int *arounds)
{
    const size_t begin = blend_centre(a, y, 0);
    const int windowed = a->num != NULL || a->nearest != NULL;
    int n = 0, m = 0;
    for (int x = x0; x < x1; x++) {
        const int here = !wanted || wanted[(size_t)y * a->width + x];
        const int missing = windowed & (blend_gate(a, begin + x) != 1.0f);
        own[n] = around[m] = x;
        n += here & !missing;
        m += here & missing;
    }
    *owns = n;
    *arounds = m;
}

/* Adds a position to a group, whose rows are then none but its own. */
static inline void blend_add(const saibench_blend_args *a, blend_group *group, int y, int x)
{
    const size_t centre = blend_centre(a, y, x);
    const float gate = blend_gate(a, centre);
    const int g = group->size++;
    if (g == 0) {
        group->y = y;
        group->x = x;
        group->count = 0;
    }
    group->position[g] = (y - a->out_row) * a->width + x;
    group->own[g] = a->index[centre];
    group->own_factor[g] = a->squared ? gate : 1.0f;
    group->rest[g] = 1.0f - gate;
    group->factor[g] = 0.0f;
    group->shift[g] = x - group->x;
}

/* Makes a group's rows the one that fills its one position. */
static inline void blend_nearest(const saibench_blend_args *a, blend_group *group)
{
    group->row[0] = a->nearest[group->position[0] + a->out_row * a->width];
    group->at[0] = BLEND_ONE;
    group->count = group->row[0] >= 0;
    group->factor[0] = group->rest[0];
}

/* Which lanes of each row of a window are sampled: four rows a word, or, of `wide` windows, two. */
typedef struct {
    uint64_t rows[(MAX_WINDOW + 1) / 2];
} blend_sets;

ALWAYS_INLINE void blend_note(const int wide, blend_sets *sets, int row, int first_lane, unsigned sampled)
{
    const int words = wide ? 2 : 4, bits = 64 / words;
    sets->rows[row / words] |= (uint64_t)sampled << (row % words * bits + first_lane);
}

/* Finishes a group that has been collected: factors, from the sums of each position's weights, and the number of
 * (position, neighbour) pairs. */
ALWAYS_INLINE int64_t blend_close(const int wide, const saibench_blend_args *a, blend_group *group, const float *den,
                                  const blend_sets *sets)
{
    const uint64_t row = ((uint64_t)1 << a->window) - 1;
    const uint64_t window = wide ? 0x0000000100000001u * row : 0x0001000100010001u * row;
    const int words = wide ? 2 : 4;
    int64_t pairs = 0;
    for (int g = 0; g < group->size; g++)
        for (int i = 0; words * i < a->window; i++)
            pairs += POPCOUNT(sets->rows[i] & window << group->shift[g]);
    for (int g = 0; g < BLEND_GROUP; g++)
        group->factor[g] = group->rest[g] / (den[g] + SAIBENCH_EPSILON);
    return pairs;
}

/* The sampled rows around a group and where their weights are, without branches on the mask (it is noise by design).
 * Returns the number of (position, neighbour) pairs. */
ALWAYS_INLINE int64_t collect_lanes_portable(const int wide, const saibench_blend_args *a, const blend_tables *tables,
                                             blend_group *group)
{
    /* The index has a border of half a window on each side, so that the window of a position at (y, x) begins at
     * (y, x) in it. */
    const int window = a->window, padded = a->width + 2 * (window / 2);
    const int lanes = window + group->shift[group->size - 1];
    size_t at = (size_t)group->y * padded + group->x;
    float den[BLEND_GROUP] = {0.0f, 0.0f, 0.0f, 0.0f};
    blend_sets sets = {{0}};
    int count = 0;
    for (int i = 0; i < window; i++, at += padded)
        for (int j = 0; j < lanes; j++) {
            const int32_t row = a->index[at + j];
            const int sampled = row >= 0;
            const float gate = sampled ? a->gate ? a->gate[at + j] : 1.0f : 0.0f;
            /* Written always, counted when sampled: the next one overwrites what is not. */
            group->row[count] = row;
            group->at[count] = BLEND_AT(i, j);
            blend_note(wide, &sets, i, j, (unsigned)sampled);
            for (int g = 0; g < group->size; g++)
                den[g] += tables->den[BLEND_AT(i, j) - group->shift[g]] * gate;
            count += sampled;
        }
    group->count = count;
    return blend_close(wide, a, group, den, &sets);
}

#endif
