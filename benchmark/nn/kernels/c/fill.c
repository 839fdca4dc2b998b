/* See fill.h. An image is filled row by row: a vertical pass over rows of the sampled map, then a horizontal one over what
 * that left. In both, a tap is the same row of numbers again, shifted by whole positions, so that both are one loop over
 * contiguous numbers, whatever the number of channels. Rows are padded to whole blocks, and for the horizontal
 * pass by the window's radius at both ends. */
#include "fill.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(_WIN32)
#include <pthread.h>
#define HAVE_THREADS 1
#else
#define HAVE_THREADS 0
#endif

/* The compiler makes a version for each of these instruction sets, and the loader takes the best one. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#define INLINE static inline __attribute__((always_inline))
#pragma GCC diagnostic ignored "-Wpsabi" /* groups are passed to inlined functions alone */
#else
#define CLONES
#define INLINE static inline
#endif

/* A group of numbers that are computed together: of neighbouring channels or positions. Where the compiler knows no vectors
 * it is one number. */
#if defined(__GNUC__)
#define GROUP 16
typedef float group __attribute__((vector_size(64)));
typedef float unaligned __attribute__((vector_size(64), aligned(4), may_alias));
INLINE group load(const float *from)
{
    return *(const unaligned *)from;
}
INLINE void store(float *to, group values)
{
    *(unaligned *)to = values;
}
INLINE float total(group values)
{
    float sum = 0;
    for (int lane = 0; lane < GROUP; lane++)
        sum += values[lane];
    return sum;
}
#define ZERO ((group){0})
#else
#define GROUP 1
typedef float group;
INLINE group load(const float *from)
{
    return *from;
}
INLINE void store(float *to, group values)
{
    *to = values;
}
INLINE float total(group values)
{
    return values;
}
#define ZERO 0.0f
#endif

#define BLOCK (4 * GROUP) /* numbers of a row at a time */
#define MAX_THREADS 64

/* Buffers of one thread, zero where nothing is written: rows of `span` floats, padded ones with `margin` floats before and
 * after. `sampled`, `spread` and `across` hold a whole image. */
typedef struct {
    size_t span, margin, padded;
    float *sampled, *spread, *across, *row, *other;
    float *memory;
} scratch;

static int prepare(scratch *s, const saibench_fill *f, int backward)
{
    size_t numbers = (size_t)f->width * f->channels;
    s->span = (numbers + BLOCK - 1) / BLOCK * BLOCK;
    s->margin = (size_t)(f->window / 2) * f->channels;
    s->padded = s->margin + s->span + s->margin;
    size_t image = (size_t)f->height * s->padded;
    s->memory = calloc((backward ? 3 : 1) * image + 2 * s->padded, sizeof(float));
    if (!s->memory)
        return -1;
    s->sampled = s->memory;
    s->row = s->sampled + image;
    s->other = s->row + s->padded;
    s->spread = s->other + s->padded;
    s->across = s->spread + image;
    return 0;
}

/* out[k] = sum over taps of weights[tap] * sources[tap][k] for k below `count`, a whole number of blocks. */
INLINE void weigh(float *out, const float *const *sources, const float *weights, int taps, size_t count)
{
    for (size_t k = 0; k < count; k += BLOCK) {
        group a = ZERO, b = ZERO, c = ZERO, d = ZERO;
        for (int tap = 0; tap < taps; tap++) {
            const float *source = sources[tap] + k;
            float weight = weights[tap];
            a += weight * load(source);
            b += weight * load(source + GROUP);
            c += weight * load(source + 2 * GROUP);
            d += weight * load(source + 3 * GROUP);
        }
        store(out + k, a);
        store(out + k + GROUP, b);
        store(out + k + 2 * GROUP, c);
        store(out + k + 3 * GROUP, d);
    }
}

/* The sum of products of two rows of `count` numbers. */
INLINE double dot(const float *a, const float *b, size_t count)
{
    group even = ZERO, odd = ZERO;
    float rest = 0;
    size_t k = 0;
    for (; k + 2 * GROUP <= count; k += 2 * GROUP) {
        even += load(a + k) * load(b + k);
        odd += load(a + k + GROUP) * load(b + k + GROUP);
    }
    for (; k < count; k++)
        rest += a[k] * b[k];
    return (double)total(even + odd) + rest;
}

