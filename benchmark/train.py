"""Training and evaluating one model with Lightning: the same loop for every task and every method.

Everything random is drawn per step from the seed, so that a run that was killed and goes on from its last checkpoint
ends in the same result as one that was not. Checkpoints under way are Lightning's, read back without executing
anything (``weights_only``); the finished model is kept in safetensors.
"""

import hashlib
import logging
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from benchmark.errors import SaibenchError
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Method
from benchmark.nn import inference
from benchmark.recipe import Schedule
from benchmark.tasks import Batch, Reader, Sample, Task

CHECKPOINT_MINUTES = 5
CHECKPOINT = "last.ckpt"


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
    """

    def __init__(self, images: int, batch: int, steps: int, seed: int) -> None:
        super().__init__(SequentialSampler(range(images)), batch, drop_last=False)
        self.images, self.batch, self.steps, self.seed = images, batch, steps, seed
        self.done = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.done, self.steps):
            first = step * self.batch
            yield [self._index(position) for position in range(first, first + self.batch)]

    def _index(self, position: int) -> int:
        turn, place = divmod(position, self.images)
        return int(self._order(turn)[place])

    def _order(self, turn: int) -> np.ndarray:
        if getattr(self, "_turn", None) != turn:
            self._turn, self._permutation = turn, np.random.default_rng([self.seed, turn]).permutation(self.images)
        return self._permutation


class CellModule(lightning.LightningModule):
    """What Lightning runs: a task's model with a method's masks, loss and annealing."""

    def __init__(self, task: Task, method: Method, model: nn.Module, schedule: Schedule, steps: int, seed: int) -> None:
        super().__init__()
        self.task, self.method, self.model = task, method, model
        self.schedule, self.steps, self.seed = schedule, steps, seed
        self.predictions: dict[str | int, Any] = {}
        self.counter: MeasuredCounter | None = None

    def train(self, mode: bool = True) -> "CellModule":
        """Switch the mode; batch norm stays in inference where the schedule freezes its statistics."""
        super().train(mode)
        if mode and self.schedule.freeze_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step and anneal."""
        torch.manual_seed(derive_seed(self.seed, "step", self.global_step))
        self.method.on_step(self.task.backbone(self.model), self.global_step / max(1, self.steps - 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return task loss plus the method's."""
        if self.schedule.flip:
            chosen = np.random.default_rng([self.seed, self.global_step]).random(len(batch.images)) < 0.5
            batch = self.task.mirror(batch, chosen)
        batch = self.task.augment(self.model, batch, np.random.default_rng([self.seed, self.global_step, 1]))
        task_loss = self.task.loss(self.model, batch)
        loss = task_loss + self.method.loss(self.task.backbone(self.model)).to(task_loss.device)
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} at step {self.global_step}: try a lower learning rate")
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.images))
        return loss

    def configure_optimizers(self) -> Any:
        """Return the schedule's optimizer, stepped each batch."""
        optimizer, scheduler = self.schedule.optimize(self.model, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the predictions, and count."""
        with inference(batch.identifiers, self.seed):
            predictions = self.task.predict(self.model, batch)
        self.predictions.update(zip(batch.identifiers, predictions, strict=True))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move images and tensor targets."""
        move = lightning.pytorch.utilities.move_data_to_device
        return Batch(move(batch.images, device), move(batch.targets, device), batch.identifiers)


@dataclass
class Loop:
    """How to run: where checkpoints under way go, what shows progress, and the CPU threads.

    Attributes
    ----------
    folder
        Holds the checkpoint under way.
    callbacks
        Lightning callbacks, such as one that reports progress.
    """

    folder: Path
    callbacks: list[Callback] = field(default_factory=list)
    workers: int = 0

    def trainer(self, **options: Any) -> lightning.Trainer:
        """Return a quiet Lightning trainer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lightning.Trainer(
                accelerator="auto",
                devices=1,
                logger=False,
                callbacks=[*self.callbacks, *options.pop("callbacks", [])],
                enable_progress_bar=False,
                enable_model_summary=False,
                inference_mode=True,
                **options,
            )

    def loader(self, reader: Reader, **options: Any) -> DataLoader:
        """Return a loader of a reader's samples."""
        return DataLoader(
            cast(Dataset[Sample], reader),
            collate_fn=Batch.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            **options,
        )


def fit(module: CellModule, reader: Reader, loop: Loop) -> float:
    """Train a module, going on from the folder's checkpoint where there is one.

    Returns
    -------
    float
        Seconds that this call took.

    Raises
    ------
    DivergedError
        When the loss is no longer finite.
    """
    started = time.perf_counter()
    sampler = StepSampler(len(reader), module.schedule.batch, module.steps, module.seed)
    checkpoint = loop.folder / CHECKPOINT
    if checkpoint.is_file():
        sampler.done = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    keep = ModelCheckpoint(
        loop.folder, filename=Path(CHECKPOINT).stem, train_time_interval=_minutes(CHECKPOINT_MINUTES),
        enable_version_counter=False, save_top_k=1,
    )  # fmt: skip
    trainer = loop.trainer(
        callbacks=[keep],
        max_steps=module.steps,
        max_epochs=-1,
        gradient_clip_val=module.schedule.clip or None,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
    )
    resume = str(checkpoint) if sampler.done else None
    module.train()  # Lightning leaves the mode as it finds it
    with _interruptible():
        trainer.fit(module, loop.loader(reader, batch_sampler=sampler), ckpt_path=resume, weights_only=True)
    return time.perf_counter() - started


def predict(module: CellModule, reader: Reader, loop: Loop, counter: MeasuredCounter | None = None) -> float:
    """Run a split through the module, image by image; its predictions are in ``module.predictions``.

    Parameters
    ----------
    counter
        Counts what the images cost.

    Returns
    -------
    float
        Seconds taken.
    """
    started = time.perf_counter()
    module.predictions, module.counter = {}, counter
    trainer = loop.trainer(enable_checkpointing=False)
    with _interruptible(), nullcontext() if counter is None else counter.recording():
        trainer.test(module, loop.loader(reader, batch_size=1), verbose=False)
    return time.perf_counter() - started


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the command as usual: Lightning turns it into an exit, and ignores the next."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from stop


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def quiet() -> None:
    """Silence what Lightning says about itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning.*")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")


def _minutes(count: int) -> Any:
    from datetime import timedelta

    return timedelta(minutes=count)
