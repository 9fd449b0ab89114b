"""Ourselves: `owl-stream serve` as a process of its own, and `OwlStreamDataset` reading it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
import yaml

from benchmarks.contender import ROOT, Feed, Read
from benchmarks.workload import Workload
from owl_client import OwlStreamDataset


class Service:
    """A server over a workload, ready when the `with` block begins. `server` and `dataset` override settings."""

    def __init__(self, workload: Workload, server: dict[str, Any] | None = None, **dataset: Any) -> None:
        self._home = workload.directory / f"server-{os.getpid()}-{id(self):x}"
        self._config = {
            "server": {"port": 0, "idle_timeout_s": 3600, **(server or {})},
            "datasets": {
                "train": {
                    **workload.settings,
                    "global_batch_size": workload.rows,
                    **dataset,
                }
            },
        }

    def __enter__(self) -> Service:
        self._home.mkdir(parents=True, exist_ok=True)
        config = self._home / "owl-stream.yaml"
        config.write_text(yaml.safe_dump(self._config))
        root = os.environ.get("OWL_BENCH_ROOT", str(ROOT))  # another checkout, to compare with
        command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(config)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=(self._home / "log").open("wb"),
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.url = self._say(r"listens on (\S+)")
        self._say("ready:")
        self.ready_at = time.perf_counter()
        return self

    @property
    def pid(self) -> int:
        """Of the server; its workers are its children."""
        return self.process.pid

    def dataset(self, dtype: torch.dtype = torch.uint8, **options: Any) -> OwlStreamDataset:
        """A reader, of raw pixels if nothing else is said."""
        return OwlStreamDataset(self.url, dtype=dtype, **options)

    def _say(self, pattern: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(pattern, line):
                return found[1] if found.groups() else line
        raise RuntimeError(f"the server ended:\n{(self._home / 'log').read_text()[-2000:]}")

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)
        for path in sorted(self._home.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self._home.rmdir()


def endless(dataset: OwlStreamDataset) -> Iterator[Read]:
    """Epoch after epoch, as a trainer reads."""
    while True:
        for batch in dataset:
            nbytes = sum(tensor.nbytes for tensor in batch.values())
            yield Read(len(batch.meta.rows), nbytes)


def service(workload: Workload, stack: ExitStack, dtype: torch.dtype = torch.uint8, **options: Any) -> Feed:
    """End to end."""
    running = stack.enter_context(Service(workload, **options))
    return Feed(endless(running.dataset(dtype)), remote=(running.pid,))
