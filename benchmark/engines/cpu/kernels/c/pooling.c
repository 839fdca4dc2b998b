/* Max pooling, of the stem's map. */
#include "instruction_set.h"

void saibench_max_pool(const float *input, int input_row0, int height, int width, int channels, int kernel, int stride,
                       int padding, int row0, int row1, int out_width, float *out, int threads)
{
    saibench_isa();
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (int oy = row0; oy < row1; oy++)
        for (int ox = 0; ox < out_width; ox++) {
            const float *rows[MAX_WINDOW * MAX_WINDOW];
            int n = 0;
            for (int u = 0; u < kernel; u++)
                for (int v = 0; v < kernel; v++) {
                    const int y = oy * stride - padding + u, x = ox * stride - padding + v;
                    if (y >= 0 && y < height && x >= 0 && x < width)
                        rows[n++] = input + ((size_t)(y - input_row0) * width + x) * channels;
                }
            saibench_isa()->max_row(rows, n, channels, out + ((size_t)oy * out_width + ox) * channels);
        }
    (void)threads;
}
