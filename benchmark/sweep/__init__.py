"""Many cells: `choosing` says which ones a sweep has, `states` how far each is, `running` starts them in their order.

`estimates` says what they will take, by what records or `measuring` have measured. Where a cell runs is an executor's
business (`benchmark.executors`).
"""

from benchmark.sweep.choosing import Sweep, make_named_sweep, make_sweep
from benchmark.sweep.running import Outcome, Watch, run_sweep, to_run
from benchmark.sweep.states import State, state_of

__all__ = ["Outcome", "State", "Sweep", "Watch", "make_named_sweep", "make_sweep", "run_sweep", "state_of", "to_run"]
