"""Energy that the processor's packages take, where Linux exposes their counters (RAPL, ``/sys/class/powercap``).

They count everything that a package does, other processes included, about once a millisecond: a mean over many runs on
an idle machine means something, a single short run does not.
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NOT_EXPOSED = "not exposed"


class Meter:
    """The energy counters of a machine's packages.

    Attributes
    ----------
    source : str
        The packages that are read, in words, or why there are none: `NOT_EXPOSED`, or that only root may read them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages: list[tuple[Path, int]] = []
        names: list[str] = []
        self.source = NOT_EXPOSED
        for folder in sorted(root.glob("intel-rapl:*")):  # of AMD's processors, too; parts have a second colon
            try:
                name = (folder / "name").read_text(encoding="utf-8").strip()
                if not name.startswith("package") or folder.name.count(":") != 1:
                    continue
                self._read(folder)
                self._packages.append((folder, int((folder / "max_energy_range_uj").read_text(encoding="utf-8"))))
                names.append(name)
            except PermissionError:
                self.source = "exposed to root alone"
            except (OSError, ValueError):
                continue
        if names:
            self.source = f"RAPL, {', '.join(names)}"

    def read(self) -> list[int]:
        """Return each package's counter, in microjoules; nothing where none is exposed."""
        return [self._read(folder) for folder, _ in self._packages]

    def joules(self, before: list[int], after: list[int]) -> float | None:
        """Return the energy between two readings; None where nothing is exposed. A counter starts anew at its end."""
        if not self._packages:
            return None
        spent = 0
        for first, last, (_, end) in zip(before, after, self._packages, strict=True):
            spent += last - first if last >= first else last + end - first
        return spent / 1e6

    @staticmethod
    def _read(folder: Path) -> int:
        return int((folder / "energy_uj").read_text(encoding="utf-8"))
