"""Methods: the contract, the base class of methods with learned masks (`sampled`), and finding them (`discovery`)."""

from benchmark.method.contract import Method
from benchmark.method.discovery import address, discover, kind_of, resolve
from benchmark.method.sampled import SampledMethod
from benchmark.method.step import Step

__all__ = ["Method", "SampledMethod", "Step", "address", "discover", "kind_of", "resolve"]
