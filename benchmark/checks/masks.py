"""The promise about masks: they belong to an image, whatever batch it comes in."""

from torch import Tensor, nn

from benchmark.cells import mask_values
from benchmark.checks.subject import Subject


def same_masks(subject: Subject) -> str:
    """An image's masks do not depend on the batch or the order; positions are sampled where the value is positive."""
    model = subject.trained()
    pair, reverse, single = (_masks(subject, model, indices) for indices in ([0, 1], [1, 0], [0]))
    for name, values in pair.items():
        assert (values >= 0).all(), f"{name} has negative values"
        for other, place in ((reverse[name], -1), (single[name], 0)):
            agreement = float(((values[0] > 0) == (other[place] > 0)).float().mean())
            # Convolutions round differently in another batch; a position on the very edge may flip.
            assert agreement > 0.999, f"{name}: only {agreement:.1%} of the positions agree in another batch"
    return f"{len(pair)} masks" if pair else "no masks"


def _masks(subject: Subject, model: nn.Module, indices: list[int]) -> dict[str, Tensor]:
    with mask_values() as found:
        subject.predictions(model, indices)
    return found
