"""``saibench run``: one cell."""

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
    DevicesOption,
    ForceOption,
    JsonOption,
    MethodName,
    PrecisionOption,
    RecipeOption,
    ScaleOption,
    ScratchOption,
    SeedOption,
    SetOption,
    StoreOption,
    TaskName,
    parse_recipe,
    parse_settings,
)
from benchmark.cli.output import emit, print_line, print_table, print_warning
from benchmark.cli.progress import display


@app.command()
def run(
    task: TaskName,
    method: MethodName,
    set_: SetOption = None,
    scale: ScaleOption = "mini",
    seed: SeedOption = 0,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    recipe: RecipeOption = None,
    from_scratch: ScratchOption = False,
    precision: PrecisionOption = "32-true",
    devices: DevicesOption = 1,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Train, evaluate and count one cell, or show its record."""
    parameters, overrides = parse_settings(set_, "--set"), parse_recipe(recipe, from_scratch)

    from benchmark.cells import Request, examined, execute, plan
    from benchmark.progress import StepReporter
    from benchmark.store import Store

    request = Request(task, method, scale, parameters, seed, data, overrides, precision, devices)
    destination = Store(store)
    destination.check_writable()
    planned = plan(request)
    for line in examined(planned.task.name, planned.folder):
        print_warning(line)
    with display(json_) as shown:
        reporter = StepReporter(lambda phase, done, total: shown.update(phase, phase, done, total))
        record = execute(planned, destination, force, reporter)
    if json_:
        return emit(dict(record.fields))
    print_table(
        [
            {"field": name, "value": f"{value:.4f}" if isinstance(value, float) else value}
            for name, value in record.fields.items()
            if value is not None and not isinstance(value, list | dict)
        ],
        title=str(planned.cell),
    )
    print_line(str(record.folder))
