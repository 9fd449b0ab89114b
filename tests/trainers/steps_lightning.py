"""Ways to train with Lightning, and runs that are killed and resumed.

`python -m tests.trainers.steps_lightning URL DIRECTORY` leaves for each way to read (`NAME/`) what a run was trained on
until SIGKILL struck it, what the one that resumed was, and what an undisturbed run was.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics import MeanMetric

from owl_client import OwlStreamDataset, OwlStreamLoader
from owl_client.lightning import STATE_KEY
from owl_client.lightning.data import OwlStreamDataModule
from owl_stream.errors import ConfigError, RequestError
from tests.trainers.family import ended_by, fork
from tests.trainers.gradients import ROWS, Named, Open, Trained, dataset_of, gradients_of
from tests.trainers.model import Log, steps_of

EPOCHS, SAVE_STEPS, KILL_AT = 3, 3, (1, 3)
WORKERS: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}

SECTION = "Lightning"

Read = Callable[[OwlStreamDataset], Any]
READERS: dict[str, Read] = {
    "dataset": lambda dataset: dataset,
    "loader": lambda dataset: DataLoader(dataset, batch_size=None),
    "our_loader": OwlStreamLoader,
    "our_loader_workers": lambda dataset: OwlStreamLoader(dataset, **WORKERS),
    "our_loader_kept_workers": lambda dataset: OwlStreamLoader(dataset, persistent_workers=True, **WORKERS),
}


class Module(lightning.LightningModule):
    """As the snippet of docs/trainers.md; notes gradients, losses, rows and what it is validated on."""

    def __init__(self, model: nn.Module, log: Log | None = None, lr: float = 0.0) -> None:
        super().__init__()
        self.model, self.trained, self.rows, self.lr = model, Trained(), log, lr
        self.step_loss, self.val_loss = 0.0, MeanMetric()
        self.validated: list[list[tuple[int, int]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The weighted loss; Lightning divides it by the accumulation."""
        if self.rows is not None:
            self.rows.note(batch.meta)
        loss: torch.Tensor = self.model(**batch)["loss"]
        self.step_loss += batch.step_loss(loss).item()
        weighed: torch.Tensor = batch.step_loss(loss, self.trainer)
        return weighed

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """A step's gradient is whole."""
        self.trained.note(gradients_of(self.model))
        self.trained.losses.append(float(self.trainer.strategy.reduce(torch.tensor(self.step_loss))))
        self.step_loss = 0.0

    def on_validation_start(self) -> None:
        """A new pass."""
        self.validated.append([])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The mean over tokens, whatever the batches hold."""
        self.validated[-1].append((batch.meta.epoch, batch.meta.step))
        loss = self.model(**batch)["loss"]
        self.val_loss.update(loss, weight=batch.meta.supervised_tokens)
        self.log("val_loss", self.val_loss)  # with batch_size= Lightning would round counts of tokens

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Weights that stay, unless told otherwise."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer_of(dataset: OwlStreamDataset | None, work: Path, **options: Any) -> lightning.Trainer:
    """A Trainer on this rank's CPU; with a data module it is not told over what to accumulate."""
    warnings.filterwarnings("ignore")
    if dataset is not None:
        options["accumulate_grad_batches"] = dataset.micros_per_step
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp_find_unused_parameters_true" if world_size > 1 else "auto",
        default_root_dir=work,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def way(model_type: type[Named], read: Read) -> Callable[[str, int, Path], Trained]:
    """One epoch; validated before, within and after, which must not disturb it."""

    def train(url: str, accumulation: int, work: Path) -> Trained:
        dataset, module = dataset_of(url, accumulation), Module(model_type())
        evaluated = dataset_of(url, accumulation, evaluate=True)
        trainer = trainer_of(dataset, work, max_epochs=1, enable_checkpointing=False, val_check_interval=0.5)
        trainer.fit(module, read(dataset), evaluated)
        whole = [(0, step) for step in range(4) for _ in range(accumulation)]
        assert module.validated == [whole[:2], whole, whole], module.validated
        module.trained.losses.append(trainer.callback_metrics["val_loss"].item())
        return module.trained

    return train


