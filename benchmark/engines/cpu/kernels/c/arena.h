/* Scratch memory of a plan: taken piece by piece, given back all at once. */
#ifndef SAIBENCH_ARENA_H
#define SAIBENCH_ARENA_H

#include <stddef.h>

typedef struct arena_piece arena_piece;
typedef struct {
    char *base, *raw;
    size_t size, taken;
    arena_piece *more; /* what did not fit */
} saibench_arena;

/* Bytes on a cache line of their own, or NULL. */
void *saibench_take_bytes(saibench_arena *arena, size_t bytes);
/* Gives all back; what did not fit will fit the next time. */
void saibench_give_back(saibench_arena *arena);
void saibench_free_arena(saibench_arena *arena);

#endif
