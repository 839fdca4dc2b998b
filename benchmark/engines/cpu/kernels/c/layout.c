/* An image's planes as rows of channels. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

int saibench_channels_last(const float *input, int channels, int height, int width, int border, float *out,
                           int threads)
{
    const size_t padded = (size_t)width + 2 * border;
    int invalid = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : invalid)
#endif
    for (int y = -border; y < height + border; y++) {
        float *line = out + (size_t)(y + border) * padded * channels;
        if (y < 0 || y >= height) {
            memset(line, 0, sizeof(float) * padded * channels);
            continue;
        }
        memset(line, 0, sizeof(float) * border * channels);
        memset(line + (size_t)(border + width) * channels, 0, sizeof(float) * border * channels);
        for (int x = 0; x < width; x++)
            for (int c = 0; c < channels; c++) {
                const float v = input[((size_t)c * height + y) * width + x];
                invalid |= !(fabsf(v) <= FLT_MAX);
                line[(size_t)(border + x) * channels + c] = v;
            }
    }
    (void)threads;
    return !invalid;
}
