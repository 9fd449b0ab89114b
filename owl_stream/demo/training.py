"""Tiny Owl's training run in the demo: exact loss over global steps, and nothing that a real trainer would not do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from owl_client import OwlStreamDataset
from owl_stream.demo.dataset import DATASET
from owl_stream.demo.tokenizer import VOCAB_SIZE

EPOCHS = 4
MICRO_BATCH_SIZE = 4
"""Half a global step, so that the demo accumulates gradients as large trainers do."""


def load_tiny_owl3() -> ModuleType:
    """Load `examples/tiny_owl3.py`: the copy that an installed wheel carries, else the one of the source tree."""
    here = Path(__file__).parent
    places = (here / "_examples" / "tiny_owl3.py", here.parents[1] / "examples" / "tiny_owl3.py")
    path = next(place for place in places if place.exists())
    spec = importlib.util.spec_from_file_location("owl_stream_demo_tiny_owl3", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def open_stream(url: str) -> OwlStreamDataset:
    """The demo's data set as its trainer sees it."""
    return OwlStreamDataset(
        url, dataset=DATASET, micro_batch_size=MICRO_BATCH_SIZE, rank=0, world_size=1, device="cpu", dtype=torch.float32
    )


def batches(dataset: OwlStreamDataset) -> Iterator[Any]:
    """All micro-batches of EPOCHS epochs."""
    for _ in range(EPOCHS):
        yield from dataset


class Trainer:
    """Trains a fresh Tiny Owl; `losses` holds one token-weighted mean per finished global step."""

    def __init__(self) -> None:
        # The server's workers share this machine's cores, and small matrices gain little from more threads.
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = load_tiny_owl3().TinyOwl3(VOCAB_SIZE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-3)
        self.losses: list[float] = []
        self._step_loss = 0.0

    def learn(self, batch: Any) -> None:
        """Take one micro-batch; the optimizer steps after the last one of a global step."""
        meta = batch.meta
        # Summed over a global step this is the mean over all its supervised tokens, however they are dealt.
        loss = self.model(**batch).loss * meta.supervised_tokens * meta.world_size / meta.step_supervised_tokens
        loss.backward()
        self._step_loss += float(loss.detach())
        if meta.state["micro"] == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(self._step_loss)
            self._step_loss = 0.0
