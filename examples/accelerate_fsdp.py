"""Fine-tune a vision-language model with Accelerate under FSDP2. Killed, it goes on, on any number of ranks.

    accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
        examples/accelerate_fsdp.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from arguments import parse
from transformers import AutoModelForImageTextToText

from owl_client import OwlStreamDataset


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    accelerator = Accelerator()
    dataset = OwlStreamDataset(
        args.url, args.dataset, micro_batch_size=args.micro_batch_size, device=accelerator.device
    )
    accelerator.gradient_accumulation_steps = dataset.micros_per_step
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(dataset)
    latest: Path = args.checkpoints / "latest"
    if latest.exists():
        accelerator.load_state(args.checkpoints / latest.read_text())
        accelerator.step = 0  # it counts batches; a step had another number of them where there were other ranks

    while dataset.state_dict()["epoch"] < args.epochs:
        for batch in dataset:  # the rest of the current epoch
            with accelerator.accumulate(model):
                accelerator.backward(batch.step_loss(model(**batch, use_cache=False).loss, accelerator))
                optimizer.step()
                optimizer.zero_grad()
            at = batch.meta.state
            if at["micro"] == 0 and at["step"] % args.save_every == 0:  # step 0 is an epoch's end
                save(accelerator, args.checkpoints, f"epoch-{at['epoch']}-step-{at['step']}")
    accelerator.end_training()


def save(accelerator: Accelerator, directory: Path, name: str) -> None:
    """Write a checkpoint, name it as the latest when it is whole, and remove the one before."""
    accelerator.save_state(directory / name)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (directory / "next").write_text(name)
        (directory / "next").replace(directory / "latest")
        for before in directory.glob("epoch-*"):
            if before.name != name:
                shutil.rmtree(before)
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
