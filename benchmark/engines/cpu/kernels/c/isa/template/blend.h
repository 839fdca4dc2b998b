/* Weighted sums of one group's rows for `nv` vectors of channels, then the end of the block for them. A row is loaded
 * once for all positions of the group: the sums are bound by loads, not by arithmetic. */
ALWAYS_INLINE void ISA(blend_vectors)(const int size, const int nv, const int partial, const saibench_blend_args *a,
                                      const blend_tables *tables, const blend_group *group, int channel, int left)
{
    const float *weights[BLEND_GROUP];
    const int more = channel + nv * VW < a->channels; /* whether the rows are read on, and so worth fetching on */
    V acc[BLEND_GROUP][BLEND_VECTORS];
    const int relu = a->relu;
    const float *rows = a->rows + channel, *bias = a->bias ? a->bias + channel : NULL;
    const size_t stride = (size_t)a->row_stride;
    UNROLL(4)
    for (int g = 0; g < size; g++) {
        weights[g] = tables->num - group->shift[g];
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            acc[g][j] = VZERO();
    }
    for (int q = 0; q < group->count; q++) {
        const float *row = rows + (size_t)group->row[q] * stride;
        const ptrdiff_t at = group->at[q];
        V v[BLEND_VECTORS];
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            v[j] = partial ? VLOAD_PART(row, left) : VLOAD(row + VW * j);
        if (more)
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                VPREFETCH(row + VW * (nv + j));
        UNROLL(4)
        for (int g = 0; g < size; g++) {
            const V w = VSET(weights[g][at]);
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                acc[g][j] = VFMA(w, v[j], acc[g][j]);
        }
    }
    UNROLL(4)
    for (int g = 0; g < size; g++) {
        const V factor = VSET(group->factor[g]), own_factor = VSET(group->own_factor[g]);
        const size_t at = (size_t)group->position[g] * a->channels + channel;
        const float *own = group->own[g] >= 0 ? rows + (size_t)group->own[g] * stride : NULL;
        const float *residual = a->residual ? a->residual + at : NULL;
        float *out = a->out + at;
        /* Of the residual, the channels after these or, behind the last, the start of a position to come. */
        const float *ahead = out + VW * nv;
        if (channel + 2 * VW * nv > a->channels)
            ahead = a->out + (size_t)(group->position[size - 1] + 1 + g) * a->channels;
        (void)ahead; /* where prefetching is nothing */
        UNROLL(16)
        for (int j = 0; j < nv; j++) {
            VPREFETCH(ahead + VW * j);
            acc[g][j] = VMUL(factor, acc[g][j]);
        }
        if (own)
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                acc[g][j] = VFMA(own_factor, partial ? VLOAD_PART(own, left) : VLOAD(own + VW * j), acc[g][j]);
        if (bias)
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                acc[g][j] = VADD(acc[g][j], partial ? VLOAD_PART(bias, left) : VLOAD(bias + VW * j));
        if (residual)
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                acc[g][j] = VADD(acc[g][j], partial ? VLOAD_PART(residual, left) : VLOAD(residual + VW * j));
        if (relu)
            UNROLL(16)
            for (int j = 0; j < nv; j++)
                acc[g][j] = VMAX(VZERO(), acc[g][j]);
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            if (partial)
                VSTORE_PART(out, acc[g][j], left);
            else
                VSTORE(out + VW * j, acc[g][j]);
    }
}

ALWAYS_INLINE void ISA(blend_channels)(const int size, const int nv, const saibench_blend_args *a,
                                       const blend_tables *tables, const blend_group *group)
{
    int channel = 0;
    for (; channel + nv * VW <= a->channels; channel += nv * VW)
        ISA(blend_vectors)(size, nv, 0, a, tables, group, channel, VW);
    for (; channel + VW <= a->channels; channel += VW)
        ISA(blend_vectors)(size, 1, 0, a, tables, group, channel, VW);
    if (channel < a->channels)
        ISA(blend_vectors)(size, 1, 1, a, tables, group, channel, a->channels - channel);
}

/* Runs a group of any size: all channels of its positions are walked as whole rows (in pieces of many rows, as positions
 * inside channels would have it, memory gives less than half of its rate). */
static void ISA(blend_group)(const saibench_blend_args *a, const blend_tables *tables, const blend_group *group)
{
    switch (group->size) {
    case 1:
        ISA(blend_channels)(1, BLEND_VECTORS, a, tables, group);
        break;
    case 2:
        ISA(blend_channels)(2, BLEND_VECTORS / 2, a, tables, group);
        break;
    case 3:
        ISA(blend_channels)(3, BLEND_VECTORS / 4, a, tables, group);
        break;
    default:
        ISA(blend_channels)(4, BLEND_VECTORS / 4, a, tables, group);
        break;
    }
}

static int64_t ISA(collect)(const saibench_blend_args *a, const blend_tables *tables, blend_group *group)
{
    return a->window > NARROW_WINDOW ? ISA(collect_lanes)(1, a, tables, group)
                                     : ISA(collect_lanes)(0, a, tables, group);
}

/* The wanted positions of one tile of the map. Missing neighbours in a row make a group, up to a reach at which too
 * many of a group's rows would be outside of the windows of its other positions. */
static int64_t ISA(blend)(const saibench_blend_args *a, const blend_tables *tables, const uint8_t *wanted, int y0,
                          int y1, int x0, int x1)
{
    int32_t own[BLEND_COLUMNS], around[BLEND_COLUMNS];
    const int limit = a->num ? BLEND_GROUP : 1; /* the nearest fill has one row for each position */
    int64_t pairs = 0;
    blend_group group;
    memset(group.rest, 0, sizeof group.rest);
    for (int y = y0; y < y1; y++) {
        int owns, arounds;
        blend_sort(a, wanted, y, x0, x1, own, &owns, around, &arounds);
        for (int i = 0; i < owns;) {
            for (group.size = 0; group.size < BLEND_GROUP && i < owns; i++)
                blend_add(a, &group, y, own[i]);
            for (int g = 0; g < group.size; g++)
                group.shift[g] = 0; /* no window is read */
            ISA(blend_group)(a, tables, &group);
        }
        for (int i = 0; i < arounds;) {
            const int first = around[i];
            for (group.size = 0; group.size < limit && i < arounds && around[i] - first <= tables->reach; i++)
                blend_add(a, &group, y, around[i]);
            if (a->num)
                pairs += ISA(collect)(a, tables, &group);
            else
                blend_nearest(a, &group);
            ISA(blend_group)(a, tables, &group);
        }
    }
    return pairs;
}
