"""The state of the data in a checkpoint, whichever trainer wrote it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from owl_client.state import State
from owl_client.transport import Description
from owl_stream.errors import ConfigError

_KEYS = frozenset({"version", "fingerprint", "components", "epoch", "step", "micro"})
_IN_DIRECTORIES = (
    "trainer_state.json",
    "data.json",
    "custom_checkpoint_*.pkl",
    "mp_rank_00_model_states.pt",
    "*/mp_rank_00_model_states.pt",
    "last.ckpt",
    "*.ckpt",
)
"""Files in which trainers keep it: Hugging Face's, `examples/fsdp2.py`, Accelerate, DeepSpeed, Lightning."""
_TEXT_BYTES = 64 << 20
_DEEPEST = 8


def read_state(path: Path, description: Description) -> tuple[Path, State]:
    """The file and the state in it: of a JSON file, of what `torch.save` wrote, or of a checkpoint's directory.

    Of several states that of the described dataset. Tensors are not read, and nothing of the file is run.

    Raises:
        ConfigError: there is no such file, it cannot be read, or no state of the data is in it.
        OwlStreamError: the state is damaged.
    """
    files, errors = _files(path), []
    for file in files:
        try:
            found = list(_states(_content(file), _DEEPEST))
        except ConfigError as exc:
            errors.append(str(exc))
            continue
        if found:
            fitting = [each for each in found if each.get("fingerprint") == description.fingerprint]
            named = [each for each in found if each.get("dataset") == description.name]
            return file, State.from_dict((fitting or named or found)[0])
    if errors:
        raise ConfigError("; ".join(errors))
    looked = f"in {', '.join(file.name for file in files)}" if files else f"and none of {', '.join(_IN_DIRECTORIES)}"
    raise ConfigError(
        f"{path}: expected a checkpoint with the state of the data in it (`dataset.state_dict()`), got none {looked}; "
        f"name the file that your trainer keeps it in"
    )


def _files(path: Path) -> list[Path]:
    """Where to look, the likeliest first; of Lightning's checkpoints the newest.

    Raises:
        ConfigError: it is neither a file nor a directory.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            found = [sorted(path.glob(name), key=lambda file: -file.stat().st_mtime) for name in _IN_DIRECTORIES]
            return list(dict.fromkeys(file for files in found for file in files if file.is_file()))
    except OSError as exc:
        raise ConfigError(f"{str(path)[:200]}: expected a checkpoint: {exc.strerror}") from exc
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: expected a file or a directory, got something else")
    return [path]


def _content(file: Path) -> Any:
    try:
        if file.suffix == ".json" and file.stat().st_size <= _TEXT_BYTES:
            return json.loads(file.read_bytes())
        try:
            return torch.load(file, map_location="meta", weights_only=True, mmap=True)
        except RuntimeError as exc:
            if "mmap" not in str(exc):
                raise
            return torch.load(file, map_location="meta", weights_only=True)  # of torch before 1.6
    except Exception as exc:  # damaged files end in errors of any kind
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else _words(exc)
        raise ConfigError(
            f"{file}: expected JSON, or what torch.save wrote of plain values and tensors: {why}"
        ) from exc


def _words(exc: Exception) -> str:
    """An error's own words, on one line; torch has the cause behind its advice, and colours."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", f"{type(exc).__name__}: {exc}")
    _, cause, rest = plain.partition("WeightsUnpickler error: ")
    return " ".join((rest if cause else plain).split())[:200]


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
