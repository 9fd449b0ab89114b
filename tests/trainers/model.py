"""Tiny Owl as a trainer library wants it, and the log of what it was trained on."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from owl_client import BatchMeta

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from tiny_owl3 import TinyOwl3

VOCABULARY = 512


class Model(nn.Module):
    """Tiny Owl at its tiniest, answering with a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.owl = TinyOwl3(VOCABULARY, hidden=16, layers=2, heads=2, hyper_layers=(1,))

    def forward(self, **batch: Any) -> dict[str, Any]:
        """The loss and the logits."""
        output = self.owl(**batch)
        return {"loss": output.loss, "logits": output.logits}


class Log:
    """One line per micro-batch that is trained on; at `kill_at` the process dies before its line is written."""

    def __init__(self, directory: Path, kill_at: tuple[int, int] | None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._path, self._kill_at = directory / f"rows.{os.getpid()}", kill_at

    def note(self, meta: BatchMeta) -> None:
        """Called with what is about to be trained on."""
        if (meta.epoch, meta.step) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rows = [(row.shard, row.key, row.status) for row in meta.rows]
        with self._path.open("a") as lines:
            lines.write(json.dumps([meta.epoch, meta.step, rows]) + "\n")


def steps_of(directory: Path) -> dict[tuple[int, int], list[list[str]]]:
    """What all processes that logged here were trained on, by global step."""
    steps: dict[tuple[int, int], list[list[str]]] = {}
    for path in directory.glob("rows.*"):
        for line in path.read_text().splitlines():
            epoch, step, rows = json.loads(line)
            steps.setdefault((epoch, step), []).extend(rows)
    return {step: sorted(rows) for step, rows in steps.items()}
