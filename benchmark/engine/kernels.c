/* The engine's kernels: geometry, packing, threads and the choice of instruction set. The inner loops are in
 * kernels_isa.h, included here once per instruction set; nothing in this file depends on the CPU it is built on. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(unroll n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define ALWAYS_INLINE static inline
#define UNROLL(n)
#define PREFETCH(p) ((void)0)
#endif

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__amd64__))
#define HAVE_X86 1
#include <immintrin.h>
#else
#define HAVE_X86 0
#endif

/* Positions of one job: their input rows and output columns share L2 with one panel of weights. */
#define BLOCK 168
/* Floats of one job's bilinear samples: they stay in L2 beside a panel of weights. */
#define SAMPLES 114688
/* Positions that one thread interpolates at a time, so that the rows around them stay in L2. */
#define BLEND_ROWS 4
#define BLEND_COLUMNS 32
/* Positions that share loads, and the columns of the map that their windows may span. */
#define BLEND_GROUP 4
#define BLEND_REACH 5
#define BLEND_LANES 16
#define MAX_WINDOW 15
/* Positions that are listed at a time. */
#define LISTED 256

typedef struct {
    int taps, length, outputs, relu;
    const float *packed, *bias;
    const float *const *rows;
    const float *const *residual;
    const float *scale;
    float *const *out;
} conv_job;

typedef struct {
    const float *row[4];
    float weight[4];
} corner;

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

typedef struct {
    const char *name;
    int width, panel;
    void (*conv)(const conv_job *, int);
    void (*narrow)(const conv_job *, int);
    void (*narrow_shape)(int, int *, int *);
    void (*bilinear)(const corner *, int, int, float *);
    int64_t (*blend)(const saibench_blend_args *, const blend_tables *, const uint8_t *, int, int, int, int);
    void (*max_row)(const float *const *, int, int, float *);
} isa_table;

/* Makes a group of one position from what does not come from the window: its own row, M, and the one row of a nearest
 * fill. Returns whether the window is to be walked as well. */
static int blend_needs_window(const saibench_blend_args *a, int y, int x, blend_group *single)
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

