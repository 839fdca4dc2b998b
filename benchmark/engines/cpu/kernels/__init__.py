"""The compiled kernels: whether they are there, on which instruction set and how many threads they run.

``_binding`` is called by the package above alone, with what `descriptions` and `memory` have checked.
"""

from benchmark.engines.cpu.kernels.library import (
    INSTRUCTION_SETS,
    available_instruction_sets,
    checked_threads,
    instruction_set,
    max_threads,
    require,
    use_instruction_set,
)

__all__ = [
    "INSTRUCTION_SETS",
    "available_instruction_sets",
    "checked_threads",
    "instruction_set",
    "max_threads",
    "require",
    "use_instruction_set",
]
