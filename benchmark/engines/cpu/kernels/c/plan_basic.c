/* A basic block: two convolutions, whose masks may be decided late, from what their convolution reads. */
#include "running.h"

void plan_basic(block_run *k)
{
    const float *y = plan_first(k);
    const sample_list *samples;
    plan_decide(k, 1, y, k->sizes[0], k->block->conv[0].outputs);
    samples = plan_samples(k, k->block->computes[1], k->sizes[1]);
    plan_shortcut(k);
    if (samples)
        plan_end_filled(k, y, samples);
    else
        plan_end_dense(k, y);
}
