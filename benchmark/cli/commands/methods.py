"""``saibench methods``: what there is to compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption
from benchmark.cli.output import emit, print_table


@app.command()
def methods(
    files: Annotated[list[Path] | None, typer.Argument(help="plug-in files to list too")] = None,
    json_: JsonOption = False,
) -> None:
    """List methods and baselines: parameters, curve, references, tasks."""
    from benchmark.method import discover

    rows = [_describe(method) for method in discover(files or ()).values()]
    if json_:
        return emit(rows)
    print_table(
        [
            {
                "method": row["name"],
                "what it does": row["what"],
                "parameters (defaults)": "\n".join(f"{name}={value}" for name, value in row["parameters"].items()),
                "curve": "\n".join(f"{name}: {', '.join(map(str, values))}" for name, values in row["curve"].items()),
                "tasks": "\n".join(row["tasks"] + [f"not {task}: {why}" for task, why in row["skipped"].items()]),
            }
            for row in rows
        ],
        lines=True,
    )


def _describe(method: Any) -> dict[str, Any]:
    """Return what a method's class says of it."""
    from benchmark.listing import task_names

    reasons = {task: method.make({}).skip(task) for task in task_names()}
    return {
        "name": method.name,
        "what": (method.__doc__ or "").strip().splitlines()[0],
        "parameters": {name: field.default for name, field in method.model_fields.items()},
        "curve": {name: list(values) for name, values in method.curve.items()},
        "references": list(method.references),
        "tasks": [task for task, reason in reasons.items() if reason is None],
        "skipped": {task: reason for task, reason in reasons.items() if reason is not None},
    }
