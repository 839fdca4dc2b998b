/* Convolution with many outputs. TILE positions x PANEL_VECTORS vectors of outputs stay in registers while taps and
 * channels are walked once: weights stream from L2 (packed, prefetched), inputs are read through row pointers, so that
 * a listed position costs what a dense one costs. */

#define PANEL (VW * PANEL_VECTORS)
/* Floats that a channel's weights of a panel take: half as many words of two weights each (pack.c). */
#define STEP(half) ((half) ? PANEL / 2 : PANEL)

/* One register tile: `mr` positions x `nv` vectors; both are compile-time constants at every call. `ahead` is fetched
 * into L2 along the way, `step` floats further with each channel. */
ALWAYS_INLINE void ISA(tile)(const int half, const int mr, const int nv, const conv_job *job, int first, const float *weights,
                             int column, int columns, const float *ahead, ptrdiff_t step)
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
                if (half)
                    w[j] = j % 2 ? VLOAD(weights + VW * (j / 2)) : VWIDEN(VLOAD(weights + VW * (j / 2)));
                else
                    w[j] = VLOAD(weights + VW * j);
                /* 2 KB ahead: with AVX-512 eight steps, of 28 multiply-adds at two a cycle. */
                if (!half || j % 2)
                    VPREFETCH(weights + VW * (half ? j / 2 : j) + 512);
            }
            weights += STEP(half);
            VPREFETCH_FAR(ahead);
            ahead += step;
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
                v = VMAX(VZERO(), v);
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
        ISA(tile)(half, m, nv, job, first, weights, column, columns, weights, 0);                                          \
        break;

ALWAYS_INLINE void ISA(panel)(const int half, const int nv, const conv_job *job, int n, const float *weights, int column, int columns,
                              const float *next)
{
    const int tiles = n / TILE, spread = !next || tiles < 2 ? 0 : tiles < 4 ? 2 : tiles < 8 ? 4 : 8;
    const ptrdiff_t step = spread ? STEP(half) / spread : 0, piece = (ptrdiff_t)job->taps * job->length * step;
    int first = 0;
    for (int i = 0; first + TILE <= n; first += TILE, i++) {
        const int fetches = i < spread;
        ISA(tile)(half, TILE, nv, job, first, weights, column, columns, fetches ? next + i * piece : weights,
                  fetches ? step : 0);
    }
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

ALWAYS_INLINE void ISA(panels)(const int half, const conv_job *job, int n)
{
    const size_t depth = (size_t)job->taps * job->length;
    for (int column = 0; column < job->outputs; column += PANEL) {
        const int columns = job->outputs - column;
        const float *weights = job->packed + ((size_t)column * depth >> half);
        const int vectors = columns >= PANEL ? PANEL_VECTORS : (columns + VW - 1) / VW;
        const float *next = columns > PANEL ? weights + STEP(half) * depth : job->next;
        switch (vectors) {
        case 1:
            ISA(panel)(half, 1, job, n, weights, column, columns, next);
            break;
#if PANEL_VECTORS > 2
        case 2:
            ISA(panel)(half, 2, job, n, weights, column, columns, next);
            break;
#endif
        default:
            ISA(panel)(half, PANEL_VECTORS, job, n, weights, column, columns, next);
            break;
        }
    }
}

static void ISA(conv)(const conv_job *job, int n)
{
    if (job->half)
        ISA(panels)(1, job, n);
    else
        ISA(panels)(0, job, n);
}
