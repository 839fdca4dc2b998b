"""What is at hand while a network runs: which images, which seed, and who watches.

    with inference(["000017", "000042"], seed=0):
        model(images)

is the one door through which the masks (their noise is drawn per seed, image and layer), the counter and the engines
learn which images they see. Outside of it, images are numbered within their batch and the seed is 0.

    with observing(lambda block, decided: ...):
        model(images)

shows what each residual block decides at inference: the counter and the checks read masks this way, not by hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Inference:
    """The images that a network sees and the seed of their noise.

    Attributes
    ----------
    images : tuple
        Stable identifiers in the data set, in the order of the batch; empty where nobody named them.
    seed : int
        The cell's seed.
    """

    images: tuple[str | int, ...] = ()
    seed: int = 0

    def identifiers(self, count: int) -> tuple[str | int, ...]:
        """Return the identifiers of a batch of ``count`` images: running numbers where nobody named them.

        Raises
        ------
        ValueError
            When another number of images was named.
        """
        if not self.images:
            return tuple(range(count))
        if len(self.images) != count:
            raise ValueError(f"{count} images in the batch but {len(self.images)} identifiers")
        return self.images


Observer = Callable[[Any, Any], None]

# Context variables rather than attributes of modules: copies of a model, its threads and several models at once each
# see the images of their own call.
NOBODY = Inference()
_inference: ContextVar[Inference] = ContextVar("inference", default=NOBODY)
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


@contextmanager
def inference(images: Sequence[str | int] = (), seed: int = 0) -> Iterator[Inference]:
    """Name the images that networks see inside of the block, and the seed of their noise."""
    here = Inference(tuple(images), seed)
    token = _inference.set(here)
    try:
        yield here
    finally:
        _inference.reset(token)


def at_hand() -> Inference:
    """Return the images and the seed at hand."""
    return _inference.get()


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Call ``observer(block, decided)`` for each residual block that decides masks or gates at inference.

    Parameters
    ----------
    observer
        Gets the `benchmark.nn.blocks.ResidualBlock` and its `Decided`, in the order in which blocks run.
    """
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def notify(block: Any, decided: Any) -> None:
    """Show what a block decided to everybody who watches."""
    for observer in _observers.get():
        observer(block, decided)
