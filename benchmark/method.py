"""The contract of a method (DESIGN §4) and how methods are found.

A method is one file that chooses among the building blocks of `benchmark.nn`; it never touches data, training loop,
metric, counter or timer. `discover` reads the folders ``methods/`` and ``baselines/``, the entry-point group
``saibench.methods`` and any path given on the command line. Nothing else is imported.
"""

import ast
import hashlib
import importlib.util
import inspect
import itertools
import sys
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from benchmark.errors import PluginError, UsageError
from benchmark.nn import Mask, Placement, ResidualBlock, Site, residual_blocks, set_temperature, sparse_loss
from benchmark.nn import interpolation as fills
from benchmark.nn.interpolation import Interpolation

ENTRY_POINT_GROUP = "saibench.methods"
FOLDERS = ("methods", "baselines")


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

    def interpolation(self, block: ResidualBlock) -> Callable[[], Interpolation]:
        """Choose how the other positions are filled; the paper's learnable RBF kernel unless overridden."""
        return fills.rbf()

    def placement(self, block: ResidualBlock) -> Placement:
        """Choose among Figure 3's (a) ``one``, (b) ``two`` and (c) ``three`` masks in a block."""
        return "two"

    def adapt(self, model: nn.Module) -> None:
        """Change a freshly built model: by default, put the chosen masks and fills in its residual blocks."""
        for block in residual_blocks(model):
            build_mask = self.mask(block) if block.adaptable else None
            if build_mask is not None:
                block.adapt(build_mask, self.interpolation(block), self.placement(block))

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


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


class SampledMethod(Method):
    """A method with learned masks, the paper's sparse loss and the paper's parameters; its files choose the mask.

    Parameters
    ----------
    gamma
        Weight of the sparse loss (paper eq. 8).
    window
        Side of the interpolation window, in positions (paper §4.1: 7).
    grid_stride
        Stride of the grid prior (paper §3.4: 11); 0 for none.
    masks_per_block
        1, 2 or 3: Figure 3 (a), (b), (c).
    fill
        What stands at the positions left out (paper §3.3 and Table 2).
    initial_lambda
        Starting lambda of the RBF kernel (paper §4.1: 3).
    initial_bias
        Bias of the confidence convolution at the start; none is the mask kind's own.
    squared_mask
        Eqs. 4 and 5 to the letter while training, instead of the released code's form.
    """

    gamma: float = Field(0.05, ge=0)
    window: Annotated[int, AfterValidator(_odd)] = Field(7, ge=1, le=31)
    grid_stride: int = Field(11, ge=0)
    masks_per_block: Literal[1, 2, 3] = 2
    fill: Literal["rbf", "convolution", "average", "zeros", "reuse"] = "rbf"
    initial_lambda: float = Field(3.0, gt=0)
    initial_bias: float | None = None
    squared_mask: bool = False

    curve: ClassVar[Mapping[str, Sequence[Any]]] = {"gamma": (0.02, 0.05, 0.1, 0.2)}

    @property
    def grid(self) -> int | None:
        """Stride of the grid prior, None without one."""
        return self.grid_stride or None

    def bias(self, default: float) -> float:
        """Return the confidence convolution's starting bias."""
        return default if self.initial_bias is None else self.initial_bias

    def interpolation(self, block: ResidualBlock) -> Callable[[], Interpolation]:
        """Choose the fill named by the parameter `fill`."""
        if self.fill == "rbf":
            return fills.rbf(self.window, self.initial_lambda, self.squared_mask)
        if self.fill == "convolution":
            return fills.convolution(self.window, self.squared_mask)
        if self.fill == "average":
            return fills.average(self.window, self.squared_mask)
        return fills.zeros() if self.fill == "zeros" else fills.reuse()

    def loss(self, model: nn.Module) -> Tensor:
        """Return ``gamma`` times the sparse loss."""
        return self.gamma * sparse_loss(model)

    def on_step(self, model: nn.Module, progress: float) -> None:
        """Anneal the temperature of the Gumbel masks."""
        set_temperature(model, progress)

    def placement(self, block: ResidualBlock) -> Placement:
        """Choose Figure 3's placement by the number of masks."""
        placements: dict[int, Placement] = {1: "one", 2: "two", 3: "three"}
        return placements[self.masks_per_block]


def discover(paths: Sequence[Path] = ()) -> dict[str, type[Method]]:
    """Find every method.

    Parameters
    ----------
    paths
        Plug-in files, beside the project's folders and the entry points.

    Returns
    -------
    dict
        Method classes by name, in the order found.

    Raises
    ------
    PluginError
        Naming the file that raised while being imported, defines no method, or takes a name that is taken.
    """
    found: dict[str, type[Method]] = {}
    for source, module in _modules(paths):
        for method in _methods_in(module, source):
            if method.name in found:
                raise PluginError(f"{source}: the name {method.name!r} is taken by {found[method.name].__module__}")
            found[method.name] = method
    return found


def _modules(paths: Sequence[Path]) -> Iterator[tuple[str, ModuleType]]:
    seen = set()
    for folder in FOLDERS:
        root = Path(__file__).resolve().parent.parent / folder
        for path in sorted(root.glob("*.py")):
            if path.name != "__init__.py":
                seen.add(path)
                yield str(path), _import_file(path, f"{folder}.{path.stem}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
        except Exception as error:
            raise PluginError(f"entry point {point.value!r} raised {_describe(error)}; mend or uninstall it") from None
        yield point.value, loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"no such method file: {path}")
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
        yield str(path), _import_file(path, f"saibench_plugin_{digest}")


def _import_file(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{path}: importing it raised {_describe(error)}; mend the file") from None
    return module


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _methods_in(module: ModuleType, source: str) -> list[type[Method]]:
    methods = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if not methods:
        raise PluginError(f"{source}: defines no subclass of benchmark.Method")
    for method in methods:
        if not method.name:
            raise PluginError(f'{source}: class {method.__name__} has no name; set `name = "..."`')
        for parameter in method.curve:
            if parameter not in method.model_fields:
                raise PluginError(f"{source}: the curve of {method.name!r} names {parameter!r}, which is no parameter")
    return methods


def resolve(names: Sequence[str]) -> list[type[Method]]:
    """Return the methods that a user named, by name or by file; all of the project's where none is named.

    Raises
    ------
    UsageError
        For a name that is not there, listing those that are.
    """
    found = discover([Path(name) for name in names if name.endswith(".py") or "/" in name])
    chosen = []
    for name in names:
        matches = [
            method
            for method in found.values()
            if method.name == name or Path(inspect.getsourcefile(method) or "").resolve() == Path(name).resolve()
        ]
        if not matches:
            raise UsageError(f"unknown method {name!r}; there are {', '.join(sorted(found))}, or give a file's path")
        chosen += matches
    return chosen if names else list(found.values())
