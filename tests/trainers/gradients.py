"""The gradient of every step of an epoch, under each way to train; all start at the same weights, and these stay.

`python -m tests.trainers.gradients URL DIRECTORY LIBRARY` forks ranks for each share of a step and leaves one file for
each way and rank: the gradients by step, and the losses that the library logged. `LIBRARY` is a module with `WAYS`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from owl_client import OwlStreamDataset
from tests.trainers import snippets
from tests.trainers.family import in_ranks
from tests.trainers.model import VOCABULARY, TinyOwl3

ROWS = 8
SHARES = [*product((1, 2), (1, 4))]
"""World size and accumulation: of a step of 8 rows a micro-batch has 8, 4, 2 or 1."""


class Named(nn.Module):
    """A model whose `forward` spells out what it takes. In float64, so that only a wrong scale makes a difference."""

    dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.owl = TinyOwl3(VOCABULARY, hidden=16, layers=2, heads=2, hyper_layers=(1,)).to(self.dtype)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        media_offset: Any = None,
        pixel_values: Tensor | None = None,
    ) -> dict[str, Any]:
        """The loss, where there are labels, and the logits."""
        pixels = None if pixel_values is None else pixel_values.to(self.dtype)
        output = self.owl(input_ids, attention_mask, labels, media_offset, pixels)
        loss = {} if output.loss is None else {"loss": output.loss}
        return {**loss, "logits": output.logits}


class Open(Named):
    """A model with `**kwargs`, which as those of transformers divides by `num_items_in_batch` where it gets it."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """As `Named`."""
        items = kwargs.pop("num_items_in_batch", None)
        answer = super().forward(input_ids, **kwargs)
        if items is not None:
            answer["loss"] = token_losses(answer["logits"], kwargs["labels"]).sum() / items
        return answer


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each learned token."""
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return functional.cross_entropy(flat, targets, ignore_index=-100, reduction="none")[targets != -100]


@dataclass
class Trained:
    """What a way to train has left: per step its gradient, and the loss that was logged."""

    gradients: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def note(self, parameters: Mapping[str, Tensor | None]) -> None:
        """One step's gradients by name; None where there is none."""
        zero = torch.zeros(1, dtype=torch.float64)
        self.gradients.append(
            torch.cat([zero if grad is None else grad.detach().double().flatten() for grad in parameters.values()])
        )


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    """By name; a parameter that took no part has zeros, whoever trains."""
    return {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in model.named_parameters()}


def dataset_of(url: str, accumulation: int, **options: Any) -> OwlStreamDataset:
    """This rank's dataset, with so many micro-batches a step."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return OwlStreamDataset(url, micro_batch_size=ROWS // (world_size * accumulation), **options)


def plain(url: str, accumulation: int, model: nn.Module, objective: Callable[[Any, Any], Tensor]) -> Trained:
    """The loop of docs/trainers.md, with any mean loss of a micro-batch."""
    trained, step_loss = Trained(), 0.0
    for batch in dataset_of(url, accumulation):
        loss = batch.step_loss(objective(model, batch))
        loss.backward()
        step_loss += loss.item()
        if batch.meta.state["micro"] == 0:
            trained.note(gradients_of(model))
            trained.losses.append(step_loss)
            model.zero_grad()
            step_loss = 0.0
    return trained


def main(url: str, directory: Path, library: str) -> None:
    """Every way of a library, at every share of a step; then its section of docs/trainers.md, if it has one."""
    module = importlib.import_module(library)
    ways: Mapping[str, Callable[[str, int, Path], Trained]] = module.WAYS
    directory.mkdir(parents=True, exist_ok=True)
    for world_size, accumulation in SHARES:

        def ranks(world_size: int = world_size, accumulation: int = accumulation) -> None:
            rank, environ = os.environ["RANK"], dict(os.environ)
            for name, way in ways.items():
                os.environ.update(environ)  # Lightning takes WORLD_SIZE away when it has trained
                trained = way(url, accumulation, directory / f"{name}-{world_size}-{accumulation}-{rank}.work")
                torch.save(trained.__dict__, directory / f"{name}-{world_size}-{accumulation}-{rank}.pt")

        ends = in_ranks(ranks, world_size)
        assert ends == [0] * world_size, (library, world_size, accumulation, ends)
    if section := getattr(module, "SECTION", ""):
        os.chdir(directory)
        assert in_ranks(lambda: print(snippets.run(section, url)), 1) == [0], section


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
