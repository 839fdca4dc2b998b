"""The contract of a method: what a plug-in's class may say and when the harness asks for it.

A method is one file that chooses among the building blocks of `benchmark.nn`. It never touches data, training loop,
metric, counter or timer. How its file is found is `benchmark.method.discovery`'s business.
"""

import ast
import hashlib
import inspect
import itertools
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from benchmark.errors import UsageError
from benchmark.nn import ChannelGate, GateSite, Mask, Placement, ResidualBlock, Site, residual_blocks
from benchmark.nn import interpolation as fills
from benchmark.nn.interpolation import Interpolation


class Method(BaseModel, ABC):
    """A way to spend less computation.

    Fields of the class are the method's parameters: typed, validated, set with ``--set name=value``. The class
    variables below describe it.

    Attributes
    ----------
    name : str
        The key on the command line and in the record.
    references : sequence of str
        Where the method was published.
    curve : mapping
        The trade-off parameter and its values, from most to least computation; with several, every combination.
        A task's recipe may give values of its own for a parameter of this name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str] = ""
    references: ClassVar[Sequence[str]] = ()
    curve: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def mask(self, block: ResidualBlock) -> Callable[[Site], Mask] | None:
        """Choose which positions of a block's convolutions to compute; None leaves the block dense."""
        return None

    def gate(self, block: ResidualBlock) -> Callable[[GateSite], ChannelGate] | None:
        """Choose which channels of a block's inner convolutions to compute; None computes all."""
        return None

    def interpolation(self, block: ResidualBlock) -> Callable[[], Interpolation]:
        """Choose how the other positions are filled; the paper's learnable RBF kernel unless overridden."""
        return fills.rbf()

    def placement(self, block: ResidualBlock) -> Placement:
        """Choose among Figure 3's (a) ``one``, (b) ``two`` and (c) ``three`` masks in a block, and ``output``.

        ``output`` is one mask for the block's output: convolutions before the last run where the next one reads.
        """
        return "two"

    def adapt(self, model: nn.Module) -> None:
        """Change a freshly built model: by default, put the chosen masks and fills in its residual blocks."""
        for block in residual_blocks(model):
            placement = self.placement(block)
            build_mask = self.mask(block) if block.adaptable(placement) else None
            build_gate = self.gate(block)
            if build_mask is not None or build_gate is not None:
                block.adapt(build_mask, self.interpolation(block), placement, build_gate)

    def loss(self, model: nn.Module) -> Tensor:
        """Return what is added to the task's loss after a training forward, a scalar."""
        return torch.zeros(())

    def on_step(self, model: nn.Module, progress: float) -> None:
        """Run before each training step; ``progress`` is the share of the run that is done, from 0 to 1."""

    def prepare(self, model: nn.Module) -> None:
        """Change an adapted model that holds its starting weights, before it is trained."""

    def finish(self, model: nn.Module) -> None:
        """Change a trained model, before it is evaluated and kept."""

    def restore(self, model: nn.Module) -> None:
        """Give an adapted model without weights the structure of a finished one, so that kept weights fit it.

        By default it is prepared and finished: enough where the structure does not depend on the weights.
        """
        self.prepare(model)
        self.finish(model)

    def image_size(self, size: int) -> int:
        """Choose the images' shorter side, in pixels, given the recipe's."""
        return size

    def backbone(self, name: str) -> str:
        """Choose the backbone, given the recipe's."""
        return name

    def skip(self, task: str) -> str | None:
        """Return why the method makes no sense on a task, or None."""
        return None

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> "Method":
        """Build the method from parameters, which may be strings from the command line.

        Raises
        ------
        UsageError
            Naming the method, the parameter and what it accepts.
        """
        for name in parameters:
            if name not in cls.model_fields:
                raise UsageError(f"method {cls.name!r} has no parameter {name!r}; it has {cls.describe_parameters()}")
        try:
            return cls(**parameters)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise UsageError(
                f"method {cls.name!r}, parameter {name!r}: {first['msg'].lower()} (got {first['input']!r})"
            ) from None

    @classmethod
    def describe_parameters(cls) -> str:
        """Return the parameters with their defaults in one line."""
        named = [f"{name}={field.default!r}" for name, field in cls.model_fields.items()]
        return ", ".join(named) or "no parameters"

    @classmethod
    def points(cls, values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the parameters of each point of the curve.

        Parameters
        ----------
        values
            A recipe's own values by parameter name; they stand in for the method's.
        """
        axes = {name: values.get(name, default) for name, default in cls.curve.items()}
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]

    @classmethod
    def code_fingerprint(cls) -> str:
        """Return a hash of the code of the file that defines the method: comments and docstrings do not count."""
        path = inspect.getsourcefile(cls)
        if path is None:
            return ""
        tree = ast.parse(Path(path).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        return hashlib.blake2b(ast.dump(tree).encode(), digest_size=8).hexdigest()
