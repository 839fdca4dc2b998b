/* What differs between compilers: forced inlining, unrolling, prefetching, pausing, and whether x86 code
 * and threads can be built. */
#ifndef SAIBENCH_PORTABILITY_H
#define SAIBENCH_PORTABILITY_H

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__SANITIZE_ADDRESS__)
#define UNROLL(n) /* a check for each access of unrolled loops takes minutes to compile */
#elif defined(__clang__)
#define UNROLL(n) PRAGMA(unroll n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif
#define PREFETCH(p) __builtin_prefetch(p)
#define PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)
#define POPCOUNT(x) __builtin_popcountll(x)
#else
#define ALWAYS_INLINE static inline
#define UNROLL(n)
#define PREFETCH(p) ((void)0)
#define PREFETCH_FAR(p) ((void)0)
static inline int popcount_portable(unsigned long long x)
{
    int n = 0;
    for (; x; x &= x - 1)
        n++;
    return n;
}
#define POPCOUNT(x) popcount_portable(x)
#endif

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__amd64__))
#define HAVE_X86 1
#include <immintrin.h>
#else
#define HAVE_X86 0
#endif

/* POSIX threads and the compiler's atomic operations; elsewhere kernels run on the caller's thread alone. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(_WIN32)
#define HAVE_POOL 1
#else
#define HAVE_POOL 0
#endif

#if HAVE_X86
#define PAUSE() _mm_pause()
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

#endif