/* The vertical pass to a row: rows of `image` around it, those outside left out. `step` is 1, or -1 for the transposed. */
INLINE void vertical(const saibench_fill *f, const scratch *s, const float *image, int row, int step, float *out)
{
    const float *sources[SAIBENCH_FILL_WINDOW];
    float weights[SAIBENCH_FILL_WINDOW];
    int taps = 0, radius = f->window / 2;
    for (int tap = 0; tap < f->window; tap++) {
        int from = row + step * (tap - radius);
        if (from >= 0 && from < f->height) {
            sources[taps] = image + from * s->padded + s->margin;
            weights[taps++] = f->profile[tap];
        }
    }
    weigh(out + s->margin, sources, weights, taps, s->span);
    /* Zeros behind the row's end, which the horizontal pass reads and the last block may have written. */
    size_t numbers = (size_t)f->width * f->channels;
    memset(out + s->margin + numbers, 0, (s->padded - s->margin - numbers) * sizeof(float));
}

/* The horizontal pass over a padded row. */
INLINE void horizontal(const saibench_fill *f, const scratch *s, const float *row, int step, float *out)
{
    const float *sources[SAIBENCH_FILL_WINDOW];
    int radius = f->window / 2;
    for (int tap = 0; tap < f->window; tap++)
        sources[tap] = row + s->margin + (ptrdiff_t)step * (tap - radius) * f->channels;
    weigh(out, sources, f->profile, f->window, s->span);
}

/* M * Y of an image into padded rows. */
INLINE void sample(const saibench_fill *f, const scratch *s, const float *features, const float *mask)
{
    for (int y = 0; y < f->height; y++) {
        float *out = s->sampled + y * s->padded + s->margin;
        for (int x = 0; x < f->width; x++, out += f->channels, features += f->channels) {
            float m = *mask++;
            int c = 0;
            for (; c + GROUP <= f->channels; c += GROUP)
                store(out + c, m * load(features + c));
            for (; c < f->channels; c++)
                out[c] = m * features[c];
        }
    }
}

/* The passes over a map of one channel, (height, width): such maps are small, and take plain loops. */
INLINE void mask_vertical(const saibench_fill *f, const float *map, int row, int step, float *out)
{
    memset(out, 0, f->width * sizeof(float));
    for (int tap = 0; tap < f->window; tap++) {
        int from = row + step * (tap - f->window / 2);
        if (from >= 0 && from < f->height)
            for (int x = 0; x < f->width; x++)
                out[x] += f->profile[tap] * map[(size_t)from * f->width + x];
    }
}

/* Where a tap's row overlaps the map: columns from `first` to `last`. */
INLINE void overlap(const saibench_fill *f, int shift, int *first, int *last)
{
    *first = shift < 0 ? -shift : 0;
    *last = shift > 0 ? f->width - shift : f->width;
}

INLINE void mask_horizontal(const saibench_fill *f, const float *row, int step, float *out)
{
    for (int tap = 0; tap < f->window; tap++) {
        int shift = step * (tap - f->window / 2), first, last;
        overlap(f, shift, &first, &last);
        for (int x = first; x < last; x++)
            out[x] += f->profile[tap] * row[x + shift];
    }
}

/* One over the windowed sum of a mask (height, width), epsilon added. */
INLINE void weigh_mask(const saibench_fill *f, const float *mask, float *row, float *scale)
{
    for (int y = 0; y < f->height; y++, scale += f->width) {
        mask_vertical(f, mask, y, 1, row);
        for (int x = 0; x < f->width; x++)
            scale[x] = f->epsilon;
        mask_horizontal(f, row, 1, scale);
        for (int x = 0; x < f->width; x++)
            scale[x] = 1.0f / scale[x];
    }
}

