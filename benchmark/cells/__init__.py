"""Cells: from a user's request to a plan, from a plan to its record, and from a record back.

`request` says what is asked for, `planning` resolves it without training anything, `running` trains, evaluates, counts
and keeps, `loading` reads a record again, `exporting` prepares a network to leave, `looking` says which positions a
network computes, `reproducing` compares what two runs of one cell left, `migrating` says what of an identity is written
in another form than before. Many cells at once are `benchmark.sweep`'s business, one training run is
`benchmark.train`'s.
"""

from benchmark.cells.exporting import Exported, trained_network, untrained_network
from benchmark.cells.loading import backbone_inputs, load_model, plan_of, starting_model
from benchmark.cells.looking import find_image, look, look_at_first, mask_values
from benchmark.cells.migrating import migrate_store
from benchmark.cells.planning import HARNESS_VERSION, Plan, plan
from benchmark.cells.reproducing import Reproduction, handful, on_rendered_scenes, reproduce
from benchmark.cells.request import Request, data_folder, examined, reader
from benchmark.cells.running import DENSITY_MAPS, MODEL, execute

__all__ = [
    "DENSITY_MAPS",
    "HARNESS_VERSION",
    "MODEL",
    "Exported",
    "Plan",
    "Reproduction",
    "Request",
    "backbone_inputs",
    "data_folder",
    "examined",
    "execute",
    "find_image",
    "handful",
    "load_model",
    "look",
    "look_at_first",
    "mask_values",
    "migrate_store",
    "on_rendered_scenes",
    "plan",
    "plan_of",
    "reader",
    "reproduce",
    "starting_model",
    "trained_network",
    "untrained_network",
]
