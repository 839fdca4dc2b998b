"""``saibench methods``: what there is to compare."""

from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption, check_methods, complete_method
from benchmark.cli.output import emit, print_line, print_table


@app.command()
def methods(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="show all of a method, by name or file", autocompletion=complete_method),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List methods and baselines; with a NAME, its parameters, curve, references and tasks."""
    check_methods(chosen or [])

    from benchmark.method import resolve

    rows = [_describe(method) for method in resolve(chosen or [])]
    if json_:
        return emit(rows)
    if chosen:
        for row in rows:
            print_table(_details(row), title=row["name"])
        return None
    for kind in dict.fromkeys(row["kind"] for row in rows):
        print_table([{kind: row["name"], "what it does": _summary(row)} for row in rows if row["kind"] == kind])
    print_line("saibench methods NAME shows parameters, curve, references and tasks")
    return None


def _describe(method: Any) -> dict[str, Any]:
    """Return what a method's class says of it."""
    from benchmark.listing import task_names
    from benchmark.method import kind_of

    reasons = {task: method.make({}).skip(task) for task in task_names()}
    return {
        "name": method.name,
        "kind": kind_of(method),
        "what": (method.__doc__ or "").strip().partition("\n")[0],
        "parameters": {name: field.default for name, field in method.model_fields.items()},
        "curve": {name: list(values) for name, values in method.curve.items()},
        "references": list(method.references),
        "tasks": [task for task, reason in reasons.items() if reason is None],
        "skipped": {task: reason for task, reason in reasons.items() if reason is not None},
    }


def _summary(row: dict[str, Any]) -> str:
    """Return what a method does, and where it does not run."""
    skipped = ", ".join(row["skipped"])
    return f"{row['what']} (not {skipped})" if skipped else row["what"]


def _details(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return a method's description as rows of a name and a text."""
    texts = {
        "kind": row["kind"],
        "what it does": row["what"],
        "parameters, with defaults": "\n".join(f"{name}={value}" for name, value in row["parameters"].items()),
        "curve": "\n".join(f"{name}: {', '.join(map(str, values))}" for name, values in row["curve"].items()),
        "references": "\n".join(row["references"]),
        "tasks": "\n".join([*row["tasks"], *(f"not {task}: {why}" for task, why in row["skipped"].items())]),
    }
    return [{"what": name, "value": text or "none"} for name, text in texts.items()]
