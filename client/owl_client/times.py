"""What each batch cost the trainer in seconds, written down for `owl-stream fit-cost`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from owl_client.batch import Batch


class StepTimes:
    """A file of JSON lines, one for each batch trained on: its padded text tokens, its vision tokens, its seconds.

        times = StepTimes("times.jsonl")
        for batch in dataset:
            with times.measure(batch):
                model(**batch).loss.backward()

    Measure what one rank computes alone: forward and backward, not the exchange of gradients, in which every rank waits
    for the slowest. A GPU is synchronised at both ends, so a few hundred batches are enough and all of a run too many.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    @contextmanager
    def measure(self, batch: Batch) -> Iterator[None]:
        """Time the block and append its line; nothing is written where the block raises."""
        tokens, vision_tokens = batch["input_ids"], batch.meta.vision_tokens
        _settle(tokens.device)
        began = time.perf_counter()
        yield
        _settle(tokens.device)
        seconds = time.perf_counter() - began
        line = {"text_tokens": tokens.numel(), "vision_tokens": vision_tokens, "seconds": seconds}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _settle(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
