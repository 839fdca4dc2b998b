"""What the counter asks of a model: where a batch enters, what to trace, and which layer belongs to which scope.

`PlainAdapter` knows models with a ``backbone`` and a head, classifiers, and bare backbones. A task whose model has
another form brings an `Adapter` of its own (`Task.adapter`).
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from benchmark.flops.trace import DenseCounts, Size, skeleton

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
