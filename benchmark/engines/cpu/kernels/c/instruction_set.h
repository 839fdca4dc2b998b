/* What an instruction set offers to the operators: a table of inner kernels, and the jobs that they are given. Each
 * file of isa/ defines one table; nothing outside of isa/ depends on the CPU that it is built for. */
#ifndef SAIBENCH_INSTRUCTION_SET_H
#define SAIBENCH_INSTRUCTION_SET_H

#include "kernels.h"
#include "blend_group.h"
#include "portability.h"

typedef struct {
    int taps, length, outputs, relu, half;
    const float *packed, *bias;
    const float *next; /* weights that are wanted after these, or NULL */
    const float *const *rows;
    const float *const *residual;
    const float *scale;
    float *const *out;
} conv_job;

typedef struct {
    const float *row[4];
    float weight[4];
} corner;

typedef struct {
    const char *name;
    int width, panel, tile; /* lanes, outputs of a panel, positions of a tile */
    double map_value; /* a convolution's multiply-accumulates in the time that the pass which ends a block takes for one
                       * value of its map (docs/engine.md) */
    void (*conv)(const conv_job *, int);
    void (*narrow)(const conv_job *, int);
    void (*narrow_shape)(int, int *, int *);
    void (*bilinear)(const corner *, int, int, float *);
    int64_t (*blend)(const saibench_blend_args *, const blend_tables *, const uint8_t *, int, int, int, int);
    void (*max_row)(const float *const *, int, int, float *);
} isa_table;

extern const isa_table saibench_table_portable;
#if HAVE_X86
extern const isa_table saibench_table_avx2, saibench_table_avx512;
#endif

/* The table in use: the best that this CPU has, or what saibench_use_isa has selected. */
const isa_table *saibench_isa(void);

#endif
