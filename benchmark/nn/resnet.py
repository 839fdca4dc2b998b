"""Residual backbones with torchvision's state-dict keys, optional dilation, deep stem and deformable convolution.

`build_backbone` makes one by name; `BACKBONES` lists the names. The heads of detection, segmentation and classification
are the tasks' business.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from benchmark.errors import DataError, UsageError
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.tensors import read_tensors

NAMED_KEYS = 20  # keys that a message names


@dataclass(frozen=True)
class BackboneSpec:
    """What tells one ResNet from another.

    Attributes
    ----------
    block : type
        Kind of the residual blocks.
    depths : tuple of int
        Blocks of each stage.
    width : int
        Channels of the stem.
    stem_kernel : int
        Side of the stem's convolution; a deep stem has its own.
    stages : tuple of int or None
        Planes of each stage; None: the stem's width, doubled from stage to stage.
    """

    block: type[Bottleneck] | type[BasicBlock]
    depths: tuple[int, int, int, int]
    width: int = 64
    stem_kernel: int = 7
    stages: tuple[int, int, int, int] | None = None

    @property
    def planes(self) -> tuple[int, int, int, int]:
        """Planes of each stage: a block's inner channels."""
        if self.stages is not None:
            return self.stages
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


BACKBONES: Mapping[str, BackboneSpec] = {
    "resnet18": BackboneSpec(BasicBlock, (2, 2, 2, 2)),
    "resnet34": BackboneSpec(BasicBlock, (3, 4, 6, 3)),
    "resnet50": BackboneSpec(Bottleneck, (3, 4, 6, 3)),
    "resnet101": BackboneSpec(Bottleneck, (3, 4, 23, 3)),
    "mini": BackboneSpec(Bottleneck, (2, 2, 2, 2), width=16),
    "mini_small": BackboneSpec(Bottleneck, (1, 1, 1, 1), width=16),
    # Most of the work at stride 16 in wide blocks, a narrow stem: what masks cannot save is a seventh, as docs/flops.md
    # shows piece by piece.
    "evidence": BackboneSpec(Bottleneck, (1, 1, 6, 1), width=24, stem_kernel=3, stages=(16, 32, 128, 128)),
    "evidence_small": BackboneSpec(Bottleneck, (1, 1, 2, 1), width=24, stem_kernel=3, stages=(16, 32, 128, 128)),
    "mini_basic": BackboneSpec(BasicBlock, (2, 3, 3, 2), width=16),
    "mini_basic_small": BackboneSpec(BasicBlock, (2, 2, 2, 2), width=16),
}


