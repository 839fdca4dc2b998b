"""The training-free threshold: dense in training, calibrated on its second half, one network for all densities."""

import numpy as np
import pytest
import torch

from benchmark.method import discover
from benchmark.nn import Site, build_backbone, observing, padded, residual_blocks, training


def adapted(density=0.5):
    torch.manual_seed(0)
    method, model = discover()["threshold"].make({"density": density}), build_backbone("mini_small")
    method.adapt(model)
    return method, model


def test_training_computes_everything():
    _, model = adapted()
    with training(0.7):
        model.train()(torch.randn(2, 3, 64, 64))
    masks = [mask for block in residual_blocks(model) for mask in block.decided.masks.values()]
    assert len(masks) == 8 and all(bool((mask == 1).all()) for mask in masks)


@pytest.mark.parametrize("density", [0.75, 0.5, 0.25, 0.1])
def test_the_threshold_is_the_quantile_of_what_the_dense_network_showed(density):
    method, model = adapted(density)
    block = model.layer1[0]
    x = torch.rand(4, 16, 16, 16)
    mask = block.mask1.train()
    with training(0.2):
        mask(100 * x)  # too early to be observed
    for part in (x[:2], x[2:]):
        with training(0.6):
            mask(part)
    method.configure(model)
    norms = [part.sum(1).flatten().double().numpy() for part in (x[:2], x[2:])]
    expected = np.mean([np.quantile(each, 1 - density) for each in norms])
    assert float(mask.threshold()) == pytest.approx(expected, rel=1e-2)
    sampled = mask.eval()(x)
    assert torch.equal(sampled[:, 0] > 0, x.sum(1) >= mask.threshold())
    assert float(sampled.mean()) == pytest.approx(density, abs=0.03)


def test_padding_is_neither_observed_nor_computed():
    mask = adapted()[1].layer1[0].mask1.train()
    x = torch.rand(1, 16, 8, 8) + 1
    x[..., 4:] = 0
    with training(1.0), padded([(32, 16)]):
        mask(x)
    assert float(mask.quantiles.min()) > 10
    with padded([(32, 16)]):
        assert not bool(mask.eval()(x)[..., 4:].any())


def test_the_calibration_is_kept_with_the_weights():
    method, model = adapted(0.25)
    with training(0.9):
        model.train()(torch.randn(2, 3, 64, 64))
    other = build_backbone("mini_small")
    method.adapt(other)
    other.load_state_dict(model.state_dict())
    found = []
    for each in (model, other):
        method.configure(each)
        with torch.no_grad(), observing(lambda block, seen: found.append(seen.masks[2])):
            each.eval()(torch.ones(1, 3, 64, 64))
    assert all(torch.equal(one, two) for one, two in zip(found[:4], found[4:], strict=True))
    assert not all(bool(mask.all()) for mask in found)


def test_a_site_without_calibration_computes_everything():
    kind = type(adapted()[1].layer1[0].mask1)
    assert bool(kind(Site("layer1.0.mask1", 3, 3, 1, 1.0)).eval()(torch.rand(1, 3, 4, 4)).all())
