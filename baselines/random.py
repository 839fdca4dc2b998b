"""A random mask at a given density: the control of every learned mask."""

from pydantic import Field

from benchmark import Method
from benchmark.nn import Masks


class Random(Method):
    """Draw the sampled positions of each image at random, as many as `density` says; interpolate the rest."""

    name = "random"
    label = "Random mask"
    density: float = Field(0.5, gt=0, le=1)
    curve = {"density": (0.75, 0.5, 0.25)}

    def mask(self, block):
        """Choose positions drawn without regard to the image."""
        return Masks.random(self.density)
