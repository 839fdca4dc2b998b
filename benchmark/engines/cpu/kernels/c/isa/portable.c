/* The inner kernels for any CPU, four lanes: the compiler's own vectors where it has them (SSE2, NEON, ...), else an
 * array. */
#include "instruction_set.h"

#include <string.h>

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
/* The lower half of each word as a float of its own. */
ALWAYS_INLINE quad quad_widen(quad v)
{
    for (int i = 0; i < 4; i++) {
        const float word = LANE(v, i);
        uint32_t bits;
        float widened;
        memcpy(&bits, &word, sizeof bits);
        bits <<= 16;
        memcpy(&widened, &bits, sizeof bits);
        LANE(v, i) = widened;
    }
    return v;
}
ALWAYS_INLINE quad quad_max(quad a, quad b)
{
    for (int i = 0; i < 4; i++)
        LANE(a, i) = LANE(a, i) > LANE(b, i) ? LANE(a, i) : LANE(b, i);
    return a;
}
ALWAYS_INLINE quad quad_nan(quad a, quad b)
{
    for (int i = 0; i < 4; i++)
        LANE(b, i) = LANE(a, i) != LANE(a, i) ? LANE(a, i) : LANE(b, i);
    return b;
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
#define MAP_VALUE_MACS 8
#define NARROW_TILE 6
#define NARROW_SPLIT 1
#define NARROW_VECTORS 5
#define BLEND_VECTORS 4
#define VZERO() quad_set(0.0f)
#define VLOAD(p) quad_load4(p)
#define VSTORE(p, v) quad_store4(p, v)
#define VLOAD_PART(p, n) quad_load(p, n)
#define VSTORE_PART(p, v, n) quad_store(p, v, n)
#define VWIDEN(v) quad_widen(v)
#define VSET(x) quad_set(x)
#define VFMA(a, b, c) quad_fma(a, b, c)
#define VADD(a, b) quad_add(a, b)
#define VMUL(a, b) quad_mul(a, b)
#define VMAX(a, b) quad_max(a, b)
#define VNAN(a, b) quad_nan(a, b)
#define VSUM(v) ((LANE(v, 0) + LANE(v, 1)) + (LANE(v, 2) + LANE(v, 3)))
#define VPREFETCH(p) ((void)0)
#define VPREFETCH_FAR(p) ((void)(p))
#include "isa/template/table.h"
