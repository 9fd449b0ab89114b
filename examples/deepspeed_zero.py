"""Fine-tune a vision-language model on DeepSpeed, ZeRO stage 1, 2 or 3. Killed, it goes on, on any number of ranks.

    deepspeed examples/deepspeed_zero.py http://loader:8000 train Qwen/Qwen2.5-VL-3B-Instruct checkpoints --zero-stage 3

DeepSpeed's checkpoint is for as many ranks as wrote it. To go on with others, convert it first, and add --universal:

    python -m deepspeed.checkpoint.ds_to_universal --inject_missing_state \\
        --input_folder checkpoints/global_step200 --output_folder checkpoints/global_step200_universal
"""

from __future__ import annotations

import deepspeed
import torch
from arguments import parse
from transformers import AutoModelForImageTextToText

from owl_client import OwlStreamDataset


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    args = parse(__doc__)
    deepspeed.init_distributed()
    dataset = OwlStreamDataset(args.url, args.dataset, micro_batch_size=args.micro_batch_size)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32).train()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": args.micro_batch_size,
            "gradient_accumulation_steps": dataset.micros_per_step,
            "optimizer": {"type": "AdamW", "params": {"lr": args.learning_rate, "torch_adam": True}},
            "zero_optimization": {"stage": args.zero_stage},
            "checkpoint": {"load_universal": args.universal},
        },
    )
    if (args.checkpoints / "latest").exists():  # DeepSpeed writes it when all ranks have written theirs
        _, client = engine.load_checkpoint(str(args.checkpoints))
        dataset.load_state_dict(client["data"])

    while dataset.state_dict()["epoch"] < args.epochs:
        for batch in dataset:  # the rest of the current epoch
            batch = batch.to(engine.device)  # noqa: PLW2901 # pixels are normalised there
            engine.backward(batch.step_loss(engine(**batch, use_cache=False).loss, engine))
            engine.step()
            at = batch.meta.state
            if at["micro"] == 0 and at["step"] % args.save_every == 0:  # step 0 is an epoch's end
                engine.save_checkpoint(str(args.checkpoints), client_state={"data": at})


if __name__ == "__main__":
    main()
