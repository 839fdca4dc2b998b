/* The choice of instruction set: made when the first kernel runs, by what the CPU says it has. */
#include "instruction_set.h"

/* Not guarded: whoever asks first, and at the same time, chooses the same. */
static const isa_table *selected = &saibench_table_portable;
static int initialised = 0;

static const isa_table *table_of(int isa)
{
    if (isa == 0)
        return &saibench_table_portable;
#if HAVE_X86
    __builtin_cpu_init();
    if (isa == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &saibench_table_avx2;
    if (isa == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return &saibench_table_avx512;
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

const isa_table *saibench_isa(void)
{
    if (!initialised)
        saibench_use_isa(saibench_best_isa());
    return selected;
}

const char *saibench_isa_name(void) { return saibench_isa()->name; }
