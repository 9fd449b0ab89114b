"""The state of the data in a checkpoint, whichever trainer wrote it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from owl_client.state import State
from owl_stream.errors import ConfigError

_KEYS = frozenset({"version", "fingerprint", "components", "epoch", "step", "micro"})
_TRAINER_STATE = "trainer_state.json"
"""What Hugging Face's Trainer writes into every checkpoint's directory."""
_TEXT_BYTES = 64 << 20
_DEEPEST = 8


def read_state(path: Path) -> State:
    """The state in a JSON file, in what `torch.save` wrote, or in the directory of a Trainer's checkpoint.

    Tensors are not read, and nothing of the file is run.

    Raises:
        ConfigError: there is no such file, it cannot be read, or no state of the data is in it.
        OwlStreamError: the state is damaged.
    """
    file = path / _TRAINER_STATE if path.is_dir() else path
    found = list(_states(_content(file), _DEEPEST))
    if not found:
        raise ConfigError(
            f"{file}: expected a checkpoint with the state of the data in it (`dataset.state_dict()`), got none; name "
            f"the file that your trainer keeps it in"
        )
    return State.from_dict(found[0])


def _content(file: Path) -> Any:
    try:
        if file.suffix == ".json" and file.stat().st_size <= _TEXT_BYTES:
            return json.loads(file.read_bytes())
        return torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except (OSError, ValueError, RecursionError, RuntimeError, pickle.UnpicklingError, EOFError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc).partition("\n")[0]
        raise ConfigError(
            f"{file}: expected JSON, or what torch.save wrote of plain values and tensors, got: {why:.200}"
        ) from exc


def _states(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Every state in nested dicts and lists, outermost first."""
    if not depth:
        return
    if isinstance(value, Mapping):
        if value.keys() >= _KEYS:
            yield value
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            if isinstance(each, Mapping | list | tuple):
                yield from _states(each, depth - 1)
