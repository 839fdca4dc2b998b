/* Shares of work: in order of position, a contiguous one for each thread, since what one thread wrote in one call it
 * mostly reads in the next, out of its own L2. A thread that has finished its share helps the others with theirs, and
 * pieces get smaller towards the end of a share, so that no thread waits long for the last one. */
#include "threads.h"

#include "kernels.h"
#include "portability.h"

#ifdef _OPENMP
#include <omp.h>
#endif

void saibench_share_out(share *shares, int threads, int count)
{
    for (int t = 0; t < threads; t++) {
        shares[t].next = (int)((int64_t)count * t / threads);
        shares[t].end = (int)((int64_t)count * (t + 1) / threads);
    }
}

/* Guided pieces: half of what is left, so that they shrink towards the end of a share and no thread is waited for long;
 * but not under a quarter of the limit, since each piece starts cold in the weights. A thread looks into its own share
 * first, then into the next thread's, and so on. One lock for all is enough: a piece takes hundreds of times as long
 * as taking it. */
int saibench_take(share *shares, int threads, int thread, int unit, int limit, int *first)
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

int saibench_this_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int saibench_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

#if HAVE_X86
unsigned saibench_flush_subnormals(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
}
void saibench_restore_arithmetic(unsigned before) { _mm_setcsr(before); }
#else
unsigned saibench_flush_subnormals(void) { return 0; }
void saibench_restore_arithmetic(unsigned before) { (void)before; }
#endif
