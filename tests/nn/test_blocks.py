"""Residual blocks: torchvision's network without masks, Figure 3's placements with them."""

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from benchmark.errors import DataError, UsageError
from benchmark.nn import (
    BasicBlock,
    Bottleneck,
    GumbelMask,
    Masks,
    build_backbone,
    interpolation,
    load_weights,
    observing,
    residual_blocks,
    work,
)


def adapted(block, placement="two", fill=interpolation.zeros, logits=(0.0, 0.0, 0.0)):
    block.adapt(Masks.gumbel(grid_stride=None), fill(), placement)
    for index, logit in enumerate(logits, start=1):
        mask = getattr(block, f"mask{index}")
        if mask is not None:
            torch.nn.init.constant_(mask.conv.bias, logit)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return block.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_a_dense_backbone_is_torchvisions_key_for_key(name):
    theirs = getattr(torchvision.models, name)().eval()
    ours = build_backbone(name).eval()
    stored = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(stored, strict=True)
    x = torch.randn(1, 3, 64, 96)
    maps = create_feature_extractor(theirs, [f"layer{i}" for i in range(1, 5)])(x)
    for layer, value in ours.stages(x).items():
        torch.testing.assert_close(value, maps[layer])


def test_dilated_backbone_is_torchvisions_for_segmentation():
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = build_backbone("resnet50", output_stride=8).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 65, 97)
    expected = torch.nn.Sequential(*list(theirs.children())[:-2])(x)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize(("kind", "stride"), [(Bottleneck, 1), (Bottleneck, 2), (BasicBlock, 1), (BasicBlock, 2)])
def test_a_mask_may_read_its_own_convolutions_input(kind, stride):
    """For conv2 that is the filled map behind conv1, at conv2's own stride; conv1's own input is the block's."""
    torch.manual_seed(0)

    class OwnInput(GumbelMask):
        own_input = True

        def __init__(self, site):
            super().__init__(site.at_own_input(), stochastic=False, grid_stride=None, initial_bias=0.0)
            torch.nn.init.normal_(self.conv.weight)

    block = kind(8, 4, stride, name="layer1.1", project=True)
    block.adapt(OwnInput, interpolation.average(3))
    block.eval()
    x = torch.randn(2, 8, 9, 11)
    decided = []
    with observing(lambda which, found: decided.append(found)), torch.no_grad():
        out = block(x)
        mask1 = (block.mask1.conv(x) > 0).float()
        y = block.interpolation1(torch.relu(block.bn1(block.conv1(x))), mask1, x)
        mask2 = (block.mask2.conv(y) > 0).float()
        expected = block.bn2(block.conv2(y))
        if kind is Bottleneck:
            expected = block.bn3(block.conv3(block.interpolation2(torch.relu(expected), mask2, x)))
        else:
            expected = block.interpolation2(expected, mask2, x)
        torch.testing.assert_close(out, torch.relu(expected + block.downsample(x)))
    assert len(decided) == 1 and torch.equal(decided[0].masks[1], mask1) and torch.equal(decided[0].masks[2], mask2)
    assert 0 < mask2.mean() < 1 and block.work.late == (2,)
    # The mask is decided from the whole map behind conv1, so all of it is needed.
    assert block.work.convolutions[0].fill.needed == work.EVERYWHERE
    assert block.train()(x).shape == out.shape and set(block.decided.confidences) == {1, 2}


@pytest.mark.parametrize(("kind", "stride"), [(Bottleneck, 1), (Bottleneck, 2), (BasicBlock, 1), (BasicBlock, 2)])
def test_full_masks_change_nothing(kind, stride):
    torch.manual_seed(0)
    block = kind(8, 4, stride, name="layer1.1", project=True)
    x = torch.randn(2, 8, 9, 11)
    dense = block.eval()(x)
    torch.testing.assert_close(adapted_full(block)(x), dense)


