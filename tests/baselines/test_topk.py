"""The largest-norm control: exactly the asked share of each image's positions, those with the largest input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step, discover
from benchmark.nn import build_backbone, observing, padded, residual_blocks


def decided(model, x, sizes=()):
    """Return what each block read and decided: its input and its masks."""
    found, inputs = [], {}

    def watch(block, seen):
        found.append((inputs[block], block, seen.masks))

    hooks = [
        block.register_forward_pre_hook(lambda module, given: inputs.__setitem__(module, given[0]))
        for block in residual_blocks(model)
    ]
    with (
        torch.no_grad(),
        padded(sizes),
        observing(lambda block, seen: found.append((inputs[block], block, seen.masks))),
    ):
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


def largest(values, inside, density):
    """Choose positions one by one: the largest first, of equal ones the first in reading order, none outside."""
    rows, columns = inside
    places = [(-values[row][column], row, column) for row in range(rows) for column in range(columns)]
    return {(row, column) for _, row, column in sorted(places)[: max(1, round(density * len(places)))]}


@given(
    density=st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]),
    sizes=st.lists(st.tuples(st.sampled_from([24, 40, 64]), st.sampled_from([32, 64])), min_size=2, max_size=2),
)
def test_the_largest_positions_of_each_image_are_chosen_and_no_padding(density, sizes):
    torch.manual_seed(0)
    model = build_backbone("mini_small")
    discover()["topk"].make({"density": density}).adapt(model)
    for x, block, masks in decided(model, torch.randn(2, 3, 64, 64), sizes):
        for index, mask in masks.items():
            stride = block.stride if index == 2 else 1
            norms = x[:, :, ::stride, ::stride].abs().sum(1)
            for image, (height, width) in enumerate(sizes):
                resolution = block.resolution * stride
                inside = -(-height // resolution), -(-width // resolution)
                chosen = largest(norms[image].tolist(), inside, density)
                assert set(map(tuple, mask[image, 0].nonzero().tolist())) == chosen


def test_the_norms_are_counted_and_nothing_is_learned():
    model = build_backbone("mini")
    method = discover()["topk"].make({"density": 0.5})
    before = len(list(model.parameters()))
    method.adapt(model)
    learned = [name for name, _ in model.named_parameters() if ".mask" in name]
    assert not learned and len(list(model.parameters())) > before  # the fills' alone
    counter = MeasuredCounter(model.eval())
    with torch.no_grad(), counter.recording():
        model(torch.randn(1, 3, 64, 64))
    table = counter.layers().set_index("layer")
    for block in residual_blocks(model):
        positions = table.loc[f"{block.name}.mask2", "macs"] / block.in_channels
        assert positions == table.loc[f"{block.name}.conv2", "positions"]
        assert table.loc[f"{block.name}.conv2", "density"] == pytest.approx(0.5, abs=0.01)
    assert method.loss(model, Step(0.0, [], None)).item() == 0
