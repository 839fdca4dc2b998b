/* Scratch memory of a plan. One stretch serves all pieces once it is long enough: its length is found by use, since
 * what an image needs depends on its masks. */
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>

#define LINE 64

struct arena_piece {
    arena_piece *next;
    char room[2 * LINE - sizeof(arena_piece *)];
};

static char *on_a_line(char *p) { return p + (LINE - (uintptr_t)p % LINE) % LINE; }

void *saibench_take_bytes(saibench_arena *arena, size_t bytes)
{
    const size_t size = (bytes + LINE - 1) / LINE * LINE, begin = arena->taken;
    arena_piece *piece;
    arena->taken += size;
    if (arena->taken <= arena->size)
        return arena->base + begin;
    piece = malloc(sizeof(arena_piece) + size);
    if (!piece)
        return NULL;
    piece->next = arena->more;
    arena->more = piece;
    return on_a_line((char *)piece + sizeof piece->next);
}

static void free_pieces(saibench_arena *arena)
{
    while (arena->more) {
        arena_piece *next = arena->more->next;
        free(arena->more);
        arena->more = next;
    }
}

void saibench_give_back(saibench_arena *arena)
{
    free_pieces(arena);
    if (arena->taken > arena->size) {
        free(arena->raw);
        arena->raw = malloc(arena->taken + LINE);
        arena->base = arena->raw ? on_a_line(arena->raw) : NULL;
        arena->size = arena->raw ? arena->taken : 0;
    }
    arena->taken = 0;
}

void saibench_free_arena(saibench_arena *arena)
{
    free_pieces(arena);
    free(arena->raw);
    arena->raw = arena->base = NULL;
    arena->size = arena->taken = 0;
}
