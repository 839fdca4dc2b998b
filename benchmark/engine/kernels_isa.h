/* The inner kernels, written once over a small set of vector operations and included by kernels.c for each
 * instruction set. The includer defines ISA(name), V, VW, TILE, PANEL_VECTORS, and VZERO, VLOAD, VSTORE, VLOAD_PART,
 * VSTORE_PART, VSET, VFMA, VADD, VMUL, VMAX, VSUM, VPREFETCH.
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
            if (residual)
                v = VADD(v, left >= VW ? VLOAD(residual + VW * j) : VLOAD_PART(residual + VW * j, left));
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
        case 3:
            ISA(panel)(3, job, n, weights, column, columns);
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

static void ISA(narrow_shape)(int outputs, int *vectors, int *dots)
{
    const int over = outputs % VW;
    *dots = over <= 2 && outputs >= VW ? over : 0;
    *vectors = (outputs - *dots + VW - 1) / VW;
}

#define NARROW_CASE(nv)                                                                                              \
    case nv:                                                                                                         \
        if (dots == 0)                                                                                               \
            ISA(narrow_rows)(nv, 0, job, n);                                                                         \
        else if (dots == 1)                                                                                          \
            ISA(narrow_rows)(nv, 1, job, n);                                                                         \
        else                                                                                                         \
            ISA(narrow_rows)(nv, 2, job, n);                                                                         \
        break;

static void ISA(narrow)(const conv_job *job, int n)
{
    int vectors, dots;
    ISA(narrow_shape)(job->outputs, &vectors, &dots);
    switch (vectors) {
        NARROW_CASE(1)
        NARROW_CASE(2)
#if NARROW_VECTORS > 2
        NARROW_CASE(3)
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

/* Weighted sum of `count` rows for `nv` vectors of channels, then the end of the block for them. */
ALWAYS_INLINE void ISA(blend_vectors)(const int nv, const saibench_blend_args *a, const blend_list *list, size_t p,
                                      int channel, int left)
{
    V acc[BLEND_VECTORS];
    const float *rows = a->rows + channel;
    const size_t stride = (size_t)a->channels;
    const int partial = left < VW;
    UNROLL(16)
    for (int j = 0; j < nv; j++)
        acc[j] = VZERO();
    for (int q = 0; q < list->count; q++) {
        const float *row = rows + (size_t)list->row[q] * stride;
        const V w = VSET(list->weight[q]);
        UNROLL(16)
        for (int j = 0; j < nv; j++)
            acc[j] = VFMA(w, partial ? VLOAD_PART(row, left) : VLOAD(row + VW * j), acc[j]);
    }
    {
        const V factor = VSET(list->factor);
        const V own_factor = VSET(list->own_factor);
        const float *own = list->own >= 0 ? rows + (size_t)list->own * stride : NULL;
        const float *residual = a->residual ? a->residual + p * stride + channel : NULL;
        float *out = a->out + p * stride + channel;
        UNROLL(16)
        for (int j = 0; j < nv; j++) {
            V v = VMUL(factor, acc[j]);
            if (own)
                v = VFMA(own_factor, partial ? VLOAD_PART(own, left) : VLOAD(own + VW * j), v);
            if (a->bias)
                v = VADD(v, partial ? VLOAD_PART(a->bias + channel, left) : VLOAD(a->bias + channel + VW * j));
            if (residual)
                v = VADD(v, partial ? VLOAD_PART(residual, left) : VLOAD(residual + VW * j));
            if (a->relu)
                v = VMAX(v, VZERO());
            if (partial)
                VSTORE_PART(out, v, left);
            else
                VSTORE(out + VW * j, v);
        }
    }
}

static int64_t ISA(blend)(const saibench_blend_args *a, const int32_t *positions, int first, int n)
{
    blend_list lists[BLEND_STRIP];
    int32_t where[BLEND_STRIP];
    int64_t pairs = 0;
    for (int begin = 0; begin < n; begin += BLEND_STRIP) {
        const int strip = n - begin < BLEND_STRIP ? n - begin : BLEND_STRIP;
        for (int i = 0; i < strip; i++) {
            where[i] = positions ? positions[begin + i] : first + begin + i;
            ISA(collect)(a, where[i], &lists[i]);
            pairs += a->num ? lists[i].count : 0;
        }
        /* Channels outside positions: the rows of the strip's window then stay in L1. */
        for (int channel = 0; channel < a->channels;) {
            const int left = a->channels - channel;
            const int vectors = left >= VW ? left / VW : 1;
            if (vectors >= BLEND_VECTORS) {
                for (int i = 0; i < strip; i++)
                    ISA(blend_vectors)(BLEND_VECTORS, a, &lists[i], where[i], channel, BLEND_VECTORS * VW);
                channel += BLEND_VECTORS * VW;
            } else if (vectors >= 4) {
                for (int i = 0; i < strip; i++)
                    ISA(blend_vectors)(4, a, &lists[i], where[i], channel, 4 * VW);
                channel += 4 * VW;
            } else {
                for (int i = 0; i < strip; i++)
                    ISA(blend_vectors)(1, a, &lists[i], where[i], channel, left < VW ? left : VW);
                channel += VW;
            }
        }
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
