/* The inner kernels, written once over a small set of vector operations and included by kernels.c for each
 * instruction set. The includer defines ISA(name), V, VW, TILE, PANEL_VECTORS, NARROW_TILE, NARROW_VECTORS,
 * BLEND_VECTORS, and VZERO, VLOAD, VSTORE, VLOAD_PART, VSTORE_PART, VSET, VFMA, VADD, VMUL, VMAX, VSUM, VPREFETCH.
 *
 * The convolution kernel keeps TILE positions x PANEL_VECTORS vectors of outputs in registers and walks taps and
 * channels once: weights stream from L2 (packed, prefetched), inputs are read through row pointers, so that a listed
 * position costs what a dense one costs. */

#define PANEL (VW * PANEL_VECTORS)

/* One register tile: `mr` positions x `nv` vectors; both are compile-time constants at every call. */
ALWAYS_INLINE void ISA(tile)(const int mr, const int nv, const conv_job *job, int first, const float *weights,
                             int column, int columns)
{
    const int taps = job->taps, length = job->length;
    const float *const *rows = job->rows + (size_t)first * taps;
    V acc[TILE][PANEL_VECTORS];
    UNROLL(16)
    for (int i = 0; i < mr; i++)
        UNROLL(8)
        for (int j = 0; j < nv; j++)
            acc[i][j] = job->bias ? VLOAD(job->bias + column + VW * j) : VZERO();
    for (int t = 0; t < taps; t++) {
        const float *a[TILE];
        UNROLL(16)
        for (int i = 0; i < mr; i++)
            a[i] = rows[i * taps + t];
        for (ptrdiff_t k = 0; k < length; k++) {
            V w[PANEL_VECTORS];
            UNROLL(8)
            for (int j = 0; j < nv; j++) {
                w[j] = VLOAD(weights + VW * j);
                VPREFETCH(weights + VW * j + 512);
            }
            weights += PANEL;
            UNROLL(16)
            for (int i = 0; i < mr; i++) {
                V x = VSET(a[i][k]);
                UNROLL(8)
                for (int j = 0; j < nv; j++)
                    acc[i][j] = VFMA(x, w[j], acc[i][j]);
            }
        }
    }
    UNROLL(16)
    for (int i = 0; i < mr; i++) {
        float *out = job->out[first + i] + column;
        const float *residual = job->residual ? job->residual[first + i] + column : NULL;
        const V scale = VSET(job->scale ? job->scale[first + i] : 1.0f);
        UNROLL(8)
        for (int j = 0; j < nv; j++) {
            const int left = columns - VW * j;
            V v = acc[i][j];
            if (left <= 0)
                continue;
            if (residual) {
                /* The next panel's piece of this row: far apart rows in short pieces come slowly by themselves. */
                VPREFETCH(residual + PANEL + VW * j);
                v = VADD(v, left >= VW ? VLOAD(residual + VW * j) : VLOAD_PART(residual + VW * j, left));
            }
            if (job->relu)
                v = VMAX(v, VZERO());
            if (job->scale)
                v = VMUL(v, scale);
            if (left >= VW)
                VSTORE(out + VW * j, v);
            else
                VSTORE_PART(out + VW * j, v, left);
        }
    }
}

#define TILE_CASE(m)                                                                                                 \
    case m:                                                                                                          \
        ISA(tile)(m, nv, job, first, weights, column, columns);                                                      \
        break;

ALWAYS_INLINE void ISA(panel)(const int nv, const conv_job *job, int n, const float *weights, int column, int columns)
{
    int first = 0;
    for (; first + TILE <= n; first += TILE)
        ISA(tile)(TILE, nv, job, first, weights, column, columns);
    switch (n - first) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
#if TILE > 4
        TILE_CASE(4)
        TILE_CASE(5)
#endif
#if TILE > 6
        TILE_CASE(6)
#endif
    default:
        break;
    }
}

