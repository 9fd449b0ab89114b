"""Fine-tune a vision-language model on DeepSpeed, ZeRO stage 1, 2 or 3. Killed, it goes on, on any number of ranks.

    deepspeed examples/deepspeed_zero.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints --zero-stage 3

DeepSpeed's checkpoint is for as many ranks as wrote it. To go on with others, convert the newest one first:

    python -m deepspeed.checkpoint.ds_to_universal --inject_missing_state \\
        --input_folder checkpoints/global_step200 --output_folder checkpoints/global_step200_universal
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from arguments import parse
from transformers import AutoModelForImageTextToText

from owl_client import OwlStreamDataset


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    deepspeed.init_distributed()
    dataset = OwlStreamDataset(args.url, args.dataset, micro_batch_size=args.micro_batch_size)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).train()
    latest = args.checkpoints / "latest"
    newest = latest.read_text() if latest.exists() else ""
    converted = (args.checkpoints / f"{newest}_universal").is_dir()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": args.micro_batch_size,
            "gradient_accumulation_steps": dataset.micros_per_step,
            "optimizer": {"type": "AdamW", "params": {"lr": args.learning_rate, "torch_adam": True}},
            "zero_optimization": {"stage": args.zero_stage},
            "checkpoint": {"load_universal": converted},
        },
    )
    if newest:
        _, client = engine.load_checkpoint(str(args.checkpoints), tag=f"{newest}_universal" if converted else newest)
        dataset.load_state_dict(client["data"])

    while dataset.state_dict()["epoch"] < args.epochs:
        for batch in dataset:  # the rest of the current epoch
            batch = batch.to(engine.device)  # noqa: PLW2901 # pixels are normalised there
            engine.backward(batch.step_loss(engine(**batch, use_cache=False).loss, engine))
            engine.step()
            at = batch.meta.state
            if at["micro"] == 0 and at["step"] % args.save_every == 0:  # step 0 is an epoch's end
                save(engine, args.checkpoints, at)


def save(engine: deepspeed.DeepSpeedEngine, directory: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, name it as the latest when all ranks have written theirs, and remove the ones before."""
    name = f"global_step{engine.global_steps}"
    engine.save_checkpoint(str(directory), tag=name, client_state={"data": state}, save_latest=False)
    dist.barrier()
    if dist.get_rank() == 0:
        (directory / "next").write_text(name)
        (directory / "next").replace(directory / "latest")
        for before in directory.glob("global_step*"):
            if before.name != name:
                shutil.rmtree(before)
    dist.barrier()


if __name__ == "__main__":
    main()