static void blend_add(blend_group *group, const blend_group *single, int y, int x)
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
static int64_t collect_portable(const saibench_blend_args *a, const blend_tables *tables, blend_group *group)
{
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

#if HAVE_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,popcnt"))),          \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,popcnt,prefer-vector-width=512")
#endif
static int64_t collect_avx512(const saibench_blend_args *a, const blend_tables *tables, blend_group *group)
{
    const int window = a->window, padded = a->width + 2 * (window / 2);
    const __mmask16 lanes = (__mmask16)((1u << (window + group->shift[group->size - 1])) - 1u);
    size_t at = (size_t)group->y * padded + group->x;
    int64_t pairs = 0;
    int count = 0;
    __m512 den[BLEND_GROUP];
    for (int g = 0; g < BLEND_GROUP; g++)
        den[g] = _mm512_setzero_ps();
    for (int i = 0; i < window; i++, at += padded) {
        const __m512i rows = _mm512_maskz_loadu_epi32(lanes, a->index + at);
        const __mmask16 sampled = _mm512_mask_cmpge_epi32_mask(lanes, rows, _mm512_setzero_si512());
        const __m512 gate = a->gate ? _mm512_maskz_loadu_ps(sampled, a->gate + at)
                                    : _mm512_maskz_mov_ps(sampled, _mm512_set1_ps(1.0f));
        _mm512_storeu_si512(group->row + count, _mm512_maskz_compress_epi32(sampled, rows));
        for (int g = 0; g < group->size; g++) {
            const int column = BLEND_LANES - group->shift[g];
            const __m512 num = _mm512_loadu_ps(tables->num[i] + column);
            _mm512_storeu_ps(group->weight[g] + count, _mm512_maskz_compress_ps(sampled, num));
            den[g] = _mm512_fmadd_ps(_mm512_loadu_ps(tables->den[i] + column), gate, den[g]);
            pairs += __builtin_popcount(sampled & (((1u << window) - 1u) << group->shift[g]));
        }
        count += __builtin_popcount(sampled);
    }
    group->count = count;
    for (int g = 0; g < group->size; g++)
        group->factor[g] = group->rest[g] / (_mm512_reduce_add_ps(den[g]) + a->eps);
    return pairs;
}

#define ISA(name) name##_avx512
#define ISA_NAME "avx512"
#define V __m512
#define VW 16
#define TILE 7
#define PANEL_VECTORS 4
#define NARROW_TILE 6
#define NARROW_VECTORS 2
#define BLEND_VECTORS 16
#define VZERO() _mm512_setzero_ps()
#define VLOAD(p) _mm512_loadu_ps(p)
#define VSTORE(p, v) _mm512_storeu_ps(p, v)
#define VLOAD_PART(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1u), p)
#define VSTORE_PART(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1u), v)
#define VSET(x) _mm512_set1_ps(x)
#define VFMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VADD(a, b) _mm512_add_ps(a, b)
#define VMUL(a, b) _mm512_mul_ps(a, b)
#define VMAX(a, b) _mm512_max_ps(a, b)
#define VSUM(v) _mm512_reduce_add_ps(v)
#define VPREFETCH(p) PREFETCH(p)
#include "kernels_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
static inline __m256i part_avx2(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline float sum_avx2(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#define collect_avx2 collect_portable
#define ISA(name) name##_avx2
#define ISA_NAME "avx2"
#define V __m256
#define VW 8
#define TILE 6
#define PANEL_VECTORS 2
#define NARROW_TILE 6
#define NARROW_VECTORS 3
#define BLEND_VECTORS 8
#define VZERO() _mm256_setzero_ps()
#define VLOAD(p) _mm256_loadu_ps(p)
#define VSTORE(p, v) _mm256_storeu_ps(p, v)
#define VLOAD_PART(p, n) _mm256_maskload_ps(p, part_avx2(n))
#define VSTORE_PART(p, v, n) _mm256_maskstore_ps(p, part_avx2(n), v)
#define VSET(x) _mm256_set1_ps(x)
#define VFMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define VADD(a, b) _mm256_add_ps(a, b)
#define VMUL(a, b) _mm256_mul_ps(a, b)
#define VMAX(a, b) _mm256_max_ps(a, b)
#define VSUM(v) sum_avx2(v)
#define VPREFETCH(p) PREFETCH(p)
#include "kernels_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif /* HAVE_X86 */

/* Four lanes: the compiler's own vectors where it has them (SSE2, NEON, ...), else an array. */
#if defined(__GNUC__) || defined(__clang__)
typedef float quad __attribute__((vector_size(16)));
#define LANE(v, i) ((v)[i])
#else
typedef struct {
    float f[4];
} quad;
#define LANE(v, i) ((v).f[i])
#endif

ALWAYS_INLINE quad quad_load(const float *p, int n)
{
    quad r;
    for (int i = 0; i < 4; i++)
        LANE(r, i) = i < n ? p[i] : 0.0f;
    return r;
}
ALWAYS_INLINE void quad_store(float *p, quad v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = LANE(v, i);
}
ALWAYS_INLINE quad quad_set(float x)
{
    quad r;
    for (int i = 0; i < 4; i++)
        LANE(r, i) = x;
    return r;
}
ALWAYS_INLINE quad quad_max(quad a, quad b)
{
    for (int i = 0; i < 4; i++)
        LANE(a, i) = LANE(a, i) > LANE(b, i) ? LANE(a, i) : LANE(b, i);
    return a;
}
#if defined(__GNUC__) || defined(__clang__)
#define quad_fma(a, b, c) ((c) + (a) * (b))
#define quad_add(a, b) ((a) + (b))
#define quad_mul(a, b) ((a) * (b))
ALWAYS_INLINE quad quad_load4(const float *p)
{
    quad r;
    memcpy(&r, p, sizeof r);
    return r;
}
ALWAYS_INLINE void quad_store4(float *p, quad v) { memcpy(p, &v, sizeof v); }
#else
ALWAYS_INLINE quad quad_fma(quad a, quad b, quad c)
{
    for (int i = 0; i < 4; i++)
        LANE(c, i) += LANE(a, i) * LANE(b, i);
    return c;
}
ALWAYS_INLINE quad quad_add(quad a, quad b) { return quad_fma(a, quad_set(1.0f), b); }
ALWAYS_INLINE quad quad_mul(quad a, quad b) { return quad_fma(a, b, quad_set(0.0f)); }
#define quad_load4(p) quad_load(p, 4)
#define quad_store4(p, v) quad_store(p, v, 4)
#endif

#define ISA(name) name##_portable
#define ISA_NAME "portable"
#define V quad
#define VW 4
#define TILE 4
#define PANEL_VECTORS 2
#define NARROW_TILE 6
#define NARROW_VECTORS 5
#define BLEND_VECTORS 4
#define VZERO() quad_set(0.0f)
#define VLOAD(p) quad_load4(p)
#define VSTORE(p, v) quad_store4(p, v)
#define VLOAD_PART(p, n) quad_load(p, n)
#define VSTORE_PART(p, v, n) quad_store(p, v, n)
#define VSET(x) quad_set(x)
#define VFMA(a, b, c) quad_fma(a, b, c)
#define VADD(a, b) quad_add(a, b)
#define VMUL(a, b) quad_mul(a, b)
#define VMAX(a, b) quad_max(a, b)
#define VSUM(v) ((LANE(v, 0) + LANE(v, 1)) + (LANE(v, 2) + LANE(v, 3)))
#define VPREFETCH(p) ((void)0)
#include "kernels_isa.h"

/* Subnormal numbers count as zero inside of a kernel: far weights of an RBF are subnormal (exp(-9 * 10) at the initial
 * lambda), and Intel cores take more than a hundred cycles for each operation on one. Threads are the caller's and
 * OpenMP's, so each is left as it was found. */
#if HAVE_X86
static unsigned flush_subnormals(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
}
static void restore_arithmetic(unsigned before) { _mm_setcsr(before); }
#else
static unsigned flush_subnormals(void) { return 0; }
static void restore_arithmetic(unsigned before) { (void)before; }
#endif

static const isa_table *selected = &table_portable;
static int initialised = 0;

static const isa_table *table_of(int isa)
{
    if (isa == 0)
        return &table_portable;
#if HAVE_X86
    __builtin_cpu_init();
    if (isa == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &table_avx2;
    if (isa == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return &table_avx512;
#endif
    return NULL;
}

int saibench_best_isa(void)
{
    for (int isa = 2; isa > 0; isa--)
        if (table_of(isa))
            return isa;
    return 0;
}

int saibench_use_isa(int isa)
{
    const isa_table *table = table_of(isa);
    if (!table)
        return -1;
    selected = table;
    initialised = 1;
    return 0;
}

static const isa_table *isa(void)
{
    if (!initialised)
        saibench_use_isa(saibench_best_isa());
    return selected;
}

const char *saibench_isa_name(void) { return isa()->name; }

int saibench_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

int saibench_taps(const saibench_geometry *g) { return g->row_taps ? g->kernel_h : g->kernel_h * g->kernel_w; }

int saibench_tap_length(const saibench_geometry *g)
{
    return g->row_taps ? g->kernel_w * g->channels : g->channels;
}

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

size_t saibench_bias_size(int outputs) { return round_up((size_t)outputs, (size_t)isa()->panel); }

size_t saibench_packed_size(int outputs, int depth) { return saibench_bias_size(outputs) * (size_t)depth; }

void saibench_pack(const float *weights, int outputs, int depth, float *packed)
{
    const int panel = isa()->panel;
    for (int column = 0; column < outputs; column += panel)
        for (int k = 0; k < depth; k++)
            for (int j = 0; j < panel; j++)
                *packed++ = column + j < outputs ? weights[(size_t)(column + j) * depth + k] : 0.0f;
}

size_t saibench_narrow_size(int outputs, int depth)
{
    int vectors, dots;
    isa()->narrow_shape(outputs, &vectors, &dots);
    return (size_t)(vectors * isa()->width + dots) * depth;
}

void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed)
{
    int vectors, dots, lanes;
    isa()->narrow_shape(outputs, &vectors, &dots);
    lanes = vectors * isa()->width;
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < lanes; j++)
            *packed++ = j < outputs ? weights[(size_t)j * depth + k] : 0.0f;
    for (int d = 0; d < dots; d++, packed += depth)
        memcpy(packed, weights + (size_t)(lanes + d) * depth, sizeof(float) * depth);
}

static int out_rows(const saibench_geometry *g)
{
    return (g->height + 2 * (g->row_taps ? 0 : g->padding) - g->dilation * (g->kernel_h - 1) - 1) / g->stride + 1;
}

/* Row pointers of `n` positions, taps innermost. */
static void point(const saibench_geometry *g, const float *input, const float *zeros, const int32_t *positions,
                  int first, int n, const float **rows)
{
    for (int i = 0; i < n; i++) {
        const int p = positions ? positions[first + i] : first + i;
        const int y0 = p / g->out_width * g->stride - g->padding, x0 = p % g->out_width * g->stride - g->padding;
        if (g->row_taps) {
            for (int u = 0; u < g->kernel_h; u++)
                *rows++ = input + ((size_t)(y0 + g->padding + u) * g->width + x0 + g->padding) * g->channels;
            continue;
        }
        for (int u = 0; u < g->kernel_h; u++) {
            const int y = y0 + u * g->dilation;
            const int inside = y >= 0 && y < g->height;
            const float *line = input + (ptrdiff_t)y * g->width * g->channels;
            for (int v = 0; v < g->kernel_w; v++) {
                const int x = x0 + v * g->dilation;
                *rows++ = inside && x >= 0 && x < g->width ? line + (size_t)x * g->channels : zeros;
            }
        }
    }
}

/* Work in order of position, a contiguous share for each thread: what one thread wrote in one call it mostly reads in
 * the next, out of its own L2. A thread that has finished its share helps the others with theirs, and pieces get smaller
 * towards the end of a share, so that no thread waits long for the last one. */
#define MAX_SHARES 256
typedef struct {
    int next, end;
    char apart[56]; /* one cache line each */
} share;

static void share_out(share *shares, int threads, int count)
{
    for (int t = 0; t < threads; t++) {
        shares[t].next = (int)((int64_t)count * t / threads);
        shares[t].end = (int)((int64_t)count * (t + 1) / threads);
    }
}

/* The next piece of work for a thread: its size, 0 if there is none. Pieces are multiples of `unit`, at most `limit`,
 * and at least a quarter of that while so much is left. */
static int take(share *shares, int threads, int thread, int unit, int limit, int *first)
{
    int size = 0;
#ifdef _OPENMP
#pragma omp critical(saibench_take)
#endif
    for (int k = 0; k < threads && size == 0; k++) {
        share *s = shares + (thread + k) % threads;
        const int left = s->end - s->next, half = (left + 2 * unit - 1) / (2 * unit) * unit;
        size = half < limit / 4 ? limit / 4 : half;
        size = size > limit ? limit : size;
        size = size > left ? left : size;
        *first = s->next;
        s->next += size;
    }
    return size;
}

static int this_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

typedef struct {
    const saibench_geometry *g;
    const float *input, *packed, *bias;
    int outputs;
    const int32_t *positions;
    int n;
    const float *offsets;
    float *out;
    int out_stride, scatter;
    const float *residual, *scale;
    int relu, narrow;
    const saibench_follow *follow;
} conv_call;

/* Bilinear corners of one position's taps; a corner outside the map has weight 0 and reads the zero row. */
static void find_corners(const conv_call *c, const float *zeros, int first, int n, corner *corners)
{
    const saibench_geometry *g = c->g;
    const int taps = g->kernel_h * g->kernel_w;
    for (int i = first; i < first + n; i++) {
        const int p = c->positions ? c->positions[i] : i;
        const int y0 = p / g->out_width * g->stride - g->padding, x0 = p % g->out_width * g->stride - g->padding;
        const float *offset = c->offsets + (size_t)i * 2 * taps;
        for (int t = 0; t < taps; t++, offset += 2, corners++) {
            const float y = y0 + t / g->kernel_w * g->dilation + offset[0];
            const float x = x0 + t % g->kernel_w * g->dilation + offset[1];
            const int inside = y > -1.0f && x > -1.0f && y < (float)g->height && x < (float)g->width;
            const int top = inside ? (int)floorf(y) : 0, left = inside ? (int)floorf(x) : 0;
            const float dy = inside ? y - top : 0.0f, dx = inside ? x - left : 0.0f;
            for (int k = 0; k < 4; k++) {
                const int v = top + k / 2, u = left + k % 2;
                const int valid = inside && v >= 0 && u >= 0 && v < g->height && u < g->width;
                corners->row[k] = valid ? c->input + ((size_t)v * g->width + u) * g->channels : zeros;
                corners->weight[k] = valid ? (k / 2 ? dy : 1.0f - dy) * (k % 2 ? dx : 1.0f - dx) : 0.0f;
            }
        }
    }
}

/* Memory of one thread: row pointers, zeros, and for deformable convolution the samples of a block. */
typedef struct {
    const float **rows, **residual;
    float **out;
    float *zeros, *samples;
    corner *corners;
} scratch;

static void scratch_free(scratch *s)
{
    free((void *)s->rows);
    free((void *)s->residual);
    free((void *)s->out);
    free(s->zeros);
    free(s->samples);
    free(s->corners);
}

static int scratch_make(scratch *s, int block, int taps, int length, int deform)
{
    memset(s, 0, sizeof *s);
    s->rows = malloc(sizeof(float *) * (size_t)block * taps);
    s->residual = malloc(sizeof(float *) * (size_t)block);
    s->out = malloc(sizeof(float *) * (size_t)block);
    s->zeros = calloc((size_t)length, sizeof(float));
    if (deform) {
        s->samples = malloc(sizeof(float) * (size_t)block * taps * length);
        s->corners = malloc(sizeof(corner) * (size_t)block * taps);
    }
    return s->rows && s->residual && s->out && s->zeros && (!deform || (s->samples && s->corners));
}

/* Runs a narrow 1x1 convolution on n rows of `channels` floats. */
static void run_follow(const saibench_follow *follow, const float *const *rows, float *const *out, int channels, int n)
{
    conv_job job;
    memset(&job, 0, sizeof job);
    job.taps = 1;
    job.length = channels;
    job.outputs = follow->outputs;
    job.packed = follow->packed;
    job.rows = rows;
    job.out = out;
    isa()->narrow(&job, n);
}

/* Whether listed positions lie in the output map. */
static int inside(const int32_t *positions, int n, int map)
{
    int out = 0;
    for (int i = 0; i < n; i++)
        out |= (positions[i] < 0) | (positions[i] >= map);
    return !out;
}

static void run_block(const conv_call *c, const scratch *s, int first, int n)
{
    const int taps = saibench_taps(c->g), length = saibench_tap_length(c->g);
    conv_job job;
    if (c->offsets) {
        find_corners(c, s->zeros, first, n, s->corners);
        isa()->bilinear(s->corners, n * taps, length, s->samples);
        for (int i = 0; i < n * taps; i++)
            s->rows[i] = s->samples + (size_t)i * length;
    } else {
        point(c->g, c->input, s->zeros, c->positions, first, n, s->rows);
    }
    for (int i = 0; i < n; i++) {
        const size_t row = c->scatter && c->positions ? (size_t)c->positions[first + i] : (size_t)(first + i);
        s->out[i] = c->out + row * c->out_stride;
        if (c->residual)
            s->residual[i] = c->residual + row * c->outputs;
    }
    job.taps = taps;
    job.length = length;
    job.outputs = c->outputs;
    job.relu = c->relu;
    job.packed = c->packed;
    job.bias = c->bias;
    job.rows = s->rows;
    job.residual = c->residual ? s->residual : NULL;
    job.scale = c->scale ? c->scale + first : NULL;
    job.out = s->out;
    if (c->narrow)
        isa()->narrow(&job, n);
    else
        isa()->conv(&job, n);
    if (c->follow) {
        for (int i = 0; i < n; i++) {
            s->rows[i] = s->out[i];
            s->out[i] = c->follow->out + (s->rows[i] - c->out) / c->out_stride * c->follow->outputs;
        }
        run_follow(c->follow, s->rows, s->out, c->outputs, n);
    }
}

static int run_conv(const conv_call *c, int threads)
{
    const int taps = saibench_taps(c->g), length = saibench_tap_length(c->g);
    int limit = BLOCK, failed = 0;
    share shares[MAX_SHARES];
    if (c->offsets) {
        limit = SAMPLES / (taps * length) / 7 * 7;
        limit = limit < 14 ? 14 : limit > BLOCK ? BLOCK : limit;
    }
    isa();
    threads = threads > MAX_SHARES ? MAX_SHARES : threads;
    share_out(shares, threads, c->n);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(| : failed)
#endif
    {
        const unsigned arithmetic = flush_subnormals();
        scratch s;
        int first, n;
        failed = scratch_make(&s, limit, taps, length, c->offsets != NULL) ? 0 : SAIBENCH_NO_MEMORY;
        while (!failed && (n = take(shares, threads, this_thread(), 7, limit, &first)) > 0) {
            if (c->positions && !inside(c->positions + first, n, out_rows(c->g) * c->g->out_width))
                failed = SAIBENCH_OUTSIDE;
            else
                run_block(c, &s, first, n);
        }
        scratch_free(&s);
        restore_arithmetic(arithmetic);
    }
    return failed;
}

int saibench_conv(const saibench_geometry *g, const float *input, const float *packed, const float *bias, int outputs,
                  const int32_t *positions, int n, float *out, int out_stride, int scatter, const float *residual,
                  const float *scale, int relu, const saibench_follow *follow, int threads)
{
    const conv_call c = {g,   input,      packed,  bias,     outputs, positions, n, NULL,
                         out, out_stride, scatter, residual, scale,   relu,      0, follow};
    return run_conv(&c, threads);
}

int saibench_narrow(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                    int outputs, const int32_t *positions, int n, float *out, int scatter, int threads)
{
    const conv_call c = {g, input, packed, bias, outputs, positions, n, NULL, out, outputs, scatter, NULL, NULL, 0, 1, NULL};
    return run_conv(&c, threads);
}

int saibench_deform(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                    int outputs, const int32_t *positions, int n, const float *offsets, float *out, int scatter,
                    const float *scale, int relu, int threads)
{
    const conv_call c = {g,   input,   packed,  bias, outputs, positions, n, offsets,
                         out, outputs, scatter, NULL, scale,   relu,      0, NULL};
    return run_conv(&c, threads);
}

/* Logits of one output row. */
static void mask_row(const saibench_geometry *g, const float *products, int columns, int first, float bias, int oy,
                     float *line)
{
    for (int ox = 0; ox < g->out_width; ox++)
        line[ox] = bias;
    for (int t = 0; t < g->kernel_h * g->kernel_w; t++) {
        const int y = oy * g->stride - g->padding + t / g->kernel_w * g->dilation;
        const int shift = t % g->kernel_w * g->dilation - g->padding;
        const int begin = shift < 0 ? (g->stride - 1 - shift) / g->stride : 0;
        const int end = shift >= g->width ? 0 : (g->width - 1 - shift) / g->stride + 1;
        const float *p;
        if (y < 0 || y >= g->height)
            continue;
        p = products + ((ptrdiff_t)y * g->width + shift) * columns + first + t;
        for (int ox = begin; ox < end && ox < g->out_width; ox++)
            line[ox] += p[(ptrdiff_t)ox * g->stride * columns];
    }
}

void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias,
                   int out_height, int decide, const float *threshold, int grid, float *out, int threads)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int oy = 0; oy < out_height; oy++) {
        float *line = out + (size_t)oy * g->out_width;
        const float *limit = threshold ? threshold + (size_t)oy * g->out_width : NULL;
        mask_row(g, products, columns, first, bias, oy, line);
        if (!decide)
            continue;
        for (int ox = 0; ox < g->out_width; ox++)
            line[ox] = line[ox] > (limit ? limit[ox] : 0.0f) ? 1.0f : 0.0f;
        if (grid && oy % grid == 0)
            for (int ox = 0; ox < g->out_width; ox += grid)
                line[ox] = 1.0f;
    }
    (void)threads;
}

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
            /* No branch on the mask, which is noise by design; not into `positions`, whose next row is another's. */
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
        memset(line, 0xff, sizeof(int32_t) * padded);
        if (y < 0 || y >= height)
            continue;
        for (int32_t i = starts[y]; i < starts[y + 1]; i++)
            line[positions[i] - y * width + radius] = ring ? i % ring : positions[i];
    }
    (void)threads;
}

