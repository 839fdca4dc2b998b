"""A network compiled into one plan, which runs an image in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library

REGIONS = ("everywhere", "sampled", "subsampled", "read by")
"""Kinds of regions, in the order of plan.h."""

FILLS = ("none", "zeros", "window", "nearest", "reuse")
"""Kinds of fills, in the order of plan.h."""

MASKS = ("hard", "values", "forward")
"""How masks are decided, in the order of plan.h: by a kernel, by their class from its logits, by their own forward."""

QUESTIONS = ("values", "forward", "decided", "nearest", "source")
"""What a plan asks in between, in the order of plan.h."""

Answer = Callable[[str, int, int, NDArray[Any], NDArray[Any] | None], None]
"""Called with a question, the block, the number of the mask or convolution, what is given, and where the answer goes.

Both arrays are ``(H, W, channels)`` and last as long as the call.
"""

_DONE, _NO_MEMORY, _BAD_IMAGE, _BAD_MASK = range(4)


class BadMask(ValueError):
    """A mask holds NaN, infinity or negative values; ``index`` says which."""

    def __init__(self, index: int) -> None:
        super().__init__(f"mask {index} holds NaN, infinity or negative values")
        self.index = index


@dataclass(frozen=True)
class Stem:
    """The stem of a plan: its convolutions as `Convolution.planned` gives them, and the pooling behind them."""

    convolutions: list[tuple[object, ...]]
    pool: tuple[int, int, int]
    pool_row: int
    places: checks.Positions | None
    width: int


class Plan:
    """A network that is run by one call for an image.

    Parameters
    ----------
    stem
        The stem.
    blocks
        The residual blocks, as `engines.cpu.compiling` makes them of a block's description.
    observed
        Whether masks read what others have decided.

    Raises
    ------
    ValueError
        For a block with more masks, passes or regions than a plan has.
    """

    def __init__(self, stem: Stem, blocks: Sequence[dict[str, Any]], *, observed: bool) -> None:
        library.require()
        self._isa = library.instruction_set()
        self._network = library.compiled.Network(len(stem.convolutions), len(blocks), observed)
        self._network.stem(stem.convolutions, stem.pool, stem.pool_row, stem.places, stem.width)
        for number, block in enumerate(blocks):
            self._network.block(number, block)

    def __call__(
        self,
        layout: object,
        image: Floats,
        masks: Floats,
        given: list[Floats | None] | None,
        keys: NDArray[np.uint64],
        tally: tuple[NDArray[np.int64], NDArray[np.float64]],
        arena: Any,
        answer: Answer,
        threads: int,
    ) -> None:
        """Run an image.

        Parameters
        ----------
        layout
            Of `layout`, for the image's size.
        image
            ``(3, H, W)``.
        masks
            Where the masks go, all in one.
        given
            Masks in place of the decided ones, by their index; None for none at all.
        keys
            Two words for each mask: the key of its noise.
        tally
            By row: multiply-accumulates, those executed and what of them was not needed, ``(2, rows)``, and seconds;
            all are added to.
        arena
            Scratch memory.

        Raises
        ------
        BadMask
            For a mask with NaN, infinity or negative values.
        ValueError
            For an image with NaN or infinity, or if another instruction set was selected since.
        """
        if library.compiled.isa_name() != self._isa:
            raise ValueError(
                f"weights were packed for {self._isa}, but {library.compiled.isa_name()} is selected: compile the "
                "engine after use_instruction_set"
            )

        def ask(what: int, *rest: Any) -> None:
            answer(QUESTIONS[what], *rest)

        error, index = library.compiled.run(
            self._network, layout, image, checks.threads(threads), masks, given, keys, *tally, arena, ask
        )
        if error == _BAD_IMAGE:
            raise ValueError(f"image with shape {image.shape} holds NaN or infinity")
        if error == _BAD_MASK:
            raise BadMask(index)
        if error == _NO_MEMORY:
            raise MemoryError("scratch memory of a plan")
        assert error == _DONE, error


def arena() -> Any:
    """Return scratch memory for plans; its ``bytes`` say how much it holds."""
    library.require()
    return library.compiled.Arena()


def layout(
    maps: list[Floats],
    offsets: NDArray[np.int64],
    stem: Floats,
    scattered: Floats | None,
    features: Floats,
    products: Floats,
) -> object:
    """Return where an image of one size has its maps, each flat: where each block ends, and the four between.

    ``offsets`` says where each mask begins in the array of all masks.
    """
    return library.compiled.Layout(maps, offsets, stem, scattered, features, products)
