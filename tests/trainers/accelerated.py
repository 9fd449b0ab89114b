"""A fine-tuning script on Accelerate, with a loader that it prepares and so reads one batch ahead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader

from owl_client import OwlStreamDataset
from owl_stream.errors import ConfigError
from tests.trainers.model import Log, Model

EPOCHS, SAVE_STEPS = 3, 5


def train(url: str, checkpoints: Path, log: Log) -> None:
    """Train, from the checkpoint if there is one."""
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=dataset.micros_per_step,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = checkpoints / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["data"])
    model, optimizer = accelerator.prepare(model, optimizer)
    # The dataset gives every rank its own rows: one process is all that the loader may know of.
    loader = prepare_data_loader(
        DataLoader(dataset, batch_size=None),
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
    )
    state = dataset.state_dict()
    while state["epoch"] < EPOCHS:
        for batch in loader:
            log.note(batch.meta)
            with accelerator.accumulate(model):
                accelerator.backward(batch.step_loss(model(**batch)["loss"], accelerator))
                optimizer.step()
                optimizer.zero_grad()
            state = dataset.state_dict(batch)
            trained = state["epoch"] * dataset.steps_per_epoch + state["step"]
            if accelerator.is_main_process and state["micro"] == 0 and trained % SAVE_STEPS == 0:
                _save(checkpoint, accelerator.unwrap_model(model), optimizer, state)


def be_refused(url: str) -> None:
    """Loaders of Accelerate's that would deal batches out again say so on every rank, before anything is read."""
    for options, what in (
        ({}, "DataLoaderDispatcher, which cuts the batches of rank 0 for all ranks"),
        ({"dispatch_batches": False}, "IterableDatasetShard, which gives each rank one of every few batches"),
    ):
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
        dataset = OwlStreamDataset(url, micro_batch_size=2)
        loader = accelerator.prepare(DataLoader(dataset, batch_size=None))
        with pytest.raises(ConfigError, match=f"{what}.*leave the loader out of prepare"):
            next(iter(loader))
    with pytest.raises(ValueError, match="split_batches"):  # Accelerate's own
        Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True)).prepare(
            DataLoader(dataset, batch_size=None)
        )


def _save(checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "data": state}
    torch.save(content, checkpoint.with_suffix(".new"))
    os.replace(checkpoint.with_suffix(".new"), checkpoint)
