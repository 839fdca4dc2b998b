"""The contract's checks, which `saibench check` runs on any method, the project's own or a plug-in.

Each check builds the method on a task at scale ``mini`` with a handful of embedded images, and tests one promise of the
contract. A file holds one promise or a family of them; `suite` has their order.
"""

from benchmark.checks.suite import CHECKS, Result, check_method, check_task

__all__ = ["CHECKS", "Result", "check_method", "check_task"]
