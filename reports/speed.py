"""The tables of README.md and docs/engine.md about the engine's speed, from the timings in a store."""

from __future__ import annotations

from typing import Any

from reports import timings
from reports.base import Results

__all__ = ["BLOCKS", "cells", "networks", "paper", "speed", "steps"]

NOT_RUN = "not run: `saibench time --size full --peers all`"

#: Rows of the table of steps, by the last part of a layer's name; a name without a point is the stem's.
_STEPS = {
    "stem": ("conv1", "maxpool"),
    "conv1": (".conv1",),
    "conv2": (".conv2",),
    "conv3": (".conv3",),
    "projections": (".downsample",),
    "interpolation after conv1": (".interpolation1",),
    "interpolation after conv3, shortcut, ReLU, the next block's mask products": (".interpolation2",),
    "masks: logits, decision, lists": (".mask1", ".mask2"),
}
_SHOWN_DENSITIES = (0.95, 0.264, 0.182)  # of the table of steps


def speed(results: Results) -> str:
    """Return a table of real against theoretical speed-up from the newest timing of the largest image."""
    run = _largest(results)
    if run is None:
        return NOT_RUN
    machine, settings = run["machine"], run["settings"]
    lines = [
        f"{settings['backbone']}, {settings['height']}×{settings['width']}, {machine['threads']} threads of "
        f"{machine['cpu']} ({machine['instruction_set']}), {settings['rounds']} rounds:",
        "",
        "| density | seconds | dense beside it | speed-up | in theory | share realised |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in run["backbone"]:
        if row["deformable"] or (row["density"] is not None and row["gamma"] is None):
            continue
        name = "dense" if row["density"] is None else f"{row['density']:.3f} (γ {row['gamma']:g})"
        rest = (row["speedup"], row["speedup_theoretical"], row["share"])
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {_beside(row)} | "
            + " | ".join("" if v is None else f"{v:.2f}" for v in rest)
            + " |"
        )
    if any("≈" in line for line in lines):
        lines += ["", "≈: a record that has the ratio alone; the dense seconds are what it makes of the row's."]
    peers = [f"{peer['peer']} {peer['seconds']:.2f} s" for peer in run["peers"] if peer.get("seconds")]
    return "\n".join([*lines, "", f"Other runtimes, dense: {', '.join(peers)}."])


def networks(results: Results) -> str:
    """Return a table of all networks and sizes timed: dense against other runtimes, and sparse against dense."""
    found = sorted(_networks(results), key=_size)
    if not found:
        return NOT_RUN
    densities = sorted({row["density"] for run in found for row in _sparse(run)}, reverse=True)
    lines = [
        "| network | | dense, ms | against the fastest other runtime | "
        + " | ".join(f"{density:g}" for density in densities)
        + " | sparse ahead below |",
        "| --- | --- | ---: | --- |" + " ---: |" * (len(densities) + 1),
    ]
    for run in found:
        machine, settings = run["machine"], run["settings"]
        rows = {row["density"]: row for row in _sparse(run)}
        cells = [_speedup(rows[density]) if density in rows else "–" for density in densities]
        even = next((row["density"] for row in run["break_even"] if not row["deformable"]), None)
        lines.append(
            f"| {settings['backbone']}, {settings['height']}×{settings['width']} | {machine['instruction_set']}, "
            f"{machine['threads']} threads | {1000 * _dense(run)['seconds']:.1f} | {_fastest_peer(run)} | "
            f"{' | '.join(cells)} | {'–' if even is None else f'{even:.2f}'} |"
        )
    machines = sorted({run["machine"]["cpu"] for run in found})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}. Medians; ratios within a round."])


