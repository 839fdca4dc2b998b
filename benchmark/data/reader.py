"""What a reader of a split is: the protocol that every task's reader follows, and the samples that it gives.

How a data set lies on the disk is the business of each task's own reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

#: Names an image within its data set, whatever the order or the batch; keys its noise, predictions and counts.
Identifier: TypeAlias = str | int


class Sample(NamedTuple):
    """An image with what is to be learned from it.

    Attributes
    ----------
    image : Tensor
        ``(3, H, W)``, uint8, RGB.
    target : object
        The task's own: a label, a label map, boxes …
    identifier : str or int
        The image's stable name.
    """

    image: Tensor
    target: Any
    identifier: Identifier


class Reader(Protocol):
    """One split of a data set.

    ``Task.open`` makes one. It is read by several processes at once, each with a copy of its own, so it must be
    picklable; the same index always gives the same sample.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of the model's outputs."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> Sample:
        """Return an image.

        Raises
        ------
        DataError
            Naming the file that is missing or broken.
        """

    def fingerprint(self) -> str:
        """Return a hash of what the split holds: part of the identity of every cell that is trained on it."""
