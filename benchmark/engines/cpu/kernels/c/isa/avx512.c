/* The inner kernels for AVX-512 (F, VL, DQ, BW): 16 lanes, 32 registers, masked loads and stores, and compression,
 * which gathers the sampled rows of a window without a branch. */
#include "instruction_set.h"

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
        /* Whole vectors are stored, of which `count` then keeps the sampled: hence a group's spare vector. */
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
#define VNAN(a, b) _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a)
#define VSUM(v) _mm512_reduce_add_ps(v)
#define VPREFETCH(p) PREFETCH(p)
#include "isa/template/table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