static void ISA(conv)(const conv_job *job, int n)
{
    const size_t depth = (size_t)job->taps * job->length;
    for (int column = 0; column < job->outputs; column += PANEL) {
        const int columns = job->outputs - column;
        const float *weights = job->packed + (size_t)column * depth;
        const int vectors = columns >= PANEL ? PANEL_VECTORS : (columns + VW - 1) / VW;
        switch (vectors) {
        case 1:
            ISA(panel)(1, job, n, weights, column, columns);
            break;
#if PANEL_VECTORS > 2
        case 2:
            ISA(panel)(2, job, n, weights, column, columns);
            break;
#endif
        default:
            ISA(panel)(PANEL_VECTORS, job, n, weights, column, columns);
            break;
        }
    }
}

/* Few outputs (a mask pair has 9 + 9, offsets 18): whole vectors of outputs as above, and up to two outputs over as
 * dot products along the channels, so that 18 outputs cost 18 lanes and not 32. */
ALWAYS_INLINE void ISA(narrow_tile)(const int mr, const int nv, const int dots, const conv_job *job, int first)
{
    const int taps = job->taps, length = job->length, outputs = job->outputs;
    const size_t depth = (size_t)taps * length;
    const float *const *rows = job->rows + (size_t)first * taps;
    const float *weights = job->packed, *dot_weights = job->packed + depth * (size_t)(nv * VW);
    V acc[NARROW_TILE][NARROW_VECTORS], dot[NARROW_TILE][2];
    float tail[NARROW_TILE][2] = {{0.0f, 0.0f}};
    UNROLL(8)
    for (int i = 0; i < mr; i++) {
        UNROLL(8)
        for (int j = 0; j < nv; j++)
            acc[i][j] = VZERO();
        UNROLL(2)
        for (int d = 0; d < dots; d++)
            dot[i][d] = VZERO();
    }
    for (int t = 0; t < taps; t++) {
        const float *a[NARROW_TILE];
        ptrdiff_t k = 0;
        UNROLL(8)
        for (int i = 0; i < mr; i++)
            a[i] = rows[i * taps + t];
        for (; k + VW <= length; k += VW) {
            V w[2];
            UNROLL(2)
            for (int d = 0; d < dots; d++)
                w[d] = VLOAD(dot_weights + d * depth + (size_t)t * length + k);
            if (dots)
                UNROLL(8)
                for (int i = 0; i < mr; i++) {
                    V x = VLOAD(a[i] + k);
                    VPREFETCH(a[i] + (size_t)NARROW_TILE * length + k);
                    UNROLL(2)
                    for (int d = 0; d < dots; d++)
                        dot[i][d] = VFMA(x, w[d], dot[i][d]);
                }
            UNROLL(4)
            for (ptrdiff_t l = k; l < k + VW; l++) {
                V v[NARROW_VECTORS];
                UNROLL(8)
                for (int j = 0; j < nv; j++)
                    v[j] = VLOAD(weights + VW * j);
                weights += VW * nv;
                UNROLL(8)
                for (int i = 0; i < mr; i++) {
                    V x = VSET(a[i][l]);
                    UNROLL(8)
                    for (int j = 0; j < nv; j++)
                        acc[i][j] = VFMA(x, v[j], acc[i][j]);
                }
            }
        }
        for (; k < length; k++) {
            UNROLL(8)
            for (int i = 0; i < mr; i++) {
                V x = VSET(a[i][k]);
                UNROLL(8)
                for (int j = 0; j < nv; j++)
                    acc[i][j] = VFMA(x, VLOAD(weights + VW * j), acc[i][j]);
                UNROLL(2)
                for (int d = 0; d < dots; d++)
                    tail[i][d] += a[i][k] * dot_weights[d * depth + (size_t)t * length + k];
            }
            weights += VW * nv;
        }
    }
    UNROLL(8)
    for (int i = 0; i < mr; i++) {
        float *out = job->out[first + i];
        UNROLL(8)
        for (int j = 0; j < nv; j++) {
            const int left = outputs - VW * j;
            V v = acc[i][j];
            if (job->bias)
                v = VADD(v, left >= VW ? VLOAD(job->bias + VW * j) : VLOAD_PART(job->bias + VW * j, left));
            if (left >= VW)
                VSTORE(out + VW * j, v);
            else
                VSTORE_PART(out + VW * j, v, left);
        }
        UNROLL(2)
        for (int d = 0; d < dots; d++)
            out[nv * VW + d] = VSUM(dot[i][d]) + tail[i][d] + (job->bias ? job->bias[nv * VW + d] : 0.0f);
    }
}