void saibench_missing_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts, int out_height,
                           const float *mask, uint8_t *wanted, int threads)
{
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int y = 0; y < g->height; y++) {
        uint8_t *line = wanted + (size_t)y * g->width;
        const float *m = mask + (size_t)y * g->width;
        memset(line, 0, (size_t)g->width);
        for (int u = 0; u < g->kernel_h; u++) {
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
        for (int x = 0; x < g->width; x++)
            line[x] &= m[x] != 1.0f;
    }
    (void)threads;
}

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
    run_follow(follow, rows, out, a->channels, n);
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
    memset(&tables, 0, sizeof tables);
    tables.reach = spare < BLEND_REACH ? spare : BLEND_REACH;
    for (int i = 0; a->num && i < a->window; i++) {
        memcpy(tables.num[i] + BLEND_LANES, a->num + i * a->window, sizeof(float) * a->window);
        memcpy(tables.den[i] + BLEND_LANES, a->den + i * a->window, sizeof(float) * a->window);
    }
    isa();
    threads = threads > MAX_SHARES ? MAX_SHARES : threads;
    share_out(shares, threads, across * down);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : pairs)
#endif
    {
        const unsigned arithmetic = flush_subnormals();
        int tile;
        while (take(shares, threads, this_thread(), 1, 1, &tile) > 0) {
            const int y0 = row0 + tile / across * BLEND_ROWS, x0 = tile % across * BLEND_COLUMNS;
            const int y1 = y0 + BLEND_ROWS < row1 ? y0 + BLEND_ROWS : row1;
            const int x1 = x0 + BLEND_COLUMNS < a->width ? x0 + BLEND_COLUMNS : a->width;
            pairs += isa()->blend(a, &tables, wanted, y0, y1, x0, x1);
            if (follow)
                follow_tile(follow, a, y0, y1, x0, x1);
        }
        restore_arithmetic(arithmetic);
    }
    (void)threads;
    return pairs;
}

