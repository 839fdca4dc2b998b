"""``saibench show``: where a network computes on an image."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
    JsonOption,
    PluginOption,
    Scale,
    SetOption,
    ShownMethodName,
    ShownTaskName,
    StoreOption,
    parse_settings,
)
from benchmark.cli.output import emit, print_line, print_table
from benchmark.errors import UsageError

MOST_DRAWS = 16


@app.command()
def show(
    image: Annotated[str, typer.Argument(help="a file, or the id of a validation image", metavar="IMAGE")],
    method: ShownMethodName = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="a trained cell's id, in place of --method: its own weights")
    ] = None,
    task: ShownTaskName = None,
    set_: SetOption = None,
    scale: Annotated[Scale | None, typer.Option("--scale", help="of data and model; mini without it")] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, max=MOST_DRAWS, help="of a stochastic method's masks")] = 3,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of the first draw; the cell's or 0")] = None,
    data: DataOption = None,
    plugin: PluginOption = None,
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("results/reports"),
    keep: Annotated[
        bool, typer.Option("--keep", help="also keep in the cell's record the masks that reports draw")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show where a network computes: its masks over an image, layer by layer and draw by draw."""
    parameters = parse_settings(set_, "--set")
    if (method is None) == (checkpoint is None):
        raise UsageError("give either --method, for untrained masks, or --checkpoint CELL, for trained ones")
    if checkpoint is not None and (task or parameters or scale):
        raise UsageError("--checkpoint CELL says task, parameters and scale: leave --task, --set and --scale out")
    if plugin and checkpoint is None:
        raise UsageError("--plugin is for a trained cell, whose method it finds: give --method its file instead")
    if keep and checkpoint is None:
        raise UsageError("--keep is for a trained cell: give --checkpoint CELL")

    from benchmark.cells import find_image, look

    if checkpoint is None:
        planned, model = _untrained(task or "coco", str(method), scale or "mini", parameters, data, store)
        kept: list[Path] = []
    else:
        planned, model, kept = _trained(checkpoint, data, plugin or [], store, keep)
    sample = find_image(planned, image)
    first = planned.request.seed if seed is None else seed
    seen = look(planned, model, sample.image, sample.identifier, range(first, first + draws))
    files = _draw(seen, planned, checkpoint is not None, out)
    if json_:
        return emit(_answer(seen, planned, checkpoint is not None, [*files, *kept]))
    shares = {draw: seen.shares(draw) for draw in range(len(seen.seeds))}
    print_table(
        [
            {
                "mask": name,
                "map": f"{mask.shape[2]}x{mask.shape[1]}",
                **{f"seed {each}": f"{shares[draw][name]:.3f}" for draw, each in enumerate(seen.seeds)},
            }
            for name, mask in seen.masks.items()
        ],
        title="share of the positions that are computed",
    )
    for path in [*files, *kept]:
        print_line(str(path))


def _untrained(
    task: str, method: str, scale: str, parameters: dict[str, Any], data: Path | None, store: Path
) -> tuple[Any, Any]:
    """Return the plan of a method's cell, and its network before the first step of training."""
    from benchmark.cells import Request, plan, starting_model
    from benchmark.store import Store

    planned = plan(Request(task, method, scale, parameters, data=data))
    return planned, starting_model(planned, Store(store))


def _trained(cell: str, data: Path | None, plugins: list[Path], store: Path, keep: bool) -> tuple[Any, Any, list[Path]]:
    """Return a cell's plan and trained network; and the file of masks that was added to its record, where it was."""
    from benchmark.cells import load_model, look_at_first, plan_of
    from benchmark.sampling import SAMPLING, pack
    from benchmark.store import Store

    records = Store(store)
    record = records.get(cell)
    planned = plan_of(record, data, plugins)
    model = load_model(record, planned)
    samplings = look_at_first(planned, model) if keep else []
    return planned, model, [records.attach(record, SAMPLING, pack(samplings))] if samplings else []


def _draw(seen: Any, planned: Any, trained: bool, out: Path) -> list[Path]:
    """Draw what was seen and return the files."""
    from reports import pictures
    from reports.base import writable
    from reports.drawing import figure_style, save
    from reports.values import slug

    cell = planned.cell
    title = f"{type(planned.method).title()} on image {seen.identifier}"
    stem = "-".join(
        ["show", slug(cell.task), slug(cell.method), slug(seen.identifier), *([cell.id] if trained else [])]
    )
    with writable(out), figure_style():
        return save(pictures.draw(seen, title, [_caption(planned, trained), _about_draws(seen)]), out, stem)


def _caption(planned: Any, trained: bool) -> str:
    """Say what the network is, and that its masks are untrained where they are."""
    cell, method = planned.cell, planned.method
    settings = ", ".join(f"{name} {getattr(method, name)}" for name in method.curve)
    what = f"{cell.task}, scale {cell.scale}, {cell.dataset}; {', '.join(filter(None, [cell.method, settings]))}"
    if trained:
        return f"{what}; seed {cell.seed}. Trained: the weights of cell {cell.id}."
    weights = "random weights" if planned.from_nothing else "the weights that training starts from"
    return f"{what}. Untrained: {weights}, before the first step of training. Trained masks look otherwise."


def _about_draws(seen: Any) -> str:
    return "The masks are the same in every draw." if len(seen.seeds) == 1 else "A draw is one seed of the noise."


def _answer(seen: Any, planned: Any, trained: bool, files: list[Path]) -> dict[str, Any]:
    return {
        "image": seen.identifier,
        "cell_id": planned.cell.id if trained else None,
        "trained": trained,
        "caption": _caption(planned, trained),
        "seeds": list(seen.seeds),
        "density": [float(seen.density(draw).mean()) for draw in range(len(seen.seeds))],
        "masks": [
            {"mask": name, "height": mask.shape[1], "width": mask.shape[2], "shares": mask.mean((1, 2)).tolist()}
            for name, mask in seen.masks.items()
        ],
        "files": [str(path) for path in files],
    }
