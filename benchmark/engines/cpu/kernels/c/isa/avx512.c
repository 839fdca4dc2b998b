/* The inner kernels for AVX-512 (F, VL, DQ, BW): 16 lanes, 32 registers, masked loads and stores, and compression,
 * which gathers the sampled rows of a window without a branch. */
#include "instruction_set.h"

#include <string.h>

#if HAVE_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,popcnt"))),          \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,popcnt,prefer-vector-width=512")
#endif
ALWAYS_INLINE int64_t collect_lanes_avx512(const int wide, const saibench_blend_args *a, const blend_tables *tables,
                                           blend_group *group)
{
    const int window = a->window, padded = a->width + 2 * (window / 2);
    const uint32_t lanes = (uint32_t)(((uint64_t)1 << (window + group->shift[group->size - 1])) - 1);
    const __m512i line = _mm512_set1_epi32(BLEND_LINE);
    const int32_t *index = a->index + (size_t)group->y * padded + group->x;
    const float *gates = a->gate ? a->gate + (index - a->index) : NULL;
    __m512i at = _mm512_add_epi32(_mm512_set1_epi32(BLEND_AT(0, 0)),
                                  _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    blend_sets sets = {{0}};
    __m512 den[BLEND_GROUP];
    float sums[BLEND_GROUP];
    int count = 0;
    for (int g = 0; g < BLEND_GROUP; g++)
        den[g] = _mm512_setzero_ps();
    for (int i = 0; i < window; i++, index += padded) {
        for (int lane = 0; lane < (wide ? BLEND_LANES : 16); lane += 16) {
            const __mmask16 part = (__mmask16)(lanes >> lane);
            const __m512i rows = _mm512_maskz_loadu_epi32(part, index + lane);
            const __mmask16 sampled = _mm512_mask_cmpge_epi32_mask(part, rows, _mm512_setzero_si512());
            const __m512 gate = gates ? _mm512_maskz_loadu_ps(sampled, gates + (size_t)i * padded + lane)
                                      : _mm512_maskz_mov_ps(sampled, _mm512_set1_ps(1.0f));
            const __m512i here = lane ? _mm512_add_epi32(at, _mm512_set1_epi32(16)) : at;
            /* Whole vectors are stored, of which `count` then keeps the sampled: hence a group's spare vector. */
            _mm512_storeu_si512(group->row + count, _mm512_maskz_compress_epi32(sampled, rows));
            _mm512_storeu_si512(group->at + count, _mm512_maskz_compress_epi32(sampled, here));
            for (int g = 0; g < group->size; g++)
                den[g] = _mm512_fmadd_ps(_mm512_loadu_ps(tables->den + BLEND_AT(i, lane) - group->shift[g]), gate,
                                         den[g]);
            blend_note(wide, &sets, i, lane, sampled);
            count += __builtin_popcount(sampled);
        }
        at = _mm512_add_epi32(at, line);
    }
    group->count = count;
    for (int g = 0; g < BLEND_GROUP; g++)
        sums[g] = _mm512_reduce_add_ps(den[g]);
    return blend_close(wide, a, group, sums, &sets);
}

#define ISA(name) name##_avx512
#define ISA_NAME "avx512"
#define V __m512
#define VW 16
#define TILE 7
#define PANEL_VECTORS 4
#define MAP_VALUE_MACS 50
#define NARROW_TILE 6
#define NARROW_SPLIT 2
#define NARROW_VECTORS 2
#define BLEND_VECTORS 16
#define VZERO() _mm512_setzero_ps()
#define VLOAD(p) _mm512_loadu_ps(p)
#define VSTORE(p, v) _mm512_storeu_ps(p, v)
#define VLOAD_PART(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1u), p)
#define VSTORE_PART(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1u), v)
#define VWIDEN(v) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16))
#define VSET(x) _mm512_set1_ps(x)
#define VFMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define VADD(a, b) _mm512_add_ps(a, b)
#define VMUL(a, b) _mm512_mul_ps(a, b)
#define VMAX(a, b) _mm512_max_ps(a, b)
#define VNAN(a, b) _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a)
#define VSUM(v) _mm512_reduce_add_ps(v)
#define VPREFETCH(p) PREFETCH(p)
#define VPREFETCH_FAR(p) PREFETCH_FAR(p)
#include "isa/template/table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