def data_module(url: str, accumulation: int, work: Path) -> Trained:
    """One epoch by the data module, which finds ranks and accumulation by itself."""
    rows = ROWS // (accumulation * int(os.environ.get("WORLD_SIZE", "1")))
    module, data = Module(Open()), OwlStreamDataModule(url, val="train", test="train", micro_batch_size=rows)
    trainer = trainer_of(None, work, max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    assert (trainer.global_step, trainer.accumulate_grad_batches) == (4, 1), "the Trainer is left as it was"
    whole = [(0, step) for step in range(4) for _ in range(accumulation)]
    assert module.validated == [whole[:2], whole], module.validated
    module.trained.losses.append(trainer.callback_metrics["val_loss"].item())
    return module.trained


WAYS = {
    "lightning_data_module": data_module,
    "lightning": way(Named, READERS["dataset"]),
    "lightning_kwargs": way(Open, READERS["loader"]),
    "lightning_workers": way(Open, READERS["our_loader_workers"]),
}


def run(url: str, read: Read, checkpoints: Path, log: Log, save: dict[str, Any]) -> None:
    """Train for three epochs, from the newest checkpoint if there is one."""
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    saving = ModelCheckpoint(checkpoints, filename="{step}", save_top_k=-1, **save)
    trainer = trainer_of(dataset, checkpoints, max_epochs=EPOCHS, callbacks=[saving])
    found = sorted(checkpoints.glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1].split("-")[0]))
    trainer.fit(Module(Named(), log), read(dataset), ckpt_path=str(found[-1]) if found else None)


MIDDLE: dict[str, Any] = {"every_n_train_steps": SAVE_STEPS}
END: dict[str, Any] = {"save_on_train_epoch_end": True}


def main(url: str, directory: Path) -> None:
    """Every way to read, with checkpoints in mid-epoch; two also with checkpoints at the ends of epochs."""
    plans = [(name, read, MIDDLE) for name, read in READERS.items()]
    plans += [(f"{name}-end", READERS[name], END) for name in ("dataset", "loader", "our_loader_workers")]
    for name, read, save in plans:
        place = directory / name
        pid = fork(lambda: run(url, read, place / "checkpoints", Log(place / "killed", KILL_AT), save))  # noqa: B023
        assert ended_by(pid) == -signal.SIGKILL, name
        for part, checkpoints in (("resumed", "checkpoints"), ("undisturbed", "others")):
            log = place / part
            pid = fork(lambda: run(url, read, place / checkpoints, Log(log, None), save))  # noqa: B023
            assert ended_by(pid) == 0, (name, part)
    assert ended_by(fork(lambda: be_refused(url, directory / "refused"))) == 0
    for work in (cast, cut_epochs_short, validate_first, strike_between, use_a_trainer_twice):
        assert ended_by(fork(lambda: work(url, directory / work.__name__))) == 0, work  # noqa: B023


def cast(url: str, directory: Path) -> None:
    """Where Lightning casts inputs it builds batches anew, with no more than their tensors."""
    log = Log(directory, None)
    trainer = trainer_of(None, directory, max_epochs=1, precision="64-true")
    trainer.fit(Module(Open(), log), datamodule=OwlStreamDataModule(url, micro_batch_size=2))
    assert sorted(steps_of(directory)) == [(0, step) for step in range(4)]


def cut_epochs_short(url: str, directory: Path) -> None:
    """Whole steps only: Lightning steps on the last batch of an epoch."""
    for batches, message in ((6, "limit_train_batches to be a multiple of 4.* got 6"), (8, "")):
        log = Log(directory / str(batches), None)
        trainer = trainer_of(None, directory, max_epochs=1, limit_train_batches=batches)
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            trainer.fit(Module(Named(), log), datamodule=OwlStreamDataModule(url, micro_batch_size=2))
        assert sorted(steps_of(log.directory)) == ([] if message else [(0, 0), (0, 1)])
    trainer = trainer_of(None, directory, fast_dev_run=1)
    trainer.fit(Module(Named()), datamodule=OwlStreamDataModule(url, micro_batch_size=2))
    callbacks = [GradientAccumulationScheduler({0: 2})]
    with pytest.raises(ConfigError, match="expected no GradientAccumulationScheduler"):
        trainer_of(None, directory, callbacks=callbacks).fit(Module(Named()), datamodule=OwlStreamDataModule(url))


def saved_after_two_steps(url: str, directory: Path) -> Path:
    """A checkpoint."""
    saving = ModelCheckpoint(directory, filename="saved", every_n_train_steps=2)
    trainer = trainer_of(None, directory, max_steps=2, callbacks=[saving])
    trainer.fit(Module(Named()), datamodule=OwlStreamDataModule(url, micro_batch_size=2))
    return directory / "saved.ckpt"


