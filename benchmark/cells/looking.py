"""Looking at masks: which positions a network computes for one image, draw by draw.

A `benchmark.sampling.Sampling` comes out, from which pictures are drawn. Counting is the business of
`benchmark.flops.measured`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmark.cells.planning import Plan
from benchmark.cells.request import reader
from benchmark.data.images import decode
from benchmark.data.normalisation import denormalise
from benchmark.data.reader import Identifier, Reader, Sample
from benchmark.errors import DataError, SaibenchError
from benchmark.nn import Decided, GumbelMask, ResidualBlock, inference, observing, residual_blocks
from benchmark.sampling import Sampling
from benchmark.tasks import Batch

KEPT_IMAGES = 2  # of a record's validation images, whose masks it keeps
KEPT_DRAWS = 4


@contextmanager
def mask_values() -> Iterator[dict[str, Tensor]]:
    """Collect the masks' values ``(N, 1, H, W)`` by place (``layer1.0.mask1``), of the last inference inside.

    What each block decides, not what each module returns: one module may stand in several blocks.
    """
    found: dict[str, Tensor] = {}

    def keep(block: ResidualBlock, decided: Decided) -> None:
        found.update({f"{block.name}.mask{number}": values for number, values in decided.masks.items()})

    with observing(keep):
        yield found


def has_masks(planned: Plan, model: nn.Module) -> bool:
    """Return whether a model decides positions at all."""
    return any(block.work.masks for block in residual_blocks(planned.task.backbone(model)))


def look(planned: Plan, model: nn.Module, image: Tensor, identifier: Identifier, seeds: Sequence[int]) -> Sampling:
    """Run one image through a model in inference mode, once a draw, and return what its masks decide.

    Parameters
    ----------
    image
        ``(3, H, W)``, uint8, as a reader gives it.
    identifier
        Keys its noise, with the seed.
    seeds
        One a draw; the cell's own gives the masks of its evaluation. Where all draws are alike, one is returned.

    Raises
    ------
    SaibenchError
        When the model has no masks.
    """
    if not has_masks(planned, model):
        raise SaibenchError(
            f"method {planned.method.name!r} has no masks to show: it chooses no positions; take one that does, such "
            "as stochastic"
        )
    body, drawn = planned.task.backbone(model), []
    with _confidences(body) as confidences, torch.inference_mode():
        prepared = planned.task.prepare(model, Batch([image], [None], [identifier]))
        for seed in seeds:
            with inference([identifier], seed), mask_values() as found:
                body(prepared.images)
            drawn.append({name: (values[0, 0] > 0).cpu().numpy() for name, values in found.items()})
    masks = {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}
    if all((mask == mask[:1]).all() for mask in masks.values()):
        seeds, masks = list(seeds)[:1], {name: mask[:1] for name, mask in masks.items()}
    return Sampling(denormalise(prepared.images[0]), str(identifier), list(seeds), masks, confidences)


def look_at_first(planned: Plan, model: nn.Module) -> list[Sampling]:
    """Return what a record keeps: several draws of the first validation images; nothing of a model without masks."""
    if not has_masks(planned, model):
        return []
    val = reader(planned.task.name, planned.folder, "val")
    samples = (val[index] for index in range(min(KEPT_IMAGES, len(val))))
    seeds = range(planned.request.seed, planned.request.seed + KEPT_DRAWS)
    return [look(planned, model, sample.image, sample.identifier, seeds) for sample in samples]


def find_image(planned: Plan, name: str) -> Sample:
    """Return an image by the path of its file, or by its identifier in the validation set.

    A file of the validation set keeps the identifier that it has there, and so its noise; another file has its name as
    identifier. The target of a file from elsewhere is None.

    Raises
    ------
    DataError
        Where it is neither, or cannot be decoded.
    """
    val, path = reader(planned.task.name, planned.folder, "val"), Path(name)
    if not path.is_file():
        found = _search(val, [name])
        if found is None:
            raise DataError(
                f"no image {name!r}: give a file's path, or the id of a validation image of {planned.folder}, such as "
                f"{val[0].identifier}"
            )
        return found
    image = decode(path, str(path))
    if path.resolve().is_relative_to(planned.folder.resolve()):
        found = _search(val, _identifiers(path))
        if found is not None and torch.equal(found.image, image):
            return found
    return Sample(image, None, path.name)


def _search(val: Reader, names: Sequence[str]) -> Sample | None:
    samples = (val[index] for index in range(len(val)))
    return next((sample for sample in samples if str(sample.identifier) in names), None)


def _identifiers(path: Path) -> list[str]:
    """Return what a file's identifier may be: its name, bare of ending, zeros or its layout's suffix, or a path."""
    stem = path.stem
    below = ["/".join(path.resolve().parts[-depth:]) for depth in (1, 2, 3)]
    return [stem, stem.lstrip("0"), stem.removesuffix("_leftImg8bit"), *below]


@contextmanager
def _confidences(body: nn.Module) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Collect the confidences ``(H, W)`` from which Gumbel masks are drawn first, by the mask's name."""
    found: dict[str, npt.NDArray[np.float32]] = {}

    def keep(mask: GumbelMask, logits: Tensor) -> None:
        if mask.layer not in found:  # what a mask reads depends on the draws before it
            found[mask.layer] = torch.sigmoid(logits[0, 0]).cpu().numpy()

    with ExitStack() as hooks:
        for mask in body.modules():
            if isinstance(mask, GumbelMask):
                handle = mask.conv.register_forward_hook(lambda conv, given, logits, mask=mask: keep(mask, logits))
                hooks.callback(handle.remove)
        yield found
