"""The contract of a method: what a plug-in's class may say, and when the harness asks for it.

A method is one file that chooses among the building blocks of `benchmark.nn`. It never touches data, training loop,
metric, counter or timer. How its file is found is the business of `benchmark.method.discovery`.

The hooks in the order in which a cell calls them, with the adapted backbone as ``backbone``::

    adapt(backbone)               once a model     untrained weights; by default asks the hooks of a block
    prepare(backbone)             once a cell      starting weights, before the first step
    on_step(backbone, progress)   every step       before the training forward
    loss(backbone, step)          every step       after the training forward, with its targets and outputs
    finish(backbone)              once a cell      trained weights, before they are kept
    configure(backbone)           once a cell      kept weights, before evaluation; also when they are loaded again
    restore(backbone)             once a loading   in place of prepare and finish, when kept weights are to be loaded
"""

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
from benchmark.method.step import Step
from benchmark.nn import ChannelGate, GateSite, Mask, Placement, ResidualBlock, Site, residual_blocks
from benchmark.nn import interpolation as fills
from benchmark.nn.interpolation import Interpolation
from benchmark.plugins import hash_module
from benchmark.recipe import Schedule

#: Class variables that describe a method and cannot change a cell's result: its identity does not depend on them.
DESCRIPTIONS = ("label", "follows", "only_named")


