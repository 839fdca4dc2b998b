/* Few outputs (a mask pair has 9 + 9, offsets 18): whole vectors of outputs as above, and up to two outputs over as
 * dot products along the channels, so that 18 outputs cost 18 lanes and not 32. A row has NARROW_SPLIT sums for each
 * vector, of every second channel where it is 2: six sums alone would wait for each other's additions. */
ALWAYS_INLINE void ISA(narrow_tile)(const int mr, const int nv, const int dots, const conv_job *job, int first)
{
    const int taps = job->taps, length = job->length, outputs = job->outputs;
    const size_t depth = (size_t)taps * length;
    const float *const *rows = job->rows + (size_t)first * taps;
    const float *weights = job->packed, *dot_weights = job->packed + depth * (size_t)(nv * VW);
    V acc[NARROW_SPLIT][NARROW_TILE][NARROW_VECTORS], dot[NARROW_TILE][2];
    float tail[NARROW_TILE][2] = {{0.0f, 0.0f}};
    UNROLL(8)
    for (int i = 0; i < mr; i++) {
        UNROLL(8)
        for (int j = 0; j < nv * NARROW_SPLIT; j++)
            acc[j / nv][i][j % nv] = VZERO();
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
                    /* The same channels one tile on: with one tap, rows follow each other in memory. */
                    VPREFETCH(a[i] + (size_t)NARROW_TILE * length + k);
                    UNROLL(2)
                    for (int d = 0; d < dots; d++)
                        dot[i][d] = VFMA(x, w[d], dot[i][d]);
                }
            UNROLL(16)
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
                        acc[(l - k) % NARROW_SPLIT][i][j] = VFMA(x, v[j], acc[(l - k) % NARROW_SPLIT][i][j]);
                }
            }
        }
        for (; k < length; k++) {
            UNROLL(8)
            for (int i = 0; i < mr; i++) {
                V x = VSET(a[i][k]);
                UNROLL(8)
                for (int j = 0; j < nv; j++)
                    acc[0][i][j] = VFMA(x, VLOAD(weights + VW * j), acc[0][i][j]);
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
            V v = acc[0][i][j];
            if (NARROW_SPLIT > 1)
                v = VADD(v, acc[NARROW_SPLIT - 1][i][j]);
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
