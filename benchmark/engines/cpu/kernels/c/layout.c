/* An image's planes as rows of channels. */
#include "kernels.h"
#include "threads.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    const float *input;
    int channels, height, width, border;
    float *out;
    int invalid;
} layout_call;

static void lay_out_rows(void *context, int first, int n)
{
    layout_call *c = context;
    const size_t padded = (size_t)c->width + 2 * c->border;
    int invalid = 0;
    for (int y = first - c->border; y < first - c->border + n; y++) {
        float *line = c->out + (size_t)(y + c->border) * padded * c->channels;
        if (y < 0 || y >= c->height) {
            memset(line, 0, sizeof(float) * padded * c->channels);
            continue;
        }
        memset(line, 0, sizeof(float) * c->border * c->channels);
        memset(line + (size_t)(c->border + c->width) * c->channels, 0, sizeof(float) * c->border * c->channels);
        for (int x = 0; x < c->width; x++)
            for (int k = 0; k < c->channels; k++) {
                const float v = c->input[((size_t)k * c->height + y) * c->width + x];
                invalid |= !(fabsf(v) <= FLT_MAX);
                line[(size_t)(c->border + x) * c->channels + k] = v;
            }
    }
    saibench_or(&c->invalid, invalid);
}

int saibench_channels_last(const float *input, int channels, int height, int width, int border, float *out,
                           int threads)
{
    layout_call c = {input, channels, height, width, border, out, 0};
    saibench_for(threads, height + 2 * border, 16, lay_out_rows, &c);
    return !c.invalid;
}