CLONES static void forward_image(const saibench_fill *f, const scratch *s, int image, float *out, float *filling,
                                 float *scale)
{
    size_t positions = (size_t)f->height * f->width, start = image * positions;
    const float *mask = f->mask + start;
    int channels = f->channels;
    scale += start;
    out += start * channels;
    filling += start * channels;
    sample(f, s, f->features + start * channels, mask);
    weigh_mask(f, mask, s->other, scale);
    for (int y = 0; y < f->height; y++) {
        const float *sampled = s->sampled + y * s->padded + s->margin, *sum = s->other;
        vertical(f, s, s->sampled, y, 1, s->row);
        horizontal(f, s, s->row, 1, s->other);
        for (int x = 0; x < f->width; x++) {
            float m = *mask++, inverse = *scale++, kept = f->squared ? m : 1.0f, missing = 1.0f - m;
            int c = 0;
            for (; c + GROUP <= channels; c += GROUP) {
                group mean = inverse * load(sum + c);
                store(filling + c, mean);
                store(out + c, kept * load(sampled + c) + missing * mean);
            }
            for (; c < channels; c++) {
                filling[c] = inverse * sum[c];
                out[c] = kept * sampled[c] + missing * filling[c];
            }
            filling += channels, out += channels, sampled += channels, sum += channels;
        }
    }
}

/* Adds what the gradient of the windowed sum of the mask, (height, width), gives to mask and profile; `across` is a map, and
 * `row` a row, for its own use. */
INLINE void backward_mask(const saibench_fill *f, const float *mask, const float *to_sum, float *to_mask,
                          double *to_profile, float *across, float *row)
{
    int radius = f->window / 2;
    if (to_profile) {
        memset(across, 0, (size_t)f->height * f->width * sizeof(float));
        for (int y = 0; y < f->height; y++)
            mask_horizontal(f, mask + (size_t)y * f->width, 1, across + (size_t)y * f->width);
    }
    for (int y = 0; y < f->height; y++) {
        mask_vertical(f, to_sum, y, -1, row);
        if (to_mask)
            mask_horizontal(f, row, -1, to_mask + (size_t)y * f->width);
        for (int tap = 0; to_profile && tap < f->window; tap++) {
            int shift = tap - radius, from = y + shift, first, last;
            overlap(f, shift, &first, &last);
            if (first < last)
                to_profile[tap] += dot(row + first, mask + (size_t)y * f->width + first + shift, last - first);
            if (from >= 0 && from < f->height)
                to_profile[tap] += dot(to_sum + (size_t)y * f->width, across + (size_t)from * f->width, f->width);
        }
    }
}

/* The gradients of an image. With D = G (1 - M) / B, the gradient of the weighted sum: that of the sampled map is G and the
 * transposed passes over D; that of the mask's sum is -D C, summed over channels. */
CLONES static void backward_image(const saibench_fill *f, const scratch *s, int image, const float *filling,
                                  const float *scale, const float *gradient, float *to_features, float *to_mask,
                                  double *to_profile, float *to_sum)
{
    size_t positions = (size_t)f->height * f->width, start = image * positions;
    int channels = f->channels;
    const float *mask = f->mask + start, *features = f->features + start * channels;
    scale += start, filling += start * channels, gradient += start * channels, to_features += start * channels;
    if (to_mask)
        to_mask += start;
    if (to_profile)
        to_profile += (size_t)image * f->window;
    if (to_profile)
        sample(f, s, features, mask);
    for (int y = 0; y < f->height; y++) {
        float *spread = s->spread + y * s->padded + s->margin;
        for (int x = 0; x < f->width; x++) {
            size_t place = (size_t)y * f->width + x;
            const float *g = gradient + place * channels, *c = filling + place * channels;
            float share = (1.0f - mask[place]) * scale[place], product = 0;
            float *into = spread + (size_t)x * channels;
            group products = ZERO;
            int channel = 0;
            for (; channel + GROUP <= channels; channel += GROUP) {
                group mine = load(g + channel);
                store(into + channel, share * mine);
                products += mine * load(c + channel);
            }
            for (; channel < channels; channel++) {
                into[channel] = share * g[channel];
                product += g[channel] * c[channel];
            }
            product += total(products);
            if (to_mask || to_profile) {
                to_sum[place] = -share * product;
                if (to_mask)
                    to_mask[place] = -product;
            }
        }
    }
    for (int y = 0; to_profile && y < f->height; y++) /* what the vertical pass reads, for the profile's part in it */
        horizontal(f, s, s->sampled + y * s->padded, 1, s->across + y * s->padded);
    for (int y = 0; y < f->height; y++) {
        vertical(f, s, s->spread, y, -1, s->row);
        horizontal(f, s, s->row, -1, s->other);
        for (int x = 0; x < f->width; x++) {
            size_t place = (size_t)y * f->width + x;
            const float *g = gradient + place * channels, *value = features + place * channels;
            const float *sum = s->other + (size_t)x * channels;
            float *out = to_features + place * channels, m = mask[place], product = 0;
            float kept = f->squared ? m : 1.0f, twice = f->squared ? 2.0f * m : 1.0f;
            group products = ZERO;
            int channel = 0;
            for (; channel + GROUP <= channels; channel += GROUP) {
                group by = load(sum + channel), mine = load(g + channel);
                store(out + channel, m * (kept * mine + by));
                products += load(value + channel) * (twice * mine + by);
            }
            for (; channel < channels; channel++) {
                out[channel] = m * (kept * g[channel] + sum[channel]);
                product += value[channel] * (twice * g[channel] + sum[channel]);
            }
            product += total(products);
            if (to_mask)
                to_mask[place] += product;
        }
        if (!to_profile)
            continue;
        const float *sampled = s->sampled + y * s->padded + s->margin, *spread = s->spread + y * s->padded + s->margin;
        int radius = f->window / 2;
        for (int tap = 0; tap < f->window; tap++) {
            to_profile[tap] += dot(s->row + s->margin, sampled + (ptrdiff_t)(tap - radius) * channels, s->span);
            int from = y + tap - radius;
            if (from >= 0 && from < f->height)
                to_profile[tap] += dot(spread, s->across + from * s->padded, s->span);
        }
    }
    if (to_mask || to_profile)
        backward_mask(f, mask, to_sum, to_mask, to_profile, to_sum + positions, s->other);
}