class Method(BaseModel, ABC):
    """A way to spend less computation.

    Fields of the class are the method's parameters: typed, validated, set with ``--set name=value``. The class
    variables below describe it. Every hook has a default that does nothing or chooses the paper's way. An instance is
    frozen: what a method has to remember between steps is a buffer of the backbone, which checkpoints keep.

    Attributes
    ----------
    name : str
        The key on the command line and in the record; a folder of the store.
    label : str
        What figures and tables call it; made from the name unless given.
    references : sequence of str
        Where the method was published.
    curve : mapping
        The trade-off parameter and its values, from most to least computation; with several, every combination.
    follows : sequence of str
        Parameters for which a recipe's values, where it has some of that name, stand in for the class's own: in the
        curve, and as defaults. A parameter that is not named here keeps its own values at every scale.
    at_inference : sequence of str
        Parameters that training does not depend on: `configure` gives their values to a trained network. Cells that
        differ in these alone share one training, that of their default values.
    only_named : sequence of str
        Tasks whose sweep runs the method only where ``--methods`` names it: a sweep of everything has its time.
    exits : sequence of str
        Stages behind which the task puts an exit, in their order, such as ``("layer1", "layer2")``. Their losses are
        part of the task's, and a record has metric and computation of each.

    Examples
    --------
    >>> from benchmark.nn import Masks
    >>> class Checkerboard(Method):
    ...     name = "checkerboard"
    ...     stride: int = 2
    ...     curve = {"stride": (2, 3)}
    ...
    ...     def mask(self, block):
    ...         return Masks.grid(self.stride)
    >>> Checkerboard.make({"stride": "3"}).stride
    3
    >>> Checkerboard.title()
    'Checkerboard'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    references: ClassVar[Sequence[str]] = ()
    curve: ClassVar[Mapping[str, Sequence[Any]]] = {}
    follows: ClassVar[Sequence[str]] = ()
    at_inference: ClassVar[Sequence[str]] = ()
    only_named: ClassVar[Sequence[str]] = ()
    exits: ClassVar[Sequence[str]] = ()

    def skip(self, task: str) -> str | None:
        """Return why the method makes no sense on a task, or None.

        Called on an instance with default parameters, before anything is built; the command shows the reason.
        """
        return None

    def image_size(self, size: int) -> int:
        """Choose the images' shorter side, in pixels, given the recipe's.

        Called whenever a model is built or counted, before its backbone is there: depend on the parameters alone.
        """
        return size

    def backbone(self, name: str) -> str:
        """Choose the backbone by name, given the recipe's.

        Called like `image_size`. With another backbone than the recipe's, the cell starts from nothing and also runs
        the training that made the other methods' starting weights.
        """
        return name

    def schedule(self, common: Schedule) -> Schedule:
        """Choose the training run where methods keep that of their publication, given the recipe's.

        Called when a cell is planned, at scales whose recipe says ``own_schedules``: there, published numbers are
        compared that were made in this way. Elsewhere every method runs the recipe's. The answer is part of the
        cell's identity. Change fields of the given run with ``common.replace(epochs=20)``; ``from_nothing=True`` asks
        for random weights in place of the recipe's starting weights.
        """
        return common

    def adapt(self, backbone: nn.Module) -> None:
        """Change a freshly built backbone: by default, put the chosen masks and fills in its residual blocks.

        Called once for each model that is built: for a cell, for the loading of a record, and for a count without
        weights, where the backbone may lie on PyTorch's ``meta`` device. The weights are still random: whatever depends
        on them belongs in `prepare`. The backbone is on the CPU, its blocks come from
        `benchmark.nn.residual_blocks`, and everything random that is drawn here is drawn from the cell's seed.
        """
        for block in residual_blocks(backbone):
            placement = self.placement(block)
            build_mask = self.mask(block) if block.adaptable(placement) else None
            build_gate = self.gate(block)
            if build_mask is not None or build_gate is not None:
                block.adapt(build_mask, self.interpolation(block), placement, build_gate)

    def mask(self, block: ResidualBlock) -> Callable[[Site], Mask] | None:
        """Choose which positions of a block's convolutions to compute; None leaves the block dense.

        Called by `adapt`, once for each block that can have masks in its `placement`. What it returns is called once
        for each mask of the block.
        """
        return None

    def gate(self, block: ResidualBlock) -> Callable[[GateSite], ChannelGate] | None:
        """Choose which channels of a block's inner convolutions to compute; None computes all.

        Called by `adapt`, once for each block.
        """
        return None

    def interpolation(self, block: ResidualBlock) -> Callable[[], Interpolation]:
        """Choose how the other positions are filled; the paper's learnable RBF kernel unless overridden.

        Called by `adapt`, after `mask`. What it returns is called once for each fill of the block.
        """
        return fills.rbf()

    def placement(self, block: ResidualBlock) -> Placement:
        """Choose among Figure 3's (a) ``one``, (b) ``two`` and (c) ``three`` masks in a block, and ``output``.

        ``output`` is one mask for the block's output: convolutions before the last run where the next one reads.
        Called by `adapt`, once for each block, before `mask`.
        """
        return "two"

    def prepare(self, backbone: nn.Module) -> None:
        """Change an adapted backbone that holds its starting weights, before it is trained.

        Called once in a cell, on the CPU, and once more where an interrupted run resumes: the structure that it makes
        must be the same both times. Buffers that it registers are kept in checkpoints.
        """

    def on_step(self, backbone: nn.Module, progress: float) -> None:
        """Anneal, or change weights, before a training step.

        Called before every step of training, never during inference. The backbone is in training mode and on the
        training device. A mask whose own forward depends on the progress reads it there: `benchmark.nn.at_hand`.

        Parameters
        ----------
        backbone
            The adapted, prepared backbone.
        progress
            Share of the training run that is done: 0 at the first step, 1 at the last. It starts at 0 again where a
            cell has two training runs. A resumed run goes on with the next step, so that state must be a function of
            ``progress`` or a buffer.
        """

    def loss(self, backbone: nn.Module, step: Step) -> Tensor:
        """Return what is added to the task's loss, a scalar.

        Called once after every training forward, before the backward: masks hold that forward's
        ``confidence``, with its graph. The gradient of the sum of both losses is what trains.

        Parameters
        ----------
        backbone
            The adapted, prepared backbone.
        step
            How far the run is, and this forward's targets and outputs. A step of several micro-batches has several
            forwards.
        """
        return torch.zeros(())

    def finish(self, backbone: nn.Module) -> None:
        """Change a trained backbone, before it is evaluated, counted and kept.

        Called once in a cell, on the CPU, after the last step.
        """

    def configure(self, backbone: nn.Module) -> None:
        """Give a finished backbone the values of the parameters in `at_inference`: its training did not depend on them.

        Called once before each evaluation, and wherever a model is counted, timed or shown, on the CPU. The backbone
        holds trained weights, which it leaves as they are, or none.
        """

    def restore(self, backbone: nn.Module) -> None:
        """Give an adapted backbone without weights the structure of a finished one, so that kept weights fit it.

        Called in place of `prepare` and `finish` when a record's model is loaded and when a model is counted without
        training. By default the backbone is prepared and finished: enough where the structure does not depend on the
        weights.
        """
        self.prepare(backbone)
        self.finish(backbone)

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
    def title(cls) -> str:
        """Return what figures and tables call the method: its label, or a label made from its name."""
        words = cls.name.replace("_", " ")
        return cls.label or words[:1].upper() + words[1:]

    @classmethod
    def describe_parameters(cls) -> str:
        """Return the parameters with their defaults in one line."""
        named = [f"{name}={field.default!r}" for name, field in cls.model_fields.items()]
        return ", ".join(named) or "no parameters"

    @classmethod
    def defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe's values for the parameters that follow it.

        Parameters
        ----------
        values
            A recipe's own values by parameter name; they stand in for the defaults of fields that follow the recipe.
        """
        return {name: value for name, value in values.items() if name in cls.model_fields and cls._follows(name)}

    @classmethod
    def points(cls, values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the parameters of each point of the curve.

        Parameters
        ----------
        values
            A recipe's own values by parameter name; they stand in for the curve's where the parameter follows the
            recipe.
        """
        axes = {
            name: values[name] if name in values and cls._follows(name, in_curve=True) else own
            for name, own in cls.curve.items()
        }
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]

    @classmethod
    def _follows(cls, parameter: str, in_curve: bool = False) -> bool:
        """Tell whether a recipe's values stand in for the class's own.

        The most derived class that has something to say decides: one that names the parameter in `follows`, or one
        that gives values of its own, in a curve or as a field. So a subclass that states its own values keeps them.
        """
        for owner in cls.__mro__:
            own = vars(owner)
            if parameter in own.get("follows", ()):
                return True
            if parameter in (own.get("curve", ()) if in_curve else own.get("__annotations__", ())):
                return False
        return False

    @classmethod
    def code_fingerprint(cls) -> str:
        """Return a hash of the code of the file that defines the method, and of the files that it imports.

        Comments, docstrings and the class variables of `DESCRIPTIONS` do not count, nor do installed packages.
        """
        source = inspect.getsourcefile(cls)
        return "" if source is None else hash_module(cls.__module__, Path(source).resolve(), DESCRIPTIONS)


#: What the harness calls of a method, in the contract's order.
HOOKS = tuple(
    name
    for name, member in vars(Method).items()
    if inspect.isfunction(member) and not name.startswith("_") and not name.startswith("model_")
)