def adapted_full(block):
    block.adapt(Masks.gumbel(grid_stride=1), interpolation.rbf(5))
    return block.eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_two_masks_govern_conv1_and_conv2_with_conv3(stride):
    torch.manual_seed(1)
    block = adapted(Bottleneck(8, 4, stride, name="layer1.0", project=True))
    x = torch.randn(1, 8, 10, 12)
    mask1, mask2 = block.decide(x).masks.values()
    assert (
        block.work.masks == (1, 2) and mask1.shape[-2:] == (10, 12) and mask2.shape[-2:] == (10 // stride, 12 // stride)
    )
    hidden = mask1 * torch.relu(block.bn1(block.conv1(x)))
    hidden = mask2 * torch.relu(block.bn2(block.conv2(hidden)))
    expected = torch.relu(block.bn3(block.conv3(hidden)) + block.downsample(x))
    torch.testing.assert_close(block(x), expected)


def test_one_mask_is_shared_and_follows_the_stride():
    block = adapted(Bottleneck(8, 4, 2, name="layer1.0", project=True), "one")
    decided = block.decide(torch.randn(1, 8, 9, 9))
    assert block.work.masks == (1,)
    mask2 = work.values(block.work.convolutions[1].computes, decided.masks)
    assert torch.equal(mask2, decided.masks[1][..., ::2, ::2]) and mask2.shape[-2:] == (5, 5)


def test_three_masks_give_conv3_its_own():
    torch.manual_seed(2)
    block = adapted(Bottleneck(8, 4, 1, name="layer1.0", project=True), "three")
    x = torch.randn(1, 8, 6, 6)
    mask1, mask2, mask3 = block.decide(x).masks.values()
    assert not torch.equal(mask2, mask3)
    hidden = mask1 * torch.relu(block.bn1(block.conv1(x)))
    hidden = mask2 * torch.relu(block.bn2(block.conv2(hidden)))
    expected = torch.relu(mask3 * block.bn3(block.conv3(hidden)) + block.downsample(x))
    torch.testing.assert_close(block(x), expected)


def test_basic_blocks_have_a_mask_for_each_convolution_and_none_in_a_stages_first():
    model = build_backbone("resnet34")
    for block in residual_blocks(model):
        assert block.adaptable("two") == (not block.name.endswith(".0"))
    torch.manual_seed(3)
    block = adapted(BasicBlock(4, 4, name="layer1.1"))
    x = torch.randn(1, 4, 7, 7)
    mask1, mask2 = block.decide(x).masks.values()
    hidden = mask1 * torch.relu(block.bn1(block.conv1(x)))
    torch.testing.assert_close(block(x), torch.relu(mask2 * block.bn2(block.conv2(hidden)) + x))


def test_offsets_come_from_the_blocks_input_and_start_at_zero():
    torch.manual_seed(4)
    plain, deformable = (Bottleneck(8, 4, 2, name="layer2.0", project=True, deformable=d) for d in (False, True))
    deformable.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 8, 10, 10)
    torch.testing.assert_close(deformable.eval()(x), plain.eval()(x))
    torch.nn.init.normal_(deformable.offset.weight)
    assert not torch.allclose(deformable(x), plain(x))


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_offsets_are_told_from_what_conv2_sees(dilation):
    """One input position changes the offsets where conv2's undeformed taps read it, dilated like them."""
    block = Bottleneck(8, 4, dilation=dilation, name="layer3.1", project=True, deformable=True).eval()
    torch.nn.init.ones_(block.offset.weight)
    x = torch.zeros(1, 8, 13, 13)
    x[..., 6, 6] = 1
    taps = [6 - dilation, 6, 6 + dilation]
    expected = torch.zeros(13, 13, dtype=torch.bool)
    expected[torch.tensor(taps)[:, None], torch.tensor(taps)] = True
    assert torch.equal(block.offset(x)[0, 0] != 0, expected)
    assert block(x).shape == (1, 16, 13, 13)


def test_weights_load_where_shapes_agree_and_a_missing_file_is_named(tmp_path):
    from safetensors.torch import save_file

    stored = dict(torchvision.models.resnet18().state_dict())
    save_file(stored, tmp_path / "resnet18.safetensors")
    model = build_backbone("resnet18")
    for block in residual_blocks(model):
        if block.adaptable("two"):
            block.adapt(Masks.gumbel(), interpolation.rbf())
    unfilled = load_weights(model, tmp_path / "resnet18.safetensors")
    assert unfilled and all("mask" in key or "interpolation" in key for key in unfilled)
    assert torch.equal(model.conv1.weight, stored["conv1.weight"])
    with pytest.raises(DataError, match=r"place them at .*resnet50\.safetensors"):
        load_weights(build_backbone("resnet50"), tmp_path / "resnet50.safetensors")


def test_weights_that_leave_a_part_of_the_backbone_random_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "resnet50.safetensors"
    deep = build_backbone("resnet50", deformable=True, output_stride=8, deep_stem=True)
    save_file(dict(torchvision.models.resnet50().state_dict()), path)
    with pytest.raises(DataError) as caught:
        load_weights(deep, path)
    message = str(caught.value)
    # By the stem's definition: three convolutions and two batch norms of its own, bn1 of 128 channels, and what reads.
    norm = ("weight", "bias", "running_mean", "running_var")
    random = {f"conv1.{index}.weight" for index in (0, 3, 6)} | {
        f"conv1.{index}.{part}" for index in (1, 4) for part in norm
    }
    random |= {f"bn1.{part}" for part in norm} | {"layer1.0.conv1.weight", "layer1.0.downsample.0.weight"}
    assert set(message.split("(")[1].split(")")[0].split(", ")) == random and len(random) == 17
    assert str(path) in message and "resnet50 with TorchCV's deep stem" in message and "\n" not in message
    complete = {key: torch.full_like(deep.state_dict()[key], 0.5) for key in deep.pretrained_keys}
    save_file(complete, path)
    assert all(".offset." in key or key.endswith("num_batches_tracked") for key in load_weights(deep, path))
    assert all(torch.equal(deep.state_dict()[key], value) for key, value in complete.items())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="is broken"):
        load_weights(deep, path)


def test_unknown_backbone_and_impossible_choices_are_errors():
    with pytest.raises(UsageError, match="unknown backbone 'resnet7'; there are"):
        build_backbone("resnet7")
    with pytest.raises(UsageError, match="output stride 16"):
        build_backbone("resnet50", output_stride=16)
    with pytest.raises(UsageError, match="basic blocks have no deformable"):
        build_backbone("resnet18", deformable=True)
    with pytest.raises(UsageError, match="needs bottleneck blocks"):
        BasicBlock(4, 4, name="layer1.1").adapt(Masks.gumbel(), interpolation.rbf(), "three")
