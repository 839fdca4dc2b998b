"""Cores that this process may use: its affinity, and the processor time that control groups leave it.

Not those of the machine: in a container or a batch job these are more, and threads beyond the quota are put to sleep
for the rest of each period, which shows in the slowest images.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may run on: whole ones where a quota leaves parts, and at least 1.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas in cores of the process's control groups and of those above them, of versions 1 and 2.

    A container sees its own group as the root of the mount, whatever path ``proc`` names: so all folders from that path
    up to the mount count, and those that are not there do not.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("cpu", controllers) if controllers else ("", "unified")
        for mount in dict.fromkeys(mounts):
            folder = root / "sys/fs/cgroup" / mount
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts) + 1):
                quota = _quota(folder.joinpath(*parts[:depth]))
                if quota is not None:
                    yield quota


def _quota(folder: Path) -> float | None:
    """Return the quota of one group in cores; None where it has none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # "max", and v1's -1: no limit
        return None
