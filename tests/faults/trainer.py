"""A trainer that can be killed at any instant.

After every batch it appends the batch's line to a log and then, atomically, writes a checkpoint: the state and
the log's length. Started again it cuts the log back to the checkpoint, as a trainer loses the steps behind it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from owl_client import Backoff, OwlStreamDataset, Timeouts
from tests.support.hashes import batch_line

PATIENCE_S = 120.0
"""What a trainer may be silent before its test fails."""


def train(
    urls: Sequence[str], directory: Path, epochs: int, tell: Callable[[int], None] = lambda epoch: None, **options: Any
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
                tell(batch.meta.epoch)
            epoch = dataset.state_dict()["epoch"]


def _in_process(
    ends: Connection, urls: Sequence[str], directory: Path, epochs: int, options: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    train(urls, directory, epochs, ends.send, **options)


@dataclass
class Trainer:
    """`train` as a process that is killed and started again.

    Processes are forked from one that has imported torch already, so that a start costs milliseconds.
    """

    urls: Sequence[str]
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    """The one that the latest batch was of."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faults.trainer"])
        self._progress: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self, epochs: int = 1 << 30) -> None:
        """Start (again), to read to the end of `epochs` epochs."""
        self._progress, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=_in_process, args=(theirs, self.urls, self.directory, epochs, self.options), daemon=True
        )
        self._process.start()
        theirs.close()

    def advance(self, batches: int) -> None:
        """Wait until it has trained on so many more."""
        assert self._progress is not None
        for _ in range(batches):
            assert self._progress.poll(PATIENCE_S), f"no batch for {PATIENCE_S:g} s"
            self.epoch = self._progress.recv()

    def drain(self) -> int:
        """Take note of what it has trained on; returns how many batches those were."""
        assert self._progress is not None
        count = 0
        while self._progress.poll():
            self.epoch = self._progress.recv()
            count += 1
        return count

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None and self._progress is not None:
            self._process.kill()
            self._process.join()
            self._progress.close()
            self._process.close()
            self._process = None

    def finish(self, epochs: int) -> list[str]:
        """Kill it, start it a last time, let it read to the end of `epochs` epochs; returns the whole log."""
        self.kill()
        self.start(epochs)
        assert self._process is not None
        while self._process.exitcode is None:
            self._process.join(0.05)
            try:
                self.drain()
            except EOFError:
                self._process.join(PATIENCE_S)
        assert self._process.exitcode == 0, f"the trainer ended with {self._process.exitcode}"
        self.kill()
        return (self.directory / "log").read_text().splitlines()
