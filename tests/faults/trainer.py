"""A trainer that can be killed at any instant.

After every batch it appends the batch's line to a log and then, atomically, writes a checkpoint: the state and
the log's length. Started again it cuts the log back to the checkpoint, as a trainer loses the steps behind it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from owl_client import Backoff, OwlStreamDataset, Timeouts
from tests.faults.warm import WarmProcess
from tests.support.hashes import batch_line


def train(
    urls: Sequence[str],
    directory: Path,
    *,
    epochs: int,
    tell: Callable[[int], None] = lambda step: None,
    **options: Any,
) -> None:
    """Read to the end of `epochs` epochs, from the last checkpoint if there is one; `tell` hears of every batch."""
    log, checkpoint = directory / "log", directory / "checkpoint"
    dataset = OwlStreamDataset(
        urls, dtype=torch.uint8, timeouts=Timeouts(read_s=3.0), backoff=Backoff(0.02, 0.2), **options
    )
    length = 0
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        length = saved["length"]
        dataset.load_state_dict(saved["data"])
    with log.open("ab") as lines:
        lines.truncate(length)
        lines.seek(length)
        epoch = dataset.state_dict()["epoch"]
        while epoch < epochs:
            for batch in dataset:
                lines.write(f"{batch_line(batch)}\n".encode())
                lines.flush()
                length = lines.tell()
                state = {"length": length, "data": dataset.state_dict()}
                temporary = checkpoint.with_suffix(".new")
                temporary.write_text(json.dumps(state))
                os.replace(temporary, checkpoint)
                tell(batch.meta.step)
            epoch = dataset.state_dict()["epoch"]


def _run(tell: Callable[[int], None], urls: Sequence[str], directory: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    train(urls, directory, tell=tell, **options)


@dataclass
class Trainer:
    """`train` as a process that is killed and started again."""

    urls: Sequence[str]
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process: WarmProcess | None = None

    def start(self, epochs: int = 1 << 30) -> None:
        """Start (again), to read to the end of `epochs` epochs."""
        self._process = WarmProcess(_run, self.urls, self.directory, {**self.options, "epochs": epochs})

    def advance(self, batches: int) -> None:
        """Wait until it has trained on so many more."""
        assert self._process is not None
        for _ in range(batches):
            self._process.hear()

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def finish(self, epochs: int = 0) -> list[str]:
        """Kill it, and let another end the epoch that it was in (of `epochs` at least); returns the whole log."""
        self.kill()
        lines = self.log
        self.start(max(epochs, int(lines[-1].split()[0]) + 1 if lines else 1))
        assert self._process is not None
        while True:
            try:
                self._process.hear()
            except EOFError:
                break
        assert self._process.join() == 0, "the trainer failed"
        self._process = None
        return self.log

    @property
    def log(self) -> list[str]:
        """The lines of all batches that it has trained on and kept."""
        log = self.directory / "log"
        return log.read_text().splitlines() if log.exists() else []
