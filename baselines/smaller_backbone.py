"""A smaller dense backbone (paper §4.3: ResNet-50 instead of ResNet-101)."""

from benchmark import Method
from benchmark.errors import UsageError

SMALLER = {
    "resnet101": "resnet50",
    "resnet34": "resnet18",
    "mini": "mini_small",
    "evidence": "evidence_small",
    "mini_basic": "mini_basic_small",
}


class SmallerBackbone(Method):
    """Leave out residual blocks by choosing the next smaller ResNet."""

    name = "smaller_backbone"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )

    def backbone(self, name):
        """Choose the next smaller backbone."""
        if name not in SMALLER:
            raise UsageError(f"smaller_backbone: no smaller one is known for {name!r}; known: {', '.join(SMALLER)}")
        return SMALLER[name]

    def skip(self, task):
        """Skip segmentation: its backbone is the smallest with deformable convolution."""
        return "ResNet-50 has no smaller relative with bottlenecks to deform" if task == "cityscapes" else None
