"""Training one model with Lightning Fabric: the same loop for every task and every method.

Everything random is drawn per step from the seed, so that a run that was killed and resumes from its last checkpoint
ends in the same result as one that was not. Checkpoints under way are read back without executing anything
(``weights_only``); the finished model is kept in safetensors. Evaluating is the business of `benchmark.evaluate`;
docs/decisions/0001-training-loop.md says why the loop is written out.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from benchmark.errors import SaibenchError, noting_images, one_line
from benchmark.files import atomic_path
from benchmark.hardware import ONE
from benchmark.method import Method, Step
from benchmark.nn import Exit, Mask, training
from benchmark.parallel import Buffers, sum_step
from benchmark.recipe import Schedule
from benchmark.tasks import Batch, Reader, Sample, Task

CHECKPOINT_SECONDS = 300.0
CHECKPOINT = "checkpoint.pt"
LOSSES = "losses.parquet"

#: Called as ``progress(done, total)`` after a step of training or an image of evaluation.
Progress = Callable[[int, int], None]


class DivergedError(SaibenchError):
    """The training loss is no longer a finite number."""


class StepSampler(BatchSampler):
    """Batches of shuffled indices in which a step's batch depends on seed and step alone, to resume exactly.

    Parameters
    ----------
    images, batch, steps
        Size of the training set, of a batch, and of the run.
    seed
        Seed of the shuffling; each pass over the set has its own order.
    rank, devices
        Which of how many equal shares of each batch it gives.
    """

    def __init__(self, images: int, batch: int, steps: int, seed: int, rank: int = 0, devices: int = 1) -> None:
        super().__init__(SequentialSampler(range(images)), batch, drop_last=False)
        self.images, self.batch, self.steps, self.seed = images, batch, steps, seed
        self.share = range(rank * batch // devices, (rank + 1) * batch // devices)
        self.done = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.done, self.steps):
            yield [self._index(step * self.batch + place) for place in self.share]

    def _index(self, position: int) -> int:
        turn, place = divmod(position, self.images)
        return int(self._order(turn)[place])

    def _order(self, turn: int) -> np.ndarray:
        if getattr(self, "_turn", None) != turn:
            self._turn, self._permutation = turn, np.random.default_rng([self.seed, turn]).permutation(self.images)
        return self._permutation


@dataclass
class Part(Batch):
    """Images of a step whose gradients are computed together, with the seed of what their forward draws.

    The seed depends on the step and on the part's place in it, not on the device that computes it. The progress is the
    step's: the share of the run that is done.
    """

    seed: int
    progress: float


class TrainingStep(nn.Module):
    """What one step computes: from a part of its images to the task's loss and the method's.

    A module, because Fabric puts the forward of what it has set up under the precision of training.

    Parameters
    ----------
    task, method, model
        The model is built by the task and adapted by the method.
    schedule, steps
        The run and its length.
    seed
        Seed of everything random.
    """

    def __init__(self, task: Task, method: Method, model: nn.Module, schedule: Schedule, steps: int, seed: int) -> None:
        super().__init__()
        self.task, self.method, self.model = task, method, model
        self.schedule, self.steps, self.seed = schedule, steps, seed

    def train(self, mode: bool = True) -> "TrainingStep":
        """Switch the mode; the network's batch norm stays in inference where the schedule freezes its statistics.

        That of masks and exits goes on measuring: it is new, so that there is nothing yet to keep.
        """
        super().train(mode)
        if mode and self.schedule.freeze_statistics:
            new = {id(part) for mask in self.modules() if isinstance(mask, Mask | Exit) for part in mask.modules()}
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and id(module) not in new:
                    module.eval()
        return self

    def begin(self, batch: Batch, step: int, first: int = 0) -> list[Part]:
        """Seed and anneal a step; return its images, augmented, in parts whose gradients are computed one by one.

        Parameters
        ----------
        batch
            The step's images, or one device's share of them.
        first
            Place of the first of them in the step.
        """
        torch.manual_seed(derive_seed(self.seed, "step", step))
        progress = step / max(1, self.steps - 1)
        self.method.on_step(self.task.backbone(self.model), progress)
        if self.schedule.flip:
            chosen = np.random.default_rng([self.seed, step]).random(first + len(batch.images))[first:] < 0.5
            batch = self.task.mirror(batch, chosen)
        parts, place = [], first
        for part in batch.split(self.schedule.micro_batch or len(batch.images)):
            key = (place,) if place else ()
            with noting_images(part.identifiers):
                augmented = self.task.augment(self.model, part, np.random.default_rng([self.seed, step, 1, *key]))
            parts.append(Part(**vars(augmented), seed=derive_seed(self.seed, "step", step, *key), progress=progress))
            place += len(part.images)
        return parts

    def forward(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return both losses of a part, scalars."""
        torch.manual_seed(part.seed)
        with training(part.progress), noting_images(part.identifiers):
            outputs = self.task.training_outputs(self.model, part)
            task_loss = self.task.loss(self.model, part, outputs)
            step = Step(part.progress, part.targets, outputs)
            return task_loss, self.method.loss(self.task.backbone(self.model), step).to(task_loss.device)

    def density(self) -> Tensor:
        """Return the share of positions that masks sampled in the last forward, a scalar: their mean; NaN for none."""
        shares = [
            (mask.decided.detach() > mask.sampled_above).float().mean()
            for mask in self.model.modules()
            if isinstance(mask, Mask) and mask.decided is not None
        ]
        return torch.stack(shares).mean() if shares else torch.tensor(float("nan"))


