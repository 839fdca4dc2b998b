/* Weights and biases in the order in which the inner kernels read them: once for a network, not for an image. */
#include "instruction_set.h"

#include <string.h>

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

size_t saibench_bias_size(int outputs) { return round_up((size_t)outputs, (size_t)saibench_isa()->panel); }

size_t saibench_packed_size(int outputs, int depth) { return saibench_bias_size(outputs) * (size_t)depth; }

/* Panel by panel of outputs; within a panel, for each tap and channel the weights of its outputs side by side: the
 * order in which the tile kernel streams them. Outputs that fill up the last panel have weight 0. */
void saibench_pack(const float *weights, int outputs, int depth, float *packed)
{
    const int panel = saibench_isa()->panel;
    for (int column = 0; column < outputs; column += panel)
        for (int k = 0; k < depth; k++)
            for (int j = 0; j < panel; j++)
                *packed++ = column + j < outputs ? weights[(size_t)(column + j) * depth + k] : 0.0f;
}

size_t saibench_narrow_size(int outputs, int depth)
{
    int vectors, dots;
    saibench_isa()->narrow_shape(outputs, &vectors, &dots);
    return (size_t)(vectors * saibench_isa()->width + dots) * depth;
}

/* Whole vectors of outputs as above, then each dot product's weights along taps and channels, as its input lies. */
void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed)
{
    int vectors, dots, lanes;
    saibench_isa()->narrow_shape(outputs, &vectors, &dots);
    lanes = vectors * saibench_isa()->width;
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < lanes; j++)
            *packed++ = j < outputs ? weights[(size_t)j * depth + k] : 0.0f;
    for (int d = 0; d < dots; d++, packed += depth)
        memcpy(packed, weights + (size_t)(lanes + d) * depth, sizeof(float) * depth);
}
