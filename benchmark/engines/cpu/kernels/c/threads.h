/* How work is shared among threads, and how a thread's arithmetic is set while it runs a kernel. */
#ifndef SAIBENCH_THREADS_H
#define SAIBENCH_THREADS_H

#define MAX_SHARES 256

/* A thread's share of the work. */
typedef struct {
    int next, end;
    char apart[56]; /* one cache line each */
} share;

void saibench_share_out(share *shares, int threads, int count);

/* The next piece of work for a thread: its size, 0 if there is none. Pieces are multiples of `unit`, at most `limit`,
 * and at least a quarter of that while so much is left. */
int saibench_take(share *shares, int threads, int thread, int unit, int limit, int *first);

int saibench_this_thread(void);

/* Subnormal numbers count as zero inside of a kernel: far weights of an RBF are subnormal (exp(-9 * 10) at the initial
 * lambda), and Intel cores take more than a hundred cycles for each operation on one. Threads are the caller's and
 * OpenMP's, so each is left as it was found. */
unsigned saibench_flush_subnormals(void);
void saibench_restore_arithmetic(unsigned before);

#endif