class ResNet(nn.Sequential):
    """A residual backbone: the children run in order, as torchvision's detection parts expect.

    Attributes
    ----------
    stage_channels : tuple of int
        Output channels of layer1 to layer4.
    pretrained_keys : tuple of str
        Keys that ImageNet weights must fill: all of the dense network's but offsets and counts of batches.
    pretrained_file : str
        Which ImageNet weights do, in words.
    """

    def __init__(self, spec: BackboneSpec, deformable: bool, output_stride: int, deep_stem: bool) -> None:
        super().__init__()
        self.spec = spec
        self.deep_stem = deep_stem
        channels = self._stem(spec, deep_stem)
        strides, dilations = _strides(output_stride)
        resolution = 4  # the stem halves twice
        for stage, (depth, planes) in enumerate(zip(spec.depths, spec.planes, strict=True)):
            blocks: list[ResidualBlock] = []
            for index in range(depth):
                stride = strides[stage] if index == 0 else 1
                # As torchvision and TorchCV do, a dilated stage's first block keeps the dilation of the stage before.
                dilation = dilations[stage - 1] if index == 0 and stage > 0 else dilations[stage]
                project = stride != 1 or channels != planes * spec.block.expansion
                block = spec.block(
                    channels,
                    planes,
                    stride,
                    dilation,
                    name=f"layer{stage + 1}.{index}",
                    project=project,
                    deformable=deformable and stage > 0,
                )
                block.resolution = resolution
                block.stage = blocks[0].stage if blocks else block.stage
                blocks.append(block)
                resolution *= stride
                channels = planes * spec.block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stage_channels = tuple(planes * spec.block.expansion for planes in spec.planes)
        # Taken before a method adds masks. Files of torchvision's first weights have no counts of batches.
        self.pretrained_keys = tuple(
            key for key in self.state_dict() if ".offset." not in key and not key.endswith("num_batches_tracked")
        )
        _initialise(self)

    @property
    def pretrained_file(self) -> str:
        """Which ImageNet weights fit this backbone, in words for a message."""
        name = next((name for name, spec in BACKBONES.items() if spec == self.spec), "this backbone")
        if self.deep_stem:
            return (
                f"ImageNet weights of {name} with TorchCV's deep stem (three 3x3 convolutions, 128 channels into "
                "layer1); torchvision's have another stem and do not fit"
            )
        # The released code started from torchvision's first weights; V2 has the same keys and other numbers.
        return f"torchvision's first ImageNet weights (IMAGENET1K_V1) of {name}"

    def _stem(self, spec: BackboneSpec, deep: bool) -> int:
        """Add torchvision's stem, or TorchCV's deep one of three 3x3 convolutions, twice as wide; return channels."""
        width, side = spec.width, spec.stem_kernel
        self.conv1: nn.Module
        if deep:
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False),
            )
        else:
            self.conv1 = nn.Conv2d(3, width, side, 2, side // 2, bias=False)
        channels = 2 * width if deep else width
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        return channels

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to the last stage's ``(N, C, H / output_stride, W / output_stride)``."""
        return super().forward(x)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Map images to the outputs of ``layer1`` to ``layer4``, by name."""
        maps = {}
        for name, child in self.named_children():
            x = child(x)
            if name.startswith("layer"):
                maps[name] = x
        return maps


def _strides(output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return stride and dilation of the four stages."""
    if output_stride == 32:
        return (1, 2, 2, 2), (1, 1, 1, 1)
    if output_stride == 8:
        return (1, 2, 1, 1), (1, 1, 2, 4)
    raise UsageError(f"output stride {output_stride}: a backbone has 8 or 32")


def _initialise(model: nn.Module) -> None:
    """Initialise as torchvision does; offsets and masks keep their own start.

    The last batch norm of each residual branch starts at 0 (Goyal et al. 2017, section 5.1): every block starts as the
    identity, without which a few thousand steps do not train the networks of the small scales.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not name.endswith("offset"):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, ResidualBlock):
            nn.init.zeros_(module.last_norm.weight)


def build_backbone(name: str, deformable: bool = False, output_stride: int = 32, deep_stem: bool = False) -> ResNet:
    """Build a backbone without classifier.

    Parameters
    ----------
    name
        A key of `BACKBONES`.
    deformable
        Unmodulated deformable 3x3 convolutions in stages 2 to 4; bottleneck backbones only.
    output_stride
        32, or 8 with dilation 2 and 4 in the last two stages.
    deep_stem
        TorchCV's stem of three 3x3 convolutions.

    Raises
    ------
    UsageError
        For a name that is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise UsageError(f"unknown backbone {name!r}; there are {', '.join(BACKBONES)}")
    return ResNet(BACKBONES[name], deformable, output_stride, deep_stem)


def residual_blocks(model: nn.Module) -> Iterator[ResidualBlock]:
    """Yield the residual blocks of a model in the order in which they run."""
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            yield module


def load_weights(model: ResNet, path: Path) -> list[str]:
    """Load ImageNet weights in torchvision's keys from a safetensors file.

    Returns
    -------
    list of str
        Keys of the model that the file does not fill: masks, fills, gates, offsets, a classifier for other classes.

    Raises
    ------
    DataError
        When the file is missing or broken, or leaves any other key unfilled: a backbone that is random in places must
        not pass for a trained one.
    """
    if not path.is_file():
        raise DataError(
            f"ImageNet weights not found: place them at {path}, as a state dict saved with safetensors: "
            f"{model.pretrained_file}"
        )
    wanted = model.state_dict()
    stored = read_tensors(path, "save the state dict with safetensors again")
    fitting = {key: value for key, value in stored.items() if key in wanted and value.shape == wanted[key].shape}
    unfilled = [key for key in model.pretrained_keys if key not in fitting]
    if unfilled:
        named = ", ".join(unfilled[:NAMED_KEYS]) + (", …" if len(unfilled) > NAMED_KEYS else "")
        raise DataError(
            f"{path} leaves {len(unfilled)} of the backbone's {len(model.pretrained_keys)} keys unfilled ({named}): "
            f"it takes {model.pretrained_file}"
        )
    return list(model.load_state_dict(fitting, strict=False).missing_keys)