ALWAYS_INLINE void ISA(narrow_rows)(const int nv, const int dots, const conv_job *job, int n)
{
    int first = 0;
    for (; first + NARROW_TILE <= n; first += NARROW_TILE)
        ISA(narrow_tile)(NARROW_TILE, nv, dots, job, first);
    for (; first < n; first++)
        ISA(narrow_tile)(1, nv, dots, job, first);
}

/* 18 outputs, the case that matters, are 16 lanes and two dot products; any other number is padded to whole vectors. */
static void ISA(narrow_shape)(int outputs, int *vectors, int *dots)
{
    *dots = outputs == 18 ? 2 : 0;
    *vectors = (outputs - *dots + VW - 1) / VW;
}

#define NARROW_CASE(nv)                                                                                              \
    case nv:                                                                                                         \
        ISA(narrow_rows)(nv, 0, job, n);                                                                             \
        break;

static void ISA(narrow)(const conv_job *job, int n)
{
    int vectors, dots;
    ISA(narrow_shape)(job->outputs, &vectors, &dots);
    if (dots) {
        ISA(narrow_rows)(16 / VW, 2, job, n);
        return;
    }
    switch (vectors) {
        NARROW_CASE(1)
        NARROW_CASE(2)
#if NARROW_VECTORS > 2
        NARROW_CASE(3)
#endif
#if NARROW_VECTORS > 3
        NARROW_CASE(4)
        NARROW_CASE(5)
#endif
    default:
        break;
    }
}

/* Bilinear samples of one map at n * taps points into buffer (n, taps, channels): the corners' rows and weights. */
static void ISA(bilinear)(const corner *corners, int n, int channels, float *buffer)
{
    for (int i = 0; i < n; i++, buffer += channels) {
        const corner *c = corners + i;
        const V w0 = VSET(c->weight[0]), w1 = VSET(c->weight[1]), w2 = VSET(c->weight[2]), w3 = VSET(c->weight[3]);
        int k = 0;
        for (; k + VW <= channels; k += VW) {
            V v = VMUL(w0, VLOAD(c->row[0] + k));
            v = VFMA(w1, VLOAD(c->row[1] + k), v);
            v = VFMA(w2, VLOAD(c->row[2] + k), v);
            v = VFMA(w3, VLOAD(c->row[3] + k), v);
            VSTORE(buffer + k, v);
        }
        for (; k < channels; k++)
            buffer[k] = c->weight[0] * c->row[0][k] + c->weight[1] * c->row[1][k] + c->weight[2] * c->row[2][k] +
                        c->weight[3] * c->row[3][k];
    }
}

/* Weighted sums of one group's rows for `nv` vectors of channels, then the end of the block for them. A row is loaded
 * once for all positions of the group: the sums are bound by loads, not by arithmetic. */