void saibench_max_pool(const float *input, int input_row0, int height, int width, int channels, int kernel, int stride,
                       int padding, int row0, int row1, int out_width, float *out, int threads)
{
    isa();
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (int oy = row0; oy < row1; oy++)
        for (int ox = 0; ox < out_width; ox++) {
            const float *rows[MAX_WINDOW * MAX_WINDOW];
            int n = 0;
            for (int u = 0; u < kernel; u++)
                for (int v = 0; v < kernel; v++) {
                    const int y = oy * stride - padding + u, x = ox * stride - padding + v;
                    if (y >= 0 && y < height && x >= 0 && x < width)
                        rows[n++] = input + ((size_t)(y - input_row0) * width + x) * channels;
                }
            isa()->max_row(rows, n, channels, out + ((size_t)oy * out_width + ox) * channels);
        }
    (void)threads;
}

int saibench_channels_last(const float *input, int channels, int height, int width, int border, float *out,
                           int threads)
{
    const size_t padded = (size_t)width + 2 * border;
    int invalid = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : invalid)
#endif
    for (int y = -border; y < height + border; y++) {
        float *line = out + (size_t)(y + border) * padded * channels;
        if (y < 0 || y >= height) {
            memset(line, 0, sizeof(float) * padded * channels);
            continue;
        }
        memset(line, 0, sizeof(float) * border * channels);
        memset(line + (size_t)(border + width) * channels, 0, sizeof(float) * border * channels);
        for (int x = 0; x < width; x++)
            for (int c = 0; c < channels; c++) {
                const float v = input[((size_t)c * height + y) * width + x];
                invalid |= !(fabsf(v) <= FLT_MAX);
                line[(size_t)(border + x) * channels + c] = v;
            }
    }
    (void)threads;
    return !invalid;
}
