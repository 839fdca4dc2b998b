/* One pool of threads for the process, and shares of work.
 *
 * Kernels are short (tens of microseconds) and follow each other: a thread without work looks for some for a while, and
 * asks the operating system to be woken only then. A caller never waits for a thread that is not there yet, and so not
 * for one that the operating system has given no core: it closes its task when nothing is left to take, and waits for
 * those that have joined. After a fork the child has no threads of the pool, and starts its own. */
#include "threads.h"

#include "portability.h"

#if HAVE_POOL
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

/* Looks for work before a thread sleeps: some 100 microseconds. */
#define LOOKS 2000
/* Looks for the end of the others' work before the core is offered to them. */
#define PATIENCE 4000

/* `word` says in one number which task there is, whether it is open, for how many threads, and how many have joined and
 * not left. The caller counts for none. */
#define JOINED(word) ((word) & 0xfffu)
#define WANTED(word) ((int)((word) >> 12 & 0xfffu))
#define OPEN ((uint64_t)1 << 24)
#define NUMBER(word) ((word) >> 25)
#define WORD(number, threads) ((uint64_t)(number) << 25 | OPEN | (uint64_t)(threads) << 12)

static struct {
    uint64_t word;
    int busy, started, asleep, watches_forks;
    saibench_task task;
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} pool = {0, 0, 0, 0, 0, NULL, NULL, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};

static uint64_t sleep_until_after(uint64_t number)
{
    uint64_t word;
    pthread_mutex_lock(&pool.lock);
    __atomic_add_fetch(&pool.asleep, 1, __ATOMIC_SEQ_CST);
    while (NUMBER(word = __atomic_load_n(&pool.word, __ATOMIC_SEQ_CST)) == number)
        pthread_cond_wait(&pool.wake, &pool.lock);
    __atomic_sub_fetch(&pool.asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool.lock);
    return word;
}

