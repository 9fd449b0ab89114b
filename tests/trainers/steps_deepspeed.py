"""The loop of docs/trainers.md on DeepSpeed, ZeRO stages 1 and 2, on CPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from torch import Tensor

from tests.trainers.gradients import ROWS, Named, Open, Trained, dataset_of

SECTION = "DeepSpeed"


class Single(Open):
    """In float32: ZeRO keeps its gradients so. With `**kwargs`."""

    dtype = torch.float32


def zero(stage: int) -> Any:
    """One epoch with weights that stay, under a stage of ZeRO."""

    def train(url: str, accumulation: int, work: Path) -> Trained:
        dataset, trained, owl = dataset_of(url, accumulation), Trained(), Single()
        engine, *_ = deepspeed.initialize(
            model=owl,
            optimizer=torch.optim.SGD(owl.parameters(), lr=0.0),
            config={
                "train_micro_batch_size_per_gpu": ROWS // (int(os.environ["WORLD_SIZE"]) * accumulation),
                "gradient_accumulation_steps": dataset.micros_per_step,
                "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True,
            },
            dist_init_required=not torch.distributed.is_initialized(),
        )
        step_loss = 0.0
        for batch in dataset:
            loss = engine(**batch)["loss"]
            step_loss += batch.step_loss(loss).item()
            engine.backward(batch.step_loss(loss, engine))
            if engine.is_gradient_accumulation_boundary():
                trained.note(gradients_of(owl))
                means = torch.tensor(step_loss)
                torch.distributed.all_reduce(means)
                trained.losses.append(means.item() / int(os.environ["WORLD_SIZE"]))
                step_loss = 0.0
            engine.step()
        return trained

    return train


def gradients_of(owl: Named) -> dict[str, Tensor | None]:
    """What ZeRO holds, gathered from the ranks."""
    grads = {name: safe_get_full_grad(each) for name, each in owl.named_parameters()}
    return {
        name: torch.zeros_like(each) if grads[name] is None else grads[name] for name, each in owl.named_parameters()
    }


WAYS = {f"deepspeed_zero{stage}": zero(stage) for stage in (1, 2)}
