/* The windowed fill of benchmark.nn.interpolation in training: forward, and the gradients of all that it reads.
 *
 * Maps are float32 with the channels last, (images, height, width, channels); masks (images, height, width). The window's
 * weights are the outer product of `profile`, of `window` values, with itself; it is odd and at most SAIBENCH_FILL_WINDOW.
 * Nothing is validated here: the binding does, in the same call. */
#ifndef SAIBENCH_FILL_H
#define SAIBENCH_FILL_H

#define SAIBENCH_FILL_WINDOW 31

typedef struct {
    int images, height, width, channels, window, squared;
    float epsilon;
    const float *features, *mask, *profile;
} saibench_fill;

/* Writes the filled map, what stands at the missing positions (`filling`, like features) and one over the windowed sum of
 * the mask (`scale`, like mask); the backward pass reads both. Returns 0, or -1 where there is no memory. */
int saibench_fill_forward(const saibench_fill *fill, float *out, float *filling, float *scale, int threads);

/* Writes the gradients of features and mask, and of the profile for each image (`to_profile`, (images, window)); the last
 * two may be NULL, and are then not computed. Returns as above. */
int saibench_fill_backward(const saibench_fill *fill, const float *filling, const float *scale, const float *gradient,
                           float *to_features, float *to_mask, double *to_profile, int threads);

#endif
