"""Fine-tune a vision-language model under FSDP2. Kill it whenever you like; it goes on, on any number of ranks.

    torchrun --nproc-per-node 2 examples/fsdp2.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints

The server's `model` is the same one. `modality: pure`, its default, lets all ranks call the same towers in every step.
Weights are float32, and there is no schedule of the learning rate and no activation checkpointing: add yours.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from arguments import parse
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText

from owl_client import OwlStreamDataset

LATEST = "latest"
"""Names the newest checkpoint that is whole: a run that is killed while it saves goes on from the one before."""


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).to(device).train()
    for layer in (*model.model.visual.blocks, *model.model.language_model.layers):
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    dataset = OwlStreamDataset(args.url, args.dataset, micro_batch_size=args.micro_batch_size, device=device)
    if (args.checkpoints / LATEST).exists():
        restore(args.checkpoints / (args.checkpoints / LATEST).read_text(), model, optimizer, dataset)

    while dataset.state_dict()["epoch"] < args.epochs:
        for batch in dataset:  # the rest of the current epoch
            at = batch.meta.state
            model.set_requires_gradient_sync(at["micro"] == 0)  # of the micro-batches of a global step, the last
            batch.step_loss(model(**batch, use_cache=False).loss).backward()
            if at["micro"] != 0:
                continue
            optimizer.step()
            optimizer.zero_grad()
            if at["step"] % args.save_every == 0:  # step 0 is an epoch's end: the state is what is next
                save(args.checkpoints, at, model, optimizer)
    dist.destroy_process_group()


def save(directory: Path, state: dict, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint, each rank its part of it. One rank's state of the data serves all."""
    place = directory / f"epoch-{state['epoch']}-step-{state['step']}"
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=place)  # returns when all ranks have written
    if dist.get_rank() == 0:
        (place / "data.json").write_text(json.dumps(state))
        (directory / "next").write_text(place.name)
        (directory / "next").replace(directory / LATEST)
        for before in directory.glob("epoch-*"):
            if before != place:
                shutil.rmtree(before)
    dist.barrier()


def restore(place: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, dataset: OwlStreamDataset) -> None:
    """Read a checkpoint of any number of ranks."""
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=place)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    dataset.load_state_dict(json.loads((place / "data.json").read_text()))


if __name__ == "__main__":
    main()
