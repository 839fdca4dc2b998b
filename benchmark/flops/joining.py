"""Joins what several recorders saw of one evaluation into what one would have seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.flops.recorder import Recorder, SizeGroup
from benchmark.flops.trace import Size


@dataclass
class Recorded:
    """What a recorder saw; plain values, to be sent to another process. Attributes as those of `Recorder`."""

    identifiers: list[str | int]
    regions: list[int]
    groups: dict[Size, SizeGroup]

    @classmethod
    def of(cls, recorder: Recorder) -> "Recorded":
        """Return what a recorder saw, once its recording has ended."""
        return cls(recorder.identifiers, recorder.regions, recorder.groups)


def join(recorder: Recorder, parts: Sequence[Recorded], places: Sequence[Sequence[int]]) -> None:
    """Make a recorder hold what several saw, all of one model.

    Parameters
    ----------
    recorder
        Whatever it holds is forgotten.
    places
        For each part, where each of its images stands in the whole evaluation.
    """
    recorder.reset()
    seen = sorted(
        (place, identifier, regions)
        for part, numbers in zip(parts, places, strict=True)
        for place, identifier, regions in zip(numbers, part.identifiers, part.regions, strict=True)
    )
    recorder.identifiers = [identifier for _, identifier, _ in seen]
    recorder.regions = [regions for _, _, regions in seen]
    for part, numbers in zip(parts, places, strict=True):
        for size, group in part.groups.items():
            group.numbers = [numbers[number] for number in group.numbers]
            if size in recorder.groups:
                _extend(recorder, recorder.groups[size], group)
            else:
                recorder.groups[size] = group
    recorder.groups = dict(sorted(recorder.groups.items(), key=lambda item: min(item[1].numbers)))


def _extend(recorder: Recorder, group: SizeGroup, other: SizeGroup) -> None:
    """Add the images of a group of the same size."""
    group.numbers += other.numbers
    group.counts += other.counts
    for key, gates in other.gates.items():
        group.gates.setdefault(key, []).extend(gates)
    for block, sums, more in zip(recorder.blocks, group.map_sums, other.map_sums, strict=True):
        for mask in sums:
            sums[mask] += 0 if block.fixed else more[mask]  # a fixed mask is seen once for all images
