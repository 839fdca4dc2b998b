"""``saibench info``: what a result on this machine would depend on."""

import os

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption
from benchmark.cli.output import emit, print_table


@app.command()
def info(json_: JsonOption = False) -> None:
    """Show versions, hardware and the data found."""
    from benchmark.cells import cache_folder
    from benchmark.data import embedded
    from benchmark.store import provenance

    found = {name: value for name, value in provenance().items() if name not in ("started", "finished")}
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["cache"] = str(cache_folder())
    rendered = cache_folder() / "data"
    found["embedded sets"] = sorted(path.parent.name for path in rendered.glob(f"*/{embedded.MANIFEST}"))
    found["weights"] = sorted(path.name for path in (cache_folder() / "weights").glob("*.safetensors"))
    if json_:
        return emit(found)
    print_table(
        [
            {"what": name, "value": ", ".join(value) if isinstance(value, list) else value}
            for name, value in found.items()
        ]
    )
