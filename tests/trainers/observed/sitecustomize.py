"""Python runs this as it starts, where this folder is on its path: notes what a process trains on, and kills it.

So the examples are started as people start them, by the launchers of each library. OWL_OBSERVED_ROWS is a directory for
the log; OWL_OBSERVED_KILL is the epoch and step at which the process dies, "0 5".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any


def observe(batch_module: ModuleType) -> None:
    """Every trainer asks `step_loss` of each batch that it trains on, once."""
    directory, kill_at = Path(os.environ["OWL_OBSERVED_ROWS"]), os.environ.get("OWL_OBSERVED_KILL", "")
    directory.mkdir(parents=True, exist_ok=True)
    step_loss = batch_module.Batch.step_loss

    def noted(batch: Any, mean_loss: Any, trainer: Any = None) -> Any:
        meta = batch.meta
        if f"{meta.epoch} {meta.step}" == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = step_loss(batch, mean_loss).item() / meta.world_size
        rows = [(row.shard, row.key, row.status) for row in meta.rows]
        with (directory / f"rows.{os.getpid()}").open("a") as lines:
            lines.write(json.dumps([meta.epoch, meta.step, rows, loss]) + "\n")
        return step_loss(batch, mean_loss, trainer)

    batch_module.Batch.step_loss = noted


def cpu_for_fsdp(state_module: ModuleType) -> None:
    """Accelerate puts a model under FSDP on accelerators only. Here CPUs and gloo pass for some."""
    import torch

    kinds = state_module.DistributedType
    state_module.PartialState._prepare_backend = lambda *_, **__: ("gloo", kinds.MULTI_XPU)

    def set_device(state: Any) -> None:
        state.device = torch.device("cpu")

    state_module.PartialState.set_device = set_device


class _Watch(MetaPathFinder, Loader):
    """Changes a module right after it was imported."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name, self._change = name, change
        self._loader: Any = None

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Of the one module."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        assert spec is not None
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As its own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As its own loader, then the change."""
        self._loader.exec_module(module)
        self._change(module)


if "OWL_OBSERVED_ROWS" in os.environ:
    sys.meta_path.insert(0, _Watch("owl_client.batch", observe))
    if "OWL_OBSERVED_FSDP" in os.environ:
        sys.meta_path.insert(0, _Watch("accelerate.state", cpu_for_fsdp))
