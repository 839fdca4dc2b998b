"""PFEC: filters with a small L1 norm are removed, and the network is trained on."""

from pydantic import Field

from benchmark import Method
from benchmark.nn import pruning, residual_blocks

# ResNet-34-pruned-B of the paper (its §4.3): rates of the four stages, for a block's first convolution alone.
RATES = (0.5, 0.6, 0.4, 0.0)
SENSITIVE_ENDS = ("layer2", "layer3")  # stages whose last block it leaves whole; it leaves all first blocks whole


class PFEC(Method):
    """Remove the filters with the smallest L1 norm from blocks that are not sensitive; `scale` 1 is the paper's."""

    name = "pfec"
    label = "PFEC"
    references = ("Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",)
    scale: float = Field(1.0, ge=0, le=1.6)
    curve = {"scale": (1.0,)}

    def schedule(self, common):
        """Choose the paper's run from trained weights: 20 epochs at one low learning rate (its §4)."""
        return common.replace(steps=0, epochs=20, learning_rate=1e-3, decay="milestones", milestones=(), warmup_steps=0)

    def prepare(self, backbone):
        """Remove filters from the starting weights."""
        for block in list(residual_blocks(backbone)):
            stage, _, index = block.name.partition(".")
            last = int(index) == len(getattr(backbone, stage)) - 1
            if not block.is_first and not (last and stage in SENSITIVE_ENDS):
                inner = next(pruning.block_prunables(block))
                inner.remove(inner.weakest(pruning.norm_of_filters(1), RATES[int(stage[-1]) - 1] * self.scale))

    def skip(self, task):
        """Run where the paper compares pruning."""
        return pruning.not_compared(task)
