"""A rank of a run under FSDP2 on CPUs: trains a tiny Qwen2.5-VL on one epoch of a server, a step at a time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from owl_client import OwlStreamDataset
from tests.support.families import make_family


def train(url: str, directory: Path) -> int:
    """Train to the end of the epoch; returns the number of steps."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = make_family("qwen2_5_vl", directory / f"rank-{dist.get_rank()}").model().train()
    fully_shard(model.model.visual, mesh=mesh)
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    dataset = OwlStreamDataset(url, "train", rank=dist.get_rank(), world_size=dist.get_world_size())
    steps = 0
    for batch in dataset:
        loss = batch.step_loss(model(**batch, use_cache=False).loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    dist.barrier()
    dist.destroy_process_group()
    return steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    done = train(sys.argv[1], Path(sys.argv[2]))
    Path(sys.argv[2], f"done-{os.environ['RANK']}").write_text(str(done))
