"""ADP-C: exits behind early stages; where their prediction is confident, later stages compute nothing.

Liu et al. attach exits to an HRNet. A pixel whose largest class probability at an exit is above a threshold keeps that
prediction, and the convolutions behind the exit leave it out; their maps are interpolated there from what is computed.
All exits are trained together, with masks, at the threshold 0.998, and their losses weigh the same (released code).
Here a ResNet's stages take the place of HRNet's, and the fill is the harness's, so that only the choice of positions
differs from stochastic sampling. Masks pass no gradient.
"""

from pydantic import Field

from benchmark import Method
from benchmark.nn import Mask, exits


class UncertainMask(Mask):
    """The positions of which the exit before the stage is not confident; nothing is computed to decide it.

    Attributes
    ----------
    exit : benchmark.nn.Exit
        Whose confidence decides. Where an exit keeps what the one before predicted, it is confident, too: a position
        that stopped is computed in no later stage.
    """

    def __init__(self, site):
        super().__init__(site)
        self._exit = (site.stage.exit,)  # in a tuple: it is part of its stage, not of the mask

    @property
    def exit(self):
        """The exit before the stage."""
        return self._exit[0]

    def forward(self, x):
        """Return 0 or 1, ``(N, 1, H', W')``."""
        return 1 - self.exit.confident(self.size(x)).to(x.dtype)


class ADPC(Method):
    """Stop where an exit's largest probability is above `threshold`; interpolate the features there."""

    name = "adpc"
    label = "ADP-C"
    references = ("Liu et al., Anytime Dense Prediction with Confidence Adaptivity, ICLR 2022",)
    threshold: float = Field(0.998, gt=0, le=1, description="Confidence above which a pixel stops, at inference.")
    trained_threshold: float = Field(0.998, gt=0, le=1, description="The same in training.")
    curve = {"threshold": (0.998, 0.95, 0.9, 0.8)}
    at_inference = ("threshold",)
    exits = ("layer1", "layer2", "layer3")

    def mask(self, block):
        """Choose by the exit before the block's stage; the first stage has none, and is dense."""
        return None if block.stage.exit is None else UncertainMask

    def prepare(self, backbone):
        """Train with masks."""
        self._set(backbone, self.trained_threshold)

    def configure(self, backbone):
        """Set the threshold that is asked for."""
        self._set(backbone, self.threshold)

    def skip(self, task):
        """Run where there is a prediction at each position."""
        return None if task == "cityscapes" else "its exits need one prediction a position: runs on cityscapes"

    def _set(self, backbone, threshold):
        for each in exits(backbone):
            each.threshold = threshold
