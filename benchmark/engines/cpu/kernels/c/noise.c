/* Stochastic masks: the uniform field of an image and a layer, and the decision that it makes.
 *
 * The field is NumPy's `Generator(Philox(key=...)).random(float32)`, bit for bit: Philox with four words of 64 bits and
 * ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), of which each word gives two
 * numbers of 24 bits, the lower half first. A position is sampled where its logit exceeds log u - log(1 - u), that is,
 * where u (1 + exp(-logit)) < 1: one exponential instead of two logarithms. */
#include "kernels.h"
#include "threads.h"

#define WORDS 4
#define NUMBERS (2 * WORDS)
/* Positions of a piece, a multiple of NUMBERS. */
#define PIECE 1024

static uint64_t multiply(uint64_t a, uint64_t b, uint64_t *high)
{
#ifdef __SIZEOF_INT128__
    const unsigned __int128 product = (unsigned __int128)a * b;
    *high = (uint64_t)(product >> 64);
    return (uint64_t)product;
#else
    const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
    const uint64_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0, p11 = a1 * b1;
    const uint64_t middle = (p00 >> 32) + (p01 & 0xffffffffu) + (p10 & 0xffffffffu);
    *high = p11 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
    return a * b;
#endif
}

/* The numbers of one value of the counter; NumPy's counts from 1. */
static void philox(uint64_t counter, const uint64_t *key, float *uniform)
{
    uint64_t c[WORDS] = {counter, 0, 0, 0}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t high0, high1;
        const uint64_t low0 = multiply(0xD2E7470EE14C6C93u, c[0], &high0);
        const uint64_t low1 = multiply(0xCA5A826395121157u, c[2], &high1);
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B97F4A7C15u;
        k1 += 0xBB67AE8584CAA73Bu;
    }
    for (int i = 0; i < WORDS; i++) {
        uniform[2 * i] = (float)((uint32_t)c[i] >> 8) * (1.0f / 16777216.0f);
        uniform[2 * i + 1] = (float)((uint32_t)(c[i] >> 32) >> 8) * (1.0f / 16777216.0f);
    }
}

typedef struct {
    const uint64_t *key;
    int positions;
    const float *logits;
    float *out;
} noise_call;

/* The uniform numbers of positions `begin` on, into a buffer of PIECE. */
static int draw(const noise_call *c, int piece, float *uniform)
{
    const int begin = piece * PIECE, n = c->positions - begin < PIECE ? c->positions - begin : PIECE;
    for (int i = 0; i < n; i += NUMBERS)
        philox((uint64_t)(begin + i) / NUMBERS + 1, c->key, uniform + i);
    return n;
}

/* e^x to about 1e-7 for |x| <= 88, and beyond as at 88: 2^n times a polynomial (Cephes, expf). */
static inline float exponential(float x)
{
    union {
        int32_t i;
        float f;
    } power;
    float n, y;
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    n = (float)(int32_t)(x * 1.44269504f + (x < 0.0f ? -0.5f : 0.5f));
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    power.i = ((int32_t)n + 127) << 23;
    return y * power.f;
}

static void decide_pieces(void *context, int first, int pieces)
{
    const noise_call *c = context;
    for (int piece = first; piece < first + pieces; piece++) {
        float uniform[PIECE + NUMBERS];
        const int begin = piece * PIECE, n = draw(c, piece, uniform);
        const float *logits = c->logits + begin;
        float *out = c->out + begin;
        for (int i = 0; i < n; i++) {
            const int number = logits[i] == logits[i];
            const float odds = exponential(number ? -logits[i] : 0.0f);
            out[i] = number & (uniform[i] * (1.0f + odds) < 1.0f) ? 1.0f : 0.0f;
        }
    }
}

void saibench_decide(const uint64_t *key, int height, int width, const float *logits, int grid, float *out, int threads)
{
    noise_call c = {key, height * width, logits, out};
    saibench_for(threads, (c.positions + PIECE - 1) / PIECE, 4, decide_pieces, &c);
    for (int y = 0; grid && y < height; y += grid)
        for (int x = 0; x < width; x += grid)
            out[(size_t)y * width + x] = 1.0f;
}
