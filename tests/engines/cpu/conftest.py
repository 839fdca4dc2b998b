"""The instruction sets that the kernels are tested on."""

import pytest

from benchmark.engines.cpu import kernels


@pytest.fixture(params=kernels.INSTRUCTION_SETS, scope="module")
def isa(request):
    """Select each instruction set that this CPU has, and then again the one that was in use."""
    if request.param not in kernels.available_instruction_sets():
        pytest.skip(f"this CPU or build has no {request.param}")
    before = kernels.instruction_set()
    kernels.use_instruction_set(request.param)
    yield request.param
    kernels.use_instruction_set(before)
