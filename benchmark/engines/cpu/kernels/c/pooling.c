/* Max pooling, of the stem's map. */
#include "instruction_set.h"
#include "threads.h"

typedef struct {
    const float *input;
    int input_row0, height, width, channels, kernel, stride, padding, row0, out_width;
    float *out;
} pool_call;

static void pool_rows(void *context, int first, int n)
{
    const pool_call *c = context;
    for (int oy = c->row0 + first; oy < c->row0 + first + n; oy++)
        for (int ox = 0; ox < c->out_width; ox++) {
            const float *rows[MAX_POOL * MAX_POOL];
            int found = 0;
            for (int u = 0; u < c->kernel; u++)
                for (int v = 0; v < c->kernel; v++) {
                    const int y = oy * c->stride - c->padding + u, x = ox * c->stride - c->padding + v;
                    if (y >= 0 && y < c->height && x >= 0 && x < c->width)
                        rows[found++] = c->input + ((size_t)(y - c->input_row0) * c->width + x) * c->channels;
                }
            saibench_isa()->max_row(rows, found, c->channels, c->out + ((size_t)oy * c->out_width + ox) * c->channels);
        }
}

void saibench_max_pool(const float *input, int input_row0, int height, int width, int channels, int kernel, int stride,
                       int padding, int row0, int row1, int out_width, float *out, int threads)
{
    pool_call c = {input, input_row0, height, width, channels, kernel, stride, padding, row0, out_width, out};
    saibench_isa(); /* chosen on one thread, before all of them ask */
    saibench_for(threads, row1 - row0, 1, pool_rows, &c);
}
