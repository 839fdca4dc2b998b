"""The promise about masks: they belong to an image, whatever batch it comes in."""

import itertools

import torch
from torch import Tensor

from benchmark.checks.subject import Subject

#: Convolutions round differently in another batch: this many positions of a map on the very edge may flip.
FLIPS = 0.001


def same_masks(subject: Subject) -> str:
    """An image's masks depend on nothing else in its batch, nor on the order; sampled positions are above 0."""
    model, large, small = subject.sparse, subject.large, subject.small
    # Batches in which an image is read alike: padding depends on the sizes beside it.
    groups = [
        [[large[0], large[1]], [large[1], large[0]], [large[0]], [large[1]]],
        [[small[0], small[1]], [small[0]], [small[1]]],
    ]
    if subject.mixes_sizes:
        groups.append([[large[0], small[2]], [small[2], large[1]]])
    densities: dict[str, list[float]] = {}
    for batches in groups:
        for one, other in itertools.combinations([subject.masks(model, batch) for batch in batches], 2):
            for image in one.keys() & other.keys():
                for name, values in one[image].items():
                    assert (values >= 0).all(), f"{name} has negative values"
                    densities.setdefault(name, []).append(float((values > 0).float().mean()))
                    _compare(name, values, other[image][name])
    shares = [share for found in densities.values() for share in found]
    return f"{len(densities)} masks, {sum(shares) / len(shares):.0%} of positions sampled" if shares else "no masks"


def _compare(name: str, one: Tensor, other: Tensor) -> None:
    """Hold an image's masks from two batches against each other."""
    assert one.shape == other.shape, f"{name}: {tuple(one.shape)} positions, {tuple(other.shape)} in another batch"
    flips = int(torch.count_nonzero((one > 0) != (other > 0)))
    assert flips <= max(1, FLIPS * one.numel()), (
        f"{name}: only {1 - flips / one.numel():.1%} of the positions agree in another batch"
    )
