"""The random control: as many positions as asked for, drawn for each image, whatever it shows."""

import pytest
import torch

from benchmark.method import Step, discover
from benchmark.nn import build_backbone, inference, observing, residual_blocks


def masks(model, x, images, seed=0):
    """Return all masks ``(N, 1, H, W)``."""
    found = []
    with (
        inference(images, seed),
        torch.no_grad(),
        observing(lambda block, decided: found.extend(decided.masks.values())),
    ):
        model.eval()(x)
    return found


@pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
def test_density_is_met_and_the_draw_belongs_to_the_image(density):
    model = build_backbone("mini")
    discover()["random"].make({"density": density}).adapt(model)
    x = torch.randn(2, 3, 64, 64)
    both = masks(model, x, ["a", "b"])
    assert len(both) == 16
    for mask in both:
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert mask.sum((1, 2, 3)).tolist() == [max(1, round(density * mask[0].numel()))] * 2
    swapped = masks(model, torch.randn(2, 3, 64, 64), ["b", "a"])
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(both, swapped, strict=True))
    assert not torch.equal(both[0][0], both[0][1])
    assert not torch.equal(both[0], masks(model, x, ["a", "b"], seed=1)[0])


def test_training_draws_anew_and_leaves_no_loss():
    model, method = build_backbone("mini"), discover()["random"].make({})
    method.adapt(model)
    block = next(iter(residual_blocks(model)))
    model.train()
    drawn = []
    for _ in range(2):
        model(torch.randn(2, 3, 64, 64))
        drawn.append(block.decided.masks[1])
    assert not torch.equal(*drawn) and method.loss(model, Step(0.0, [], None)).item() == 0
