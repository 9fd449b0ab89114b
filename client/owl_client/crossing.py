"""How a batch leaves a DataLoader worker: through shared memory, of which a container may have very little.

torch would move the tensors there in a thread of its queue, which only prints what goes wrong: the trainer would wait
for that batch for ever. So they are moved before, where an error reaches the trainer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.resource_sharer import DupFd
from typing import Any

import torch
import torch.multiprocessing

from owl_stream.errors import ConfigError

PLACE = "/dev/shm"
"""Where Linux keeps shared memory that has a name, which is how torch makes it."""


def share(tensors: Mapping[str, Any]) -> None:
    """Move tensors, and those in lists, to shared memory, in place.

    Raises:
        ConfigError: there is none, or too little.
    """
    parts = [part for value in tensors.values() for part in (value if isinstance(value, list) else [value])]
    moving = [part for part in parts if part.numel() and not part.is_shared()]
    nbytes = sum(part.nbytes for part in moving)
    _check_sender()
    try:
        for part in moving:
            part.share_memory_()
    except RuntimeError as exc:
        raise no_room(f"a batch of {nbytes} bytes", exc) from exc


@cache
def _check_sender() -> None:
    """Begin to listen where descriptors are fetched, once a process: torch's queue would only print that it cannot.

    Raises:
        ConfigError: the socket for it cannot be made.
    """
    strategy = torch.multiprocessing.get_sharing_strategy()  # type: ignore[no-untyped-call] # torch leaves it untyped
    if strategy != "file_descriptor":
        return
    reading, writing = os.pipe()
    try:
        DupFd(reading)
    except OSError as exc:
        raise ConfigError(
            f"DataLoader worker: no socket below {tempfile.gettempdir()} to hand batches over: {exc}; set TMPDIR to a "
            f"short path (at most 60 characters) that can be written to, or use num_workers=0: batches are received in "
            f"a thread anyway"
        ) from exc
    finally:
        os.close(reading)
        os.close(writing)


def share_cells(cells: torch.Tensor) -> bool:
    """Move a small tensor to shared memory, in place; returns whether there was room. Only workers need it there."""
    with suppress(RuntimeError):
        cells.share_memory_()  # type: ignore[no-untyped-call] # torch leaves it untyped
    return bool(cells.is_shared())  # type: ignore[no-untyped-call] # torch leaves it untyped


def no_room(what: str, reason: object = "") -> ConfigError:
    """The error that says what did not fit into shared memory, how much there is, and what to do."""
    told = f": {reason}" if reason else ""
    return ConfigError(
        f"DataLoader worker: {PLACE}, {_left()}: no room for {what}{told}; mount a larger one (docker: --shm-size=8g; "
        f"a loader keeps prefetch_factor batches of every worker there), or use num_workers=0: batches are received in "
        f"a thread anyway"
    )


def _left() -> str:
    try:
        found = os.statvfs(PLACE)
    except OSError as exc:
        return f"which cannot be used ({exc.strerror})"
    free, whole = (blocks * found.f_frsize for blocks in (found.f_bavail, found.f_blocks))
    return f"with {free} bytes free of {whole}" if whole else "without a limit of its own"