def validate_first(url: str, directory: Path) -> None:
    """A checkpoint that was validated is not where a training begins that was given none."""
    log, data = Log(directory / "rows", None), OwlStreamDataModule(url, val="train", micro_batch_size=2)
    trainer, module = trainer_of(None, directory, max_epochs=1, inference_mode=False), Module(Named(), log)
    trainer.validate(module, datamodule=data, ckpt_path=str(saved_after_two_steps(url, directory)))
    trainer.fit(module, datamodule=data)
    assert sorted(steps_of(log.directory)) == [(0, step) for step in range(4)]


class Strike(lightning.Callback):  # type: ignore[misc] # Lightning is not followed by mypy
    """Raises when a batch is about to be trained on."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """At the beginning of the third step."""
        if batch.meta.step == 2:
            raise KeyError("struck")


def strike_between(url: str, directory: Path) -> None:
    """What is saved on an exception is the state behind the last batch that was trained on, whoever raised it."""
    saving = ModelCheckpoint(directory, filename="struck", every_n_train_steps=100, save_on_exception=True)
    trainer = trainer_of(None, directory, max_epochs=1, callbacks=[saving, Strike()])
    with pytest.raises(KeyError, match="struck"):
        trainer.fit(Module(Named()), datamodule=OwlStreamDataModule(url, micro_batch_size=2))
    (found,) = directory.glob("*.ckpt")
    state = torch.load(found, weights_only=False)[STATE_KEY]
    assert (state["epoch"], state["step"], state["micro"]) == (0, 2, 0)


def use_a_trainer_twice(url: str, directory: Path) -> None:
    """Data of other micro-batches on the same Trainer."""
    trainer = trainer_of(None, directory, max_epochs=1)
    for micro_batch_size, epochs in ((2, 1), (4, 2)):
        log, trainer.fit_loop.max_epochs = Log(directory / str(micro_batch_size), None), epochs
        trainer.fit(Module(Named(), log), datamodule=OwlStreamDataModule(url, micro_batch_size=micro_batch_size))
        assert len(steps_of(log.directory)) == 4


def be_refused(url: str, directory: Path) -> None:
    """Loaders, settings and checkpoints under which batches would be lost, repeated or weighed wrongly."""

    def fit(read: Read, micro_batch_size: int = 2, ckpt_path: Path | None = None, **options: Any) -> Any:
        evaluated, log = options.pop("evaluated", None), options.pop("log", None)
        dataset = OwlStreamDataset(url, micro_batch_size=micro_batch_size)
        trainer = trainer_of(dataset, directory, **{"max_epochs": 1, **options})
        trainer.fit(Module(Named(), log), read(dataset), evaluated, ckpt_path=ckpt_path)
        return trainer

    for read, message in (
        (lambda dataset: DataLoader(dataset, batch_size=None, **WORKERS), r"OwlStreamLoader\(dataset, num_workers=2\)"),
        (lambda dataset: StatefulDataLoader(dataset, batch_size=None, **WORKERS), "cannot say which batches"),
        (lambda dataset: [dataset, OwlStreamDataset(url, micro_batch_size=2)], "got 2 loaders"),
        (lambda _: OwlStreamDataset(url, micro_batch_size=2, evaluate=True), "without evaluate=True"),
        (lambda _: OwlStreamDataset(url, micro_batch_size=1), "expected accumulate_grad_batches=8.* got 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(read)
    for evaluated in (OwlStreamDataset(url), [DataLoader(OwlStreamDataset(url), batch_size=None)]):
        with pytest.raises(ConfigError, match=r"val_dataloaders: expected OwlStreamDataset\(\.\.\., evaluate=True\)"):
            fit(READERS["dataset"], evaluated=evaluated)
    saved, bare = directory / "saved.ckpt", directory / "bare.ckpt"
    fit(READERS["dataset"], callbacks=[ModelCheckpoint(directory, filename="saved", every_n_train_steps=3)])
    for micro_batch_size in (1, 4, 8):
        log = Log(directory / f"of-{micro_batch_size}", None)
        assert fit(READERS["dataset"], micro_batch_size, saved, log=log).global_step == 4
        assert set(steps_of(log.directory)) == {(0, 3)}
    checkpoint = torch.load(saved, weights_only=False)
    assert checkpoint.pop(STATE_KEY)["step"] == 3
    torch.save(checkpoint, bare)
    with pytest.raises(RequestError, match="holds no state of the data"):
        fit(READERS["dataset"], ckpt_path=bare)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
