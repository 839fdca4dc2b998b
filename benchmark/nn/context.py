"""What is at hand while a network runs: which images of which sizes, which seed, how far a training is, who watches.

    with inference(["000017", "000042"], seed=0):
        model(images)

is the one door through which the masks (their noise is drawn per seed, image and layer), the counter and the engines
learn which images they see. Outside of it, images are numbered within their batch and the seed is 0.

    with training(progress=0.25):
        model(images)

tells masks how far the training run is, on which a temperature depends. A network that pads its images to one size says
within its own call how large each is, by `padded`.

    with observing(lambda block, decided: ...):
        model(images)

shows what each residual block decides at inference: the counter and the checks read masks this way, not by hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class AtHand:
    """The images that a network sees, the seed of their noise, and how far the training is that they are seen in.

    Attributes
    ----------
    images : tuple
        Stable identifiers in the data set, in the order of the batch; empty where nobody named them.
    seed : int
        The cell's seed.
    progress : float or None
        Share of the training run that is done: 0 at the first step, 1 at the last; None at inference.
    sizes : tuple of (int, int)
        Each image's own height and width, in pixels, within the padded batch that the backbone reads. Padding lies to
        the right and below. Empty where nothing is padded.
    """

    images: tuple[str | int, ...] = ()
    seed: int = 0
    progress: float | None = None
    sizes: tuple[tuple[int, int], ...] = ()

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
NOTHING = AtHand()
_at_hand: ContextVar[AtHand] = ContextVar("at_hand", default=NOTHING)
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


@contextmanager
def _having(here: AtHand) -> Iterator[AtHand]:
    token = _at_hand.set(here)
    try:
        yield here
    finally:
        _at_hand.reset(token)


def inference(images: Sequence[str | int] = (), seed: int = 0) -> AbstractContextManager[AtHand]:
    """Name the images that networks see inside of the block, and the seed of their noise."""
    return _having(AtHand(tuple(images), seed))


def training(progress: float) -> AbstractContextManager[AtHand]:
    """Say how far the training run is inside of the block, from 0 to 1."""
    return _having(AtHand(progress=progress))


def padded(sizes: Sequence[tuple[int, int]]) -> AbstractContextManager[AtHand]:
    """Say how high and wide each image of a padded batch is inside of the block, in pixels; all else stays at hand."""
    return _having(replace(_at_hand.get(), sizes=tuple(sizes)))


def at_hand() -> AtHand:
    """Return the images, their sizes, the seed and the progress at hand."""
    return _at_hand.get()


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
