"""Fine-tune a vision-language model in a plain loop under DDP. Killed, it goes on, on any number of ranks.

torchrun --nproc-per-node 2 examples/ddp.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from arguments import parse
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForImageTextToText

from owl_client import OwlStreamDataset


def main() -> None:
    """Train, from the checkpoint if there is one."""
    args = parse(__doc__)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    dataset = OwlStreamDataset(args.url, args.dataset, micro_batch_size=args.micro_batch_size, device=device)
    checkpoint: Path = args.checkpoints / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["data"])  # rank 0's state serves all ranks
    parallel = DistributedDataParallel(model, find_unused_parameters=True)  # a step of text alone has no pictures

    while dataset.state_dict()["epoch"] < args.epochs:
        for batch in dataset:  # the rest of the current epoch
            loss = batch.step_loss(parallel(**batch, use_cache=False).loss)
            loss.backward()
            if batch.meta.state["micro"] != 0:
                continue  # the global step goes on
            optimizer.step()
            optimizer.zero_grad()
            if dist.get_rank() == 0 and batch.meta.state["step"] % args.save_every == 0:  # step 0: an epoch's end
                content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "data": batch.meta.state}
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                torch.save(content, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)  # whole, or not at all
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