/* What one thread does: every `threads`th image. */
typedef struct {
    const saibench_fill *fill;
    const float *filling_in, *scale_in, *gradient;
    float *out, *filling, *scale, *to_features, *to_mask;
    double *to_profile;
    int first, step, result;
} share;

static void *run(void *given)
{
    share *w = given;
    scratch s;
    int backward = w->gradient != NULL;
    float *to_sum = NULL;
    w->result = prepare(&s, w->fill, backward);
    if (!w->result && backward) {
        to_sum = malloc((2 * (size_t)w->fill->height * w->fill->width + 1) * sizeof(float));
        w->result = to_sum ? 0 : -1;
    }
    for (int image = w->first; !w->result && image < w->fill->images; image += w->step) {
        if (backward)
            backward_image(w->fill, &s, image, w->filling_in, w->scale_in, w->gradient, w->to_features, w->to_mask,
                           w->to_profile, to_sum);
        else
            forward_image(w->fill, &s, image, w->out, w->filling, w->scale);
    }
    free(to_sum);
    free(s.memory);
    return NULL;
}

static int share_out(const share *all, int threads)
{
    share shares[MAX_THREADS];
    int result = 0;
    if (threads > all->fill->images)
        threads = all->fill->images;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (!HAVE_THREADS || threads < 1)
        threads = 1;
#if HAVE_THREADS
    pthread_t handles[MAX_THREADS];
    int started[MAX_THREADS] = {0};
#endif
    for (int t = 0; t < threads; t++) {
        shares[t] = *all;
        shares[t].first = t;
        shares[t].step = threads;
#if HAVE_THREADS
        if (t + 1 < threads)
            started[t] = pthread_create(&handles[t], NULL, run, &shares[t]) == 0;
        if (started[t])
            continue;
#endif
        run(&shares[t]);
    }
    for (int t = 0; t < threads; t++) {
#if HAVE_THREADS
        if (started[t])
            pthread_join(handles[t], NULL);
#endif
        result |= shares[t].result;
    }
    return result;
}

int saibench_fill_forward(const saibench_fill *fill, float *out, float *filling, float *scale, int threads)
{
    share all = {.fill = fill, .out = out, .filling = filling, .scale = scale};
    return share_out(&all, threads);
}

int saibench_fill_backward(const saibench_fill *fill, const float *filling, const float *scale, const float *gradient,
                           float *to_features, float *to_mask, double *to_profile, int threads)
{
    share all = {.fill = fill, .filling_in = filling, .scale_in = scale, .gradient = gradient,
                 .to_features = to_features, .to_mask = to_mask, .to_profile = to_profile};
    if (to_profile)
        memset(to_profile, 0, (size_t)fill->images * fill->window * sizeof(double));
    return share_out(&all, threads);
}