ALWAYS_INLINE void ISA(blend_vectors)(const int size, const int nv, const int partial, const saibench_blend_args *a,
                                      const blend_group *group, int channel, int left)
{
    V acc[BLEND_GROUP][BLEND_VECTORS];
    const int relu = a->relu;
    const float *rows = a->rows + channel, *bias = a->bias ? a->bias + channel : NULL;
    const size_t stride = (size_t)a->row_stride;
    UNROLL(4)
    for (int g = 0; g < size; g++)
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            acc[g][j] = VZERO();
    for (int q = 0; q < group->count; q++) {
        const float *row = rows + (size_t)group->row[q] * stride;
        V v[BLEND_VECTORS];
        UNROLL(16)
        for (int j = 0; j < nv; j++) {
            v[j] = partial ? VLOAD_PART(row, left) : VLOAD(row + VW * j);
            VPREFETCH(row + VW * (nv + j));
        }
        UNROLL(4)
        for (int g = 0; g < size; g++) {
            const V w = VSET(group->weight[g][q]);
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
                acc[g][j] = VMAX(acc[g][j], VZERO());
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            if (partial)
                VSTORE_PART(out, acc[g][j], left);
            else
                VSTORE(out + VW * j, acc[g][j]);
    }
}

ALWAYS_INLINE void ISA(blend_channels)(const int size, const int nv, const saibench_blend_args *a,
                                       const blend_group *group)
{
    int channel = 0;
    for (; channel + nv * VW <= a->channels; channel += nv * VW)
        ISA(blend_vectors)(size, nv, 0, a, group, channel, VW);
    for (; channel + VW <= a->channels; channel += VW)
        ISA(blend_vectors)(size, 1, 0, a, group, channel, VW);
    if (channel < a->channels)
        ISA(blend_vectors)(size, 1, 1, a, group, channel, a->channels - channel);
}

/* Runs a group: its rows are gathered, then all channels of its positions are walked as whole rows (in pieces of many
 * rows, as positions inside channels would have it, memory gives less than half of its rate). */
static int64_t ISA(blend_group)(const saibench_blend_args *a, const blend_tables *tables, blend_group *group)
{
    int64_t pairs = 0;
    if (group->size == 0)
        return 0;
    if (group->windowed)
        pairs = ISA(collect)(a, tables, group);
    switch (group->size) {
    case 1:
        ISA(blend_channels)(1, BLEND_VECTORS, a, group);
        break;
    case 2:
        ISA(blend_channels)(2, BLEND_VECTORS / 2, a, group);
        break;
    case 3:
        ISA(blend_channels)(3, BLEND_VECTORS / 4, a, group);
        break;
    default:
        ISA(blend_channels)(4, BLEND_VECTORS / 4, a, group);
        break;
    }
    group->size = 0;
    return pairs;
}

/* The wanted positions of one tile of the map. Missing neighbours in a row make a group, up to a reach at which too
 * many of a group's rows would be outside of the windows of its other positions. */
static int64_t ISA(blend)(const saibench_blend_args *a, const blend_tables *tables, const uint8_t *wanted, int y0,
                          int y1, int x0, int x1)
{
    blend_group group;
    blend_group single;
    int64_t pairs = 0;
    group.size = single.size = 0;
    for (int y = y0; y < y1; y++) {
        for (int x = x0; x < x1; x++) {
            const int32_t p = y * a->width + x;
            if (wanted && !wanted[p])
                continue;
            if (!blend_needs_window(a, y, x, &single)) {
                pairs += ISA(blend_group)(a, tables, &single);
                continue;
            }
            if (group.size == BLEND_GROUP || (group.size > 0 && x - group.x > tables->reach))
                pairs += ISA(blend_group)(a, tables, &group);
            blend_add(&group, &single, y, x);
        }
        pairs += ISA(blend_group)(a, tables, &group);
    }
    return pairs;
}

static void ISA(max_row)(const float *const *rows, int n, int channels, float *out)
{
    int k = 0;
    for (; k + VW <= channels; k += VW) {
        V v = VLOAD(rows[0] + k);
        for (int i = 1; i < n; i++)
            v = VMAX(v, VLOAD(rows[i] + k));
        VSTORE(out + k, v);
    }
    for (; k < channels; k++) {
        float v = rows[0][k];
        for (int i = 1; i < n; i++)
            v = rows[i][k] > v ? rows[i][k] : v;
        out[k] = v;
    }
}

static const isa_table ISA(table) = {
    ISA_NAME, VW, PANEL, ISA(conv), ISA(narrow), ISA(narrow_shape), ISA(bilinear), ISA(blend), ISA(max_row),
};

#undef PANEL
#undef TILE_CASE
#undef NARROW_CASE
#undef ISA
#undef ISA_NAME
#undef V
#undef VW
#undef TILE
#undef PANEL_VECTORS
#undef NARROW_TILE
#undef NARROW_VECTORS
#undef BLEND_VECTORS
#undef VZERO
#undef VLOAD
#undef VSTORE
#undef VLOAD_PART
#undef VSTORE_PART
#undef VSET
#undef VFMA
#undef VADD
#undef VMUL
#undef VMAX
#undef VSUM
#undef VPREFETCH