static void *work(void *argument)
{
    const int thread = (int)(intptr_t)argument;
    uint64_t seen = 0, number = 0;
    int looks = 0;
    for (;;) {
        uint64_t word = __atomic_load_n(&pool.word, __ATOMIC_ACQUIRE);
        if (NUMBER(word) != number) {
            number = NUMBER(word);
            looks = 0;
        }
        if (number != seen && (word & OPEN) && thread < WANTED(word)) {
            /* The same word again, so the same task, still open: from here on its caller waits for this thread. */
            if (__atomic_compare_exchange_n(&pool.word, &word, word + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
                seen = number;
                pool.task(pool.context, thread);
                __atomic_sub_fetch(&pool.word, 1, __ATOMIC_RELEASE);
                looks = 0;
            }
            continue;
        }
        if (++looks < LOOKS)
            PAUSE();
        else
            sleep_until_after(number);
    }
    return NULL;
}

/* In a child: the threads are the parent's. */
static void forget(void)
{
    pool.word = 0;
    pool.busy = pool.started = pool.asleep = 0;
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
}

/* Starts threads up to a number, or as many as can be had. Signals stay with the caller's threads. */
static void start(int threads)
{
    sigset_t all, before;
    pthread_attr_t detached;
    if (!pool.watches_forks) {
        pool.watches_forks = 1;
        pthread_atfork(NULL, NULL, forget);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    while (pool.started < threads) {
        pthread_t made;
        if (pthread_create(&made, &detached, work, (void *)(intptr_t)(pool.started + 1)))
            break;
        pool.started++;
    }
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void saibench_run(int threads, saibench_task task, void *context)
{
    int looks = 0;
    /* Another caller has the threads: the work gets done on this one. */
    if (threads < 2 || __atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
        task(context, 0);
        return;
    }
    if (pool.started < threads - 1)
        start(threads - 1);
    pool.task = task;
    pool.context = context;
    __atomic_store_n(&pool.word, WORD(NUMBER(pool.word) + 1, threads), __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.asleep, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    task(context, 0);
    __atomic_and_fetch(&pool.word, ~OPEN, __ATOMIC_ACQ_REL);
    while (JOINED(__atomic_load_n(&pool.word, __ATOMIC_ACQUIRE)))
        if (++looks < PATIENCE)
            PAUSE();
        else
            sched_yield();
    __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
}

void saibench_or(int *flags, int found)
{
    if (found)
        __atomic_or_fetch(flags, found, __ATOMIC_RELAXED);
}

void saibench_add(int64_t *sum, int64_t more) { __atomic_add_fetch(sum, more, __ATOMIC_RELAXED); }

int saibench_first_error(int *kept, int error)
{
    int none = 0;
    return __atomic_compare_exchange_n(kept, &none, error, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static int take_from(share *s, int unit, int limit, int *first)
{
    int next = __atomic_load_n(&s->next, __ATOMIC_RELAXED), size;
    do {
        const int left = s->end - next, half = (left + 2 * unit - 1) / (2 * unit) * unit;
        size = half < limit / 4 ? limit / 4 : half;
        size = size > limit ? limit : size;
        size = size > left ? left : size;
        if (size <= 0)
            return 0;
    } while (!__atomic_compare_exchange_n(&s->next, &next, next + size, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    *first = next;
    return size;
}

int saibench_next(const share *s) { return __atomic_load_n(&s->next, __ATOMIC_RELAXED); }
#else
void saibench_run(int threads, saibench_task task, void *context)
{
    (void)threads;
    task(context, 0);
}

void saibench_or(int *flags, int found) { *flags |= found; }

void saibench_add(int64_t *sum, int64_t more) { *sum += more; }

int saibench_first_error(int *kept, int error)
{
    const int is_first = !*kept;
    *kept = is_first ? error : *kept;
    return is_first;
}

static int take_from(share *s, int unit, int limit, int *first)
{
    const int left = s->end - s->next;
    (void)unit;
    *first = s->next;
    s->next += left < limit ? left : limit;
    return s->next - *first;
}

int saibench_next(const share *s) { return s->next; }
#endif

/* In order of position, a contiguous share for each thread, since what one thread wrote in one call it mostly reads in
 * the next, out of its own L2. A thread that has finished its share helps the others with theirs, and pieces get smaller
 * towards the end of a share, so that no thread waits long for the last one. */
void saibench_share_out(share *shares, int threads, int count)
{
    for (int t = 0; t < threads; t++) {
        shares[t].next = (int)((int64_t)count * t / threads);
        shares[t].end = (int)((int64_t)count * (t + 1) / threads);
    }
}

/* Guided pieces: half of what is left, so that they shrink towards the end of a share and no thread is waited for long;
 * but not under a quarter of the limit, since each piece starts cold in the weights. A thread looks into its own share
 * first, then into the next thread's, and so on. */
int saibench_take(share *shares, int threads, int thread, int unit, int limit, int *first)
{
    for (int k = 0; k < threads; k++) {
        const int size = take_from(shares + (thread + k) % threads, unit, limit, first);
        if (size > 0)
            return size;
    }
    return 0;
}

typedef struct {
    share shares[MAX_THREADS];
    int threads, piece;
    saibench_rows rows;
    void *context;
} rows_task;

static void run_rows(void *context, int thread)
{
    rows_task *t = context;
    int first, n;
    while ((n = saibench_take(t->shares, t->threads, thread, 1, t->piece, &first)) > 0)
        t->rows(t->context, first, n);
}

void saibench_for(int threads, int count, int piece, saibench_rows rows, void *context)
{
    rows_task task;
    if (threads < 2 || count <= piece) {
        rows(context, 0, count);
        return;
    }
    task.threads = threads;
    task.piece = piece;
    task.rows = rows;
    task.context = context;
    saibench_share_out(task.shares, threads, count);
    saibench_run(threads, run_rows, &task);
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
