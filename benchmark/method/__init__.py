"""Methods: the contract, the base class of methods with learned masks (`sampled`), and finding them (`discovery`)."""

from benchmark.method.contract import Method
from benchmark.method.discovery import address, discover, kind_of, resolve
from benchmark.method.sampled import SampledMethod

__all__ = ["Method", "SampledMethod", "address", "discover", "kind_of", "resolve"]
