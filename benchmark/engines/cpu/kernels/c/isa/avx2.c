/* The inner kernels for AVX2 with fused multiply-add: 8 lanes and 16 registers. */
#include "instruction_set.h"

#if HAVE_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
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
#define VNAN(a, b) _mm256_blendv_ps(b, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q))
#define VSUM(v) sum_avx2(v)
#define VPREFETCH(p) PREFETCH(p)
#include "isa/template/table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
