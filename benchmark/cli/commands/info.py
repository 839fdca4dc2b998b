"""``saibench info``: what a result on this machine would depend on."""

from typing import Any

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption
from benchmark.cli.output import emit, print_table
from benchmark.cores import usable_cores


@app.command()
def info(json_: JsonOption = False) -> None:
    """Show versions, hardware, instruction sets, threads and the data found."""
    from benchmark.data.embedded import MANIFEST
    from benchmark.files import cache_folder
    from benchmark.store import provenance

    found = {name: value for name, value in provenance().items() if name not in ("started", "finished")}
    found["cores"] = usable_cores()
    found["engines"] = _engines()
    found["cache"] = str(cache_folder())
    found["data"] = sorted(str(path.parent) for path in (cache_folder() / "data").glob(f"*/{MANIFEST}"))
    found["weights"] = sorted(str(path) for path in (cache_folder() / "weights").glob("*.safetensors"))
    if json_:
        return emit(found)
    labels = {"isa": "instruction set of torch", "isa_limit": "limits of it", "threads": "threads of torch"}
    print_table([{"what": labels.get(name, name), "value": _text(value)} for name, value in found.items()])


def _engines() -> dict[str, Any]:
    """Return by engine what it says about the processor, or why it cannot run."""
    from benchmark.engines import ENGINES, EngineUnavailable, find

    found: dict[str, Any] = {}
    for name in ENGINES:
        try:
            found[name] = {**find(name).hardware(), "threads": find(name).max_threads()}
        except EngineUnavailable as error:
            found[name] = {"unavailable": str(error)}
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
