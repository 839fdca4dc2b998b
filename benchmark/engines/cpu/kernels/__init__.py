"""The engine's kernels as NumPy functions: convolution, deformable convolution, masks and interpolation at positions.

Maps are float32, channels last, one row per position: ``(H * W, C)``. A position is ``y * W + x``. Every function
checks what it is given and raises ``TypeError`` (dtype) or ``ValueError`` (shape, contiguity, range) with the shapes
in the message; the compiled kernels below them check nothing. Not here: networks (the package above) and clocks
(`benchmark.timing`).
"""

from benchmark.engines.cpu.kernels.blending import EPSILON, blend, row_distance
from benchmark.engines.cpu.kernels.checks import Positions
from benchmark.engines.cpu.kernels.checks import threads as checked_threads
from benchmark.engines.cpu.kernels.convolution import Convolution
from benchmark.engines.cpu.kernels.geometry import Geometry
from benchmark.engines.cpu.kernels.library import (
    INSTRUCTION_SETS,
    available_instruction_sets,
    empty,
    instruction_set,
    max_threads,
    require,
    use_instruction_set,
)
from benchmark.engines.cpu.kernels.maps import POOL_LIMIT, channels_last, max_pool
from benchmark.engines.cpu.kernels.masks import MaskConvolution
from benchmark.engines.cpu.kernels.narrow import NARROW_LIMIT, Follow, NarrowConvolution
from benchmark.engines.cpu.kernels.plans import FILLS, MASKS, REGIONS, BadMask, Plan, Stem, arena, layout
from benchmark.engines.cpu.kernels.samples import WINDOW_LIMIT, SampleIndex, Samples, positions_read

__all__ = [
    "EPSILON",
    "FILLS",
    "INSTRUCTION_SETS",
    "MASKS",
    "NARROW_LIMIT",
    "POOL_LIMIT",
    "REGIONS",
    "WINDOW_LIMIT",
    "BadMask",
    "Convolution",
    "Follow",
    "Geometry",
    "MaskConvolution",
    "NarrowConvolution",
    "Plan",
    "Positions",
    "SampleIndex",
    "Samples",
    "Stem",
    "arena",
    "available_instruction_sets",
    "blend",
    "channels_last",
    "checked_threads",
    "empty",
    "instruction_set",
    "layout",
    "max_pool",
    "max_threads",
    "positions_read",
    "require",
    "row_distance",
    "use_instruction_set",
]
