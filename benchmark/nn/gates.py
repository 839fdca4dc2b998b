"""Gates over channels: which channels of a convolution's output are computed for an image.

A gate reads the block's input and returns one value for each channel of the map behind a convolution, soft in training,
0 or 1 at inference. A closed channel is zero, is not computed, and is not read by the convolution behind it. Which
positions are computed is the masks' business (`benchmark.nn.masks`); both may govern one convolution.
"""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class GateSite:
    """A place for a gate in a residual block.

    Attributes
    ----------
    layer
        Qualified name of the gate within the backbone, such as ``layer1.0.gate1``.
    in_channels
        Channels of the block's input, from which the gate is decided.
    channels
        Channels of the gated map.
    """

    layer: str
    in_channels: int
    channels: int


class ChannelGate(nn.Module):
    """Base of all gates over channels.

    Attributes
    ----------
    layer : str
        Qualified name within the backbone.
    channels : int
        Channels of the gated map.
    """

    def __init__(self, site: GateSite) -> None:
        super().__init__()
        self.layer = site.layer
        self.channels = site.channels

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the gate ``(N, channels)`` for block input ``x`` of shape ``(N, C, H, W)``."""
