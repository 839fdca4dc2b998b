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

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* A word of two weights: the kernel shifts the lower half up for the one, and takes the word as it is for the other, whose
 * last bits are then the first one's. So the first is rounded to bfloat16, and the second so that the whole word comes
 * closest: both are off by half a unit of bfloat16 at most. Widening costs one shift for two vectors of weights. */
static uint32_t pair(float first, float second)
{
    const uint32_t low = (bits_of(first) + 0x7fffu + (bits_of(first) >> 16 & 1u)) >> 16;
    const uint32_t sign = bits_of(second) & 0x80000000u, size = (bits_of(second) & 0x7fffffffu) + 0x8000u;
    return sign | (size > low ? (size - low) & 0xffff0000u : 0u) | low;
}

/* In the order of saibench_pack, but for vectors of outputs, of which every two share their words. */
void saibench_pack_half(const float *weights, int outputs, int depth, float *packed)
{
    const int panel = saibench_isa()->panel, width = saibench_isa()->width;
    for (int column = 0; column < outputs; column += panel)
        for (int k = 0; k < depth; k++)
            for (int vector = 0; vector < panel; vector += 2 * width)
                for (int lane = 0; lane < width; lane++) {
                    const int one = column + vector + lane, two = one + width;
                    const uint32_t word = pair(one < outputs ? weights[(size_t)one * depth + k] : 0.0f,
                                               two < outputs ? weights[(size_t)two * depth + k] : 0.0f);
                    memcpy(packed++, &word, sizeof word);
                }
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