def paper(results: Results) -> str:
    """Return a table of the speed-ups of the largest network at the densities of the paper's Table 5, with shares."""
    run = _largest(results)
    if run is None:
        return NOT_RUN
    rows = [row for row in run["backbone"] if row["gamma"] is not None]
    gammas = sorted({row["gamma"] for row in rows})
    lines = [f"| | {' | '.join(f'γ {gamma:g}' for gamma in gammas)} |", "| --- |" + " --- |" * len(gammas)]
    for deformable, name in ((False, "without deformable convolution"), (True, "with it, as in the paper's Table 5")):
        found = {row["gamma"]: row for row in rows if row["deformable"] == deformable}
        if found:
            cells = [f"{_speedup(found[gamma])}: {found[gamma]['share']:.2f}" for gamma in gammas]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(results: Results) -> str:
    """Return a table of where the largest network's time goes, in seconds: dense, and at a few densities."""
    run = _largest(results)
    if run is None:
        return NOT_RUN
    timed = {row["density"]: row for row in _sparse(run)}
    shown = [density for density in _SHOWN_DENSITIES if density in timed]
    if not shown:
        return NOT_RUN
    layers = [row for row in run["layers"] if not row["deformable"]]
    # Of the dense run, the rounds of the first density: those of others may have had another load of the machine.
    dense = [(row["layer"], row["seconds_dense"]) for row in layers if row["density"] == shown[0]]
    columns = [(timings.paired_dense(timed[shown[0]])[0], dense)]
    columns += [
        (timed[density]["seconds"], [(row["layer"], row["seconds"]) for row in layers if row["density"] == density])
        for density in shown
    ]
    lines = [
        "| step | dense | " + " | ".join(f"density {density:g}" for density in shown) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    sums = [{step: _sum(parts, names) for step, names in _STEPS.items()} for _, parts in columns]
    for step in _STEPS:
        lines.append(f"| {step} | {' | '.join(f'{each[step]:.3f}' if each[step] else '' for each in sums)} |")
    rest = [dict(parts).get(timings.BETWEEN) for _, parts in columns]
    lines.append(f"| between the kernels | {' | '.join('–' if each is None else f'{each:.3f}' for each in rest)} |")
    lines.append(f"| all | {' | '.join(f'{whole:.3f}' for whole, _ in columns)} |")
    if None in rest:
        lines += ["", "–: a record that has each step's median over rounds, which do not add up to that of the whole."]
    return "\n".join(lines)


def cells(results: Results) -> str:
    """Return a table of the trained cells of `stochastic` that were timed: their own masks on validation images."""
    found = [run for run in timings.read(results).cells.values() if run["cell"]["method"] == "stochastic"]
    if not found:
        return "not run: `saibench time --cells`"
    lines = [
        "| cell | on | density | dense, ms | sparse, ms | speed-up, of the ratio of GMACs | AP, mean IoU or top-1, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in sorted(found, key=lambda run: (run["cell"]["task"], -run["cell"]["density"])):
        cell, machine = run["cell"], run["machine"]
        lines.append(
            f"| `{cell['task']}`, γ {cell['parameters']['gamma']:g} | {machine['instruction_set']}, "
            f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'} | {cell['density']:.2f} | "
            f"{1000 * cell['seconds_dense']:.2f} | {1000 * cell['seconds']:.2f} | "
            f"{cell['speedup']:.2f} of {cell['speedup_measured_macs']:.2f} | {100 * cell['score']:.1f} |"
        )
    return "\n".join(lines)


def _beside(row: dict[str, Any]) -> str:
    """Return the seconds of the dense run that a row was timed beside; marked, where older records make them."""
    if row["density"] is None:
        return ""
    seconds, measured = timings.paired_dense(row)
    return f"{'' if measured else '≈ '}{seconds:.2f}"


def _sum(parts: list[tuple[str, float]], names: tuple[str, ...]) -> float:
    return sum(
        seconds for layer, seconds in parts if (f".{layer.rpartition('.')[2]}" if "." in layer else layer) in names
    )


def _largest(results: Results) -> dict[str, Any] | None:
    """Return the timing of the largest image; of several, the one whose dense run is fastest."""
    return max(_networks(results), key=lambda run: (run["settings"]["height"], -_dense(run)["seconds"]), default=None)


def _networks(results: Results) -> list[dict[str, Any]]:
    return [run for _, run in timings.read(results).networks if timings.dense_row(run) is not None]


def _size(run: dict[str, Any]) -> tuple[Any, ...]:
    settings = run["settings"]
    return run["machine"]["instruction_set"], settings["height"] * settings["width"], _dense(run)["seconds"]


def _dense(run: dict[str, Any]) -> dict[str, Any]:
    row = timings.dense_row(run)
    assert row is not None  # `_networks` leaves out what has none
    return row


def _sparse(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in run["backbone"] if row["density"] is not None and not row["deformable"]]


def _speedup(row: dict[str, Any]) -> str:
    return f"{row['speedup']:.2f} of {row['speedup_theoretical']:.2f}"


def _fastest_peer(run: dict[str, Any]) -> str:
    """Say how fast the dense run is beside the fastest other runtime, by ratios within a round: above 1, faster."""
    timed = [peer for peer in run["peers"] if peer.get("seconds")]
    if not timed:
        return "not timed"
    fastest = min(timed, key=lambda peer: peer["engine_dense_speedup"])
    return f"{fastest['engine_dense_speedup']:.2f} ({fastest['peer']})"


BLOCKS = {"speed": speed, "engine": networks, "engine_paper": paper, "engine_steps": steps, "engine_cells": cells}
