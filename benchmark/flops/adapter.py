"""What the counter asks of a model: where a batch enters, what to trace, and which layer belongs to which scope.

`adapter_for` knows torchvision's two-stage detectors, models with a ``backbone`` and a head, and bare classifiers. A
model of another form brings its own `Adapter`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmark.flops.structure import structure
from benchmark.flops.trace import DenseCounts, Size, skeleton, structure_of, trace

SCOPES = ("backbone", "neck", "head")


class Adapter(Protocol):
    """How a model is counted.

    Attributes
    ----------
    entry : nn.Module
        Called once a batch, with the padded images ``(N, 3, H, W)``; outside of it no mask is computed.
    regions : nn.Module or None
        Called once a batch with (features, proposals, …), where ``proposals`` holds each image's RoIs ``(R, 4)``;
        None for a model without RoIs.
    most_regions : int
        RoIs of an image that has as many as the model keeps.
    """

    entry: nn.Module
    regions: nn.Module | None
    most_regions: int

    def image_counts(self, size: Size) -> DenseCounts:
        """Count what runs once for an image of a padded size (H, W); layers by their name in the model."""

    def region_counts(self) -> DenseCounts:
        """Count what runs once for each RoI."""

    def scope(self, layer: str) -> str:
        """Return the scope of a layer: ``backbone``, ``neck`` or ``head``."""


class PlainAdapter:
    """A model that maps images ``(N, 3, H, W)`` to its output: a segmenter, a classifier, a bare backbone.

    Layers under ``backbone`` are the backbone and all others the head; in a model without an attribute ``backbone``,
    the layers ``fc``, ``classifier`` and ``head`` are the head.
    """

    def __init__(self, model: nn.Module) -> None:
        self.entry: nn.Module = getattr(model, "backbone", model)
        self.regions: nn.Module | None = None
        self.most_regions = 0
        self._has_backbone = hasattr(model, "backbone")
        self._skeleton = skeleton(model)

    def image_counts(self, size: Size) -> DenseCounts:
        """Count the whole model."""
        return self._skeleton.counts(size)

    def region_counts(self) -> DenseCounts:
        """Return no counts: there are no RoIs."""
        return DenseCounts({})

    def scope(self, layer: str) -> str:
        """Tell the head from the backbone by the first part of the layer's name."""
        first = layer.partition(".")[0]
        if self._has_backbone:
            return "backbone" if first == "backbone" else "head"
        return "head" if first in ("fc", "classifier", "head") else "backbone"


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


def adapter_for(model: nn.Module) -> Adapter:
    """Choose the adapter for a model by its attributes."""
    if hasattr(model, "roi_heads"):
        return DetectorAdapter(model)
    return PlainAdapter(model)


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
