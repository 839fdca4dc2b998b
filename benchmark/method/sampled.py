"""The base class of methods with learned masks: the paper's sparse loss, temperature, fills and parameters.

Its subclasses choose the kind of mask; a method with another loss subclasses `Method` itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from benchmark.method.contract import Method
from benchmark.method.step import Step
from benchmark.nn import Placement, ResidualBlock, set_temperature, sparse_loss
from benchmark.nn import interpolation as fills
from benchmark.nn.interpolation import Interpolation


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


class SampledMethod(Method):
    """A method with learned masks, the paper's sparse loss and the paper's parameters; its files choose the mask.

    Attributes
    ----------
    gamma : float
        Weight of the sparse loss (paper eq. 8).
    window : int
        Side of the interpolation window, in positions (paper §4.1: 7).
    grid_stride : int
        Stride of the grid prior (paper §3.4: 11); 0 for none.
    masks_per_block : int
        1, 2 or 3: Figure 3 (a), (b), (c).
    fill : str
        What stands at the positions left out (paper §3.3 and Table 2).
    kernel : str
        The RBF kernel as the authors released it, with sigma and its factor, or as the paper prints it, with lambda.
    initial_sigma, initial_lambda : float
        Starting width of the one and of the other (released code and paper §4.1: 3 each).
    initial_bias : float or None
        Bias of the confidence convolution at the start; none is the mask kind's own.
    squared_mask : bool
        Eqs. 4 and 5 to the letter while training, instead of the released code's form.
    """

    gamma: float = Field(0.05, ge=0)
    window: Annotated[int, AfterValidator(_odd)] = Field(7, ge=1, le=31)
    grid_stride: int = Field(11, ge=0)
    masks_per_block: Literal[1, 2, 3] = 2
    fill: Literal["rbf", "convolution", "average", "zeros", "reuse"] = "rbf"
    kernel: Literal["released", "paper"] = "released"
    initial_sigma: float = Field(3.0, gt=0)
    initial_lambda: float = Field(3.0, gt=0)
    initial_bias: float | None = None
    squared_mask: bool = False

    curve: ClassVar[Mapping[str, Sequence[Any]]] = {"gamma": (0.02, 0.05, 0.1, 0.2)}
    follows: ClassVar[Sequence[str]] = ("gamma", "window", "grid_stride", "initial_sigma", "initial_lambda")

    @property
    def grid(self) -> int | None:
        """Stride of the grid prior, None without one."""
        return self.grid_stride or None

    def bias(self, default: float) -> float:
        """Return the confidence convolution's starting bias."""
        return default if self.initial_bias is None else self.initial_bias

    def interpolation(self, block: ResidualBlock) -> Callable[[], Interpolation]:
        """Choose the fill named by the parameter `fill`."""
        if self.fill == "rbf":
            if self.kernel == "paper":
                return fills.paper_rbf(self.window, self.initial_lambda, self.squared_mask)
            return fills.rbf(self.window, self.initial_sigma, self.squared_mask)
        if self.fill == "convolution":
            return fills.convolution(self.window, self.squared_mask)
        if self.fill == "average":
            return fills.average(self.window, self.squared_mask)
        return fills.zeros() if self.fill == "zeros" else fills.reuse()

    def on_step(self, backbone: nn.Module, progress: float) -> None:
        """Anneal the temperature of the Gumbel masks."""
        set_temperature(backbone, progress)

    def loss(self, backbone: nn.Module, step: Step) -> Tensor:
        """Return ``gamma`` times the sparse loss."""
        return self.gamma * sparse_loss(backbone)

    def placement(self, block: ResidualBlock) -> Placement:
        """Choose Figure 3's placement by the number of masks."""
        placements: dict[int, Placement] = {1: "one", 2: "two", 3: "three"}
        return placements[self.masks_per_block]
