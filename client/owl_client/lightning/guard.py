"""The callback: it ties the data to Lightning's checkpoints, and refuses what would lose or repeat batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from owl_client.batch import Batch
from owl_client.dataset import OwlStreamDataset
from owl_client.loader import OwlStreamLoader
from owl_client.training_order import ORDER
from owl_stream.errors import ConfigError, RequestError

log = logging.getLogger("owl_client")

STATE_KEY = "OwlStream"
"""Where the state of the data stands in a checkpoint."""


class Guard:
    """The hooks. `trainer` is Lightning's; what is read of it is the same in both packages."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None
        """The state after the batch before the present one."""
        self._now: dict[str, Any] | None = None
        """The state after the present batch."""
        self._noted = 0
        """Lightning's count of batches when the present one was noted."""
        self._loaded: dict[str, Any] | None = None
        self._source: OwlStreamDataset | OwlStreamLoader | None = None
        self._logged = 0
        """The step after which numbers were logged last."""
        self._warned = False

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the state until the loaders are there."""
        self._loaded = checkpoint.get(STATE_KEY)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the loader, and move it to where the checkpoint was written; nothing was asked of it yet.

        Raises:
            ConfigError: a loader or a setting under which batches would be lost, repeated or weighed wrongly.
            RequestError: the checkpoint has no state of the data, or was cut for another share in mid-step.
        """
        found = [each for each in map(_dataset_of, _leaves(trainer.train_dataloader)) if each is not None]
        self._before = self._now = self._source = None
        if not found:
            return
        dataset = found[0]
        _check_loader(trainer, dataset)
        loader = next(_leaves(trainer.train_dataloader))
        self._source = loader if isinstance(loader, OwlStreamLoader) else dataset
        loaded, self._loaded = self._loaded, None
        if trainer.ckpt_path is None:  # what was loaded, if anything, was validated or tested
            return
        if loaded is not None:
            dataset.load_state_dict(loaded)
            if not loaded["micro"]:
                _restate_progress(loaded, dataset, trainer)
            self._now = loaded
        else:
            raise RequestError(
                f"{trainer.ckpt_path}: the checkpoint holds no state of the data, so it was written without "
                f"owl-stream; begin anew, or load a state into the dataset and train from the weights alone"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the batch that is about to be trained on."""
        if isinstance(batch, Batch):
            self._before, self._now = self._now, batch.meta.state
            self._noted = trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what was waited for and read, as often as Lightning logs what a module says."""
        if isinstance(batch, Batch) and not (self._warned or ORDER.is_latest(batch.meta)):
            self._warned = True
            log.warning(
                "training_step has not called batch.step_loss(loss, self.trainer): unless it weighs the loss itself, "
                "every micro-batch counts as much as any other, whatever tokens are learned in it"
            )
        step = trainer.global_step
        if self._source is None or not trainer.loggers or step == self._logged or step % trainer.log_every_n_steps:
            return
        self._logged, found = step, self._source.metrics()
        for logger in trainer.loggers:
            logger.log_metrics(found, step=step)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save the state after the last batch that was trained on, also where an exception struck in the next."""
        if self._now is None:
            return
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        struck_within = progress.processed != progress.ready and self._noted == progress.ready
        state = self._before if struck_within else self._now
        if state is None:
            return
        if state["micro"]:
            log.warning(
                "this checkpoint lies within global step %d, whose gradients so far are not saved; save between steps, "
                "for example with ModelCheckpoint(every_n_train_steps=...)",
                state["step"],
            )
        checkpoint[STATE_KEY] = state

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation, and the sanity check before it, must see the same batches each time."""
        _check_evaluation("val_dataloaders", trainer.val_dataloaders)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """As validation."""
        _check_evaluation("test_dataloaders", trainer.test_dataloaders)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """As validation."""
        _check_evaluation("predict_dataloaders", trainer.predict_dataloaders)


def _leaves(loaders: Any) -> Iterator[Any]:
    """The loaders in whatever Lightning was given: one, or lists and dicts of some."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    elif isinstance(getattr(loaders, "flattened", None), list):  # a CombinedLoader
        loaders = loaders.flattened
    if isinstance(loaders, list | tuple):
        for each in loaders:
            yield from _leaves(each)
    elif loaders is not None:
        yield loaders


def _dataset_of(loader: Any) -> OwlStreamDataset | None:
    dataset = loader if isinstance(loader, OwlStreamDataset) else getattr(loader, "dataset", None)
    return dataset if isinstance(dataset, OwlStreamDataset) else None


def _check_loader(trainer: Any, dataset: OwlStreamDataset) -> None:
    loaders = list(_leaves(trainer.train_dataloader))
    if len(loaders) != 1:
        raise ConfigError(
            f"train_dataloaders: expected the OwlStreamDataset alone, got {len(loaders)} loaders: their batches would "
            f"be joined, and steps would no longer be those of the plan"
        )
    if dataset.evaluate:
        raise ConfigError(
            "train_dataloaders: expected a dataset without evaluate=True, which is epoch 0 in every epoch"
        )
    loader = loaders[0]
    if isinstance(loader, DataLoader) and loader.num_workers and not isinstance(loader, OwlStreamLoader):
        raise ConfigError(
            f"train_dataloaders: a {type(loader).__name__} with num_workers={loader.num_workers} cannot say which "
            f"batches were trained on, so a resume would repeat some and never give others; pass the dataset itself, "
            f"or OwlStreamLoader(dataset, num_workers={loader.num_workers})"
        )
    micros = dataset.micros_per_step
    if trainer.lightning_module.automatic_optimization and trainer.accumulate_grad_batches != micros:
        raise ConfigError(
            f"Trainer: expected accumulate_grad_batches={micros}, the micro-batches that a rank gets of a global step, "
            f"got {trainer.accumulate_grad_batches}"
        )
    batches = trainer.num_training_batches
    if batches != math.inf and batches % micros and not trainer.fast_dev_run:
        raise ConfigError(
            f"Trainer: expected limit_train_batches to be a multiple of {micros}, the micro-batches of a global step, "
            f"got {batches}: Lightning steps on the last batch of an epoch, which would cut a step in two"
        )


def _restate_progress(state: Mapping[str, Any], dataset: OwlStreamDataset, trainer: Any) -> None:
    """Restate Lightning's count of batches in this epoch in batches of now, of which a step may have more or fewer."""
    now = dataset.state_dict()
    before, after = (
        dataset.global_batch_size // (each["world_size"] * each["micro_batch_size"]) for each in (state, now)
    )
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    not_completed = current.ready - current.completed  # 1 where a callback saved at the end of its batch
    current.ready = current.started = current.processed = current.ready // before * after
    current.completed = current.ready - not_completed


def _check_evaluation(name: str, loaders: Any) -> None:
    for dataset in map(_dataset_of, _leaves(loaders)):
        if dataset is not None and not dataset.evaluate:
            raise ConfigError(
                f"{name}: expected OwlStreamDataset(..., evaluate=True), which begins at its beginning each time; this "
                f"one would give other batches at each evaluation"
            )
