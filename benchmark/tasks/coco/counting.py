"""How the counter enters torchvision's two-stage detectors, and what it traces of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.flops.structure import structure
from benchmark.flops.trace import DenseCounts, Size, skeleton, structure_of, trace


class DetectorAdapter:
    """torchvision's two-stage detectors: backbone, pyramid and proposal head an image, box head a RoI.

    The pyramid ``backbone.fpn`` is the neck.
    """

    #: What runs outside of the traced modules.
    OUTSIDE = ("image resizing and normalisation", "anchors and box decoding", "torchvision::nms")

    def __init__(self, model: Any) -> None:
        self.entry: nn.Module = model.backbone
        self.regions: nn.Module | None = model.roi_heads.box_roi_pool
        self.most_regions = int(model.rpn._post_nms_top_n["testing"])
        self._model = model
        self._body = skeleton(_Body(model))

    def image_counts(self, size: Size) -> DenseCounts:
        """Count backbone, pyramid and the proposal head on all levels."""
        counts = self._body.counts(size)
        return replace(counts, uncounted=counts.uncounted + Counter(dict.fromkeys(self.OUTSIDE, 1)))

    def region_counts(self) -> DenseCounts:
        """Count RoIAlign and the box head for one RoI; the size of maps and RoI do not matter."""
        parts = tuple(structure(getattr(self._model.roi_heads, part)) for part in _RegionHead.PARTS)
        if parts not in self._body.regions:
            features = self._body.outputs((64, 64))[0]
            names = self._model.roi_heads.box_roi_pool.featmap_names
            maps = [torch.zeros(1, *level.shape[1:]) for level in features][: len(names)]
            box = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
            self._body.regions[parts] = trace(_RegionHead(self._model, names), (box, *maps))
        return self._body.regions[parts]

    def scope(self, layer: str) -> str:
        """Tell the three scopes by the layer's name."""
        if layer.startswith("backbone.fpn."):
            return "neck"
        return "backbone" if layer.startswith("backbone.") else "head"


class _Body(nn.Module):
    """What a detector runs once an image, under the names that its layers have in the detector."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn = nn.Module()
        self.rpn.head = model.rpn.head

    def forward(self, images: Tensor) -> tuple[list[Tensor], Any]:
        features = list(self.backbone(images).values())
        head: Any = self.rpn.head
        return features, head(features)


class _RegionHead(nn.Module):
    """What a detector runs once a RoI, under the names that its layers have in the detector."""

    PARTS = ("box_roi_pool", "box_head", "box_predictor")

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.roi_heads = nn.Module()
        for part in self.PARTS:
            setattr(self.roi_heads, part, structure_of(getattr(model.roi_heads, part), "cpu"))

    def forward(self, box: Tensor, *maps: Tensor) -> Any:
        heads: Any = self.roi_heads
        pooled = heads.box_roi_pool(dict(zip(self.names, maps, strict=True)), [box], [(64, 64)])
        return heads.box_predictor(heads.box_head(pooled))
