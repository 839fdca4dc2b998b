/* Threads: how they are had, how work is shared among them, and how a thread's arithmetic is set inside of a kernel. */
#ifndef SAIBENCH_THREADS_H
#define SAIBENCH_THREADS_H

#include <stdint.h>

/* More threads than any machine of today has cores for one network. */
#define MAX_THREADS 256

/* Runs task(context, t) for t = 0 on the calling thread and, where they come in time, for 1 .. threads - 1 on others.
 * A thread that is late, or busy with another caller's task, does not come at all: a task must get done whoever comes,
 * which `saibench_take` sees to. Returns when all that came have left. */
typedef void (*saibench_task)(void *context, int thread);
void saibench_run(int threads, saibench_task task, void *context);

/* A thread's share of the work. */
typedef struct {
    int next, end;
    char apart[56]; /* one cache line each */
} share;

void saibench_share_out(share *shares, int threads, int count);

/* The next piece of work for a thread: its size, 0 if there is none. Pieces are multiples of `unit`, at most `limit`,
 * and at least a quarter of that while so much is left. */
int saibench_take(share *shares, int threads, int thread, int unit, int limit, int *first);

/* Where the next piece of a share begins; its end if there is none. Another thread may take it at any time. */
int saibench_next(const share *s);

/* Runs rows(context, first, n) for pieces of 0 .. count - 1, at most `piece` long: on one thread if there is but one. */
typedef void (*saibench_rows)(void *context, int first, int n);
void saibench_for(int threads, int count, int piece, saibench_rows rows, void *context);

/* What several threads may add to. */
void saibench_or(int *flags, int found);
void saibench_add(int64_t *sum, int64_t more);
/* Keeps the first error of several; whether this one was it. */
int saibench_first_error(int *kept, int error);

/* Subnormal numbers count as zero inside of a kernel: far weights of an RBF are subnormal (exp(-9 * 10) at the initial
 * lambda), and Intel cores take more than a hundred cycles for each operation on one. One thread is the caller's, so
 * each is left as it was found. */
unsigned saibench_flush_subnormals(void);
void saibench_restore_arithmetic(unsigned before);

#endif