@dataclass(frozen=True)
class Loop:
    """How to run: where the run under way is kept, who reads images, and who watches.

    Attributes
    ----------
    folder : Path
        Holds the checkpoint and the losses.
    workers : int
        Processes that read images; 0 for this one.
    progress : callable or None
        Called after each step.
    fabric : Fabric or None
        The device, and the other processes that compute shares of each step; None for one device in float32.
    """

    folder: Path
    workers: int = 0
    progress: Progress | None = None
    fabric: Fabric | None = None


@dataclass
class Losses:
    """One step's losses, of which ``loss`` is the sum that is trained, and the masks' mean density."""

    step: int
    loss: float
    task_loss: float
    method_loss: float
    density: float


class _Run:
    """A training run: what a checkpoint keeps, and the step that changes it."""

    def __init__(self, training: TrainingStep, folder: Path, fabric: Fabric) -> None:
        self.fabric = fabric
        optimizer, self.scheduler = training.schedule.optimize(training.model, training.steps)
        self.training, self.optimizer = self.fabric.setup(training, optimizer)
        self.clip = training.schedule.clip
        self.checkpoint, self.kept = folder / CHECKPOINT, folder / LOSSES
        self.losses: list[Losses] = []
        self.seconds = 0.0

    def resume(self) -> None:
        """Take up the run where the folder's checkpoint left it, if there is one."""
        if not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.losses = [Losses(**row) for row in state["losses"]]
            self.seconds = state["seconds"]
        except Exception as error:  # of bytes that nobody has foreseen: a checkpoint is whole, or a disk has failed
            raise SaibenchError(
                f"{self.checkpoint} cannot be resumed from ({one_line(error)}): delete it to train from the start"
            ) from error

    def save(self) -> None:
        """Write the checkpoint; all processes hold the same."""
        if not self.fabric.is_global_zero:
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"losses": [asdict(row) for row in self.losses], "seconds": self.seconds}
        with atomic_path(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def step(self, batch: Batch) -> None:
        """Train on a batch: the gradient is the mean over its images, however many of them run at a time."""
        number, module = len(self.losses), self.training.module
        images = len(batch.images) * self.fabric.world_size
        parts = module.begin(self.fabric.to_device(batch), number, len(batch.images) * self.fabric.global_rank)
        buffers = Buffers(self.fabric, module)
        sums = np.zeros(4)
        self.optimizer.zero_grad()
        for part in parts:
            share = len(part.images) / images
            task_loss, method_loss = (share * loss for loss in self.training(part))
            loss = task_loss + method_loss
            density = share * module.density().to(loss.device)
            sums += torch.stack([loss, task_loss, method_loss, density]).detach().tolist()
            self.fabric.backward(loss)
        sums = sum_step(self.fabric, module.parameters(), torch.from_numpy(sums)).numpy()
        if not np.isfinite(sums[0]):
            raise DivergedError(f"the loss is {sums[0]} at step {number}: try a lower learning rate")
        buffers.merge(len(parts))
        if self.clip:
            self.fabric.clip_gradients(self.training, self.optimizer, max_norm=self.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.scheduler.step()
        self.losses.append(Losses(number, *sums.tolist()))

    def keep_losses(self) -> None:
        """Write the losses up to here."""
        if not self.fabric.is_global_zero:
            return
        columns = list(Losses.__dataclass_fields__)
        pd.DataFrame([asdict(row) for row in self.losses], columns=columns).to_parquet(self.kept, index=False)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.training.module, "optimizer": self.optimizer, "scheduler": self.scheduler}


def fit(training: TrainingStep, reader: Reader, loop: Loop) -> float:
    """Train a model, resuming from the folder's checkpoint where there is one.

    The model is left on the CPU. The losses of every step, also of a run that ends in an error, are in the folder's
    ``losses.parquet``.

    Returns
    -------
    float
        Seconds that the run took, those before the checkpoint included.

    Raises
    ------
    DivergedError
        When the loss is no longer finite.
    """
    # The layout that oneDNN's convolutions want: in the other one, moving values about takes a fifth of a step.
    training.model.to(memory_format=torch.channels_last)
    run = _Run(training, loop.folder, loop.fabric or ONE.fabric())
    run.resume()
    sampler = StepSampler(
        len(reader), training.schedule.batch, training.steps, training.seed,
        run.fabric.global_rank, run.fabric.world_size,
    )  # fmt: skip
    sampler.done = len(run.losses)
    saved = time.perf_counter()
    started = saved - run.seconds
    training.train()
    try:
        for batch in image_loader(reader, loop.workers, batch_sampler=sampler):
            run.step(batch)
            now = time.perf_counter()
            if now - saved > CHECKPOINT_SECONDS:
                run.seconds, saved = now - started, now
                run.save()
            if loop.progress is not None:
                loop.progress(len(run.losses), training.steps)
    finally:
        run.keep_losses()
        training.cpu()
        training.model.to(memory_format=torch.contiguous_format)
    return time.perf_counter() - started


def image_loader(reader: Reader, workers: int, **options: Any) -> DataLoader:
    """Return a loader of a reader's samples as batches."""
    return DataLoader(
        cast(Dataset[Sample], reader),
        collate_fn=Batch.collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        **options,
    )


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
