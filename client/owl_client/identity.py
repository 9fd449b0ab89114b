"""Who we are among the trainer's processes: rank and world size of the *data-parallel* group."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch.distributed

from owl_client.transport import Share
from owl_stream.errors import ConfigError, RequestError


def resolve_rank(rank: int | None, world_size: int | None, environ: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, world size): as given, else of `torch.distributed`, else RANK and WORLD_SIZE, else (0, 1).

    Raises:
        ConfigError: only one of the two is there, or one is no number.
        RequestError: the rank is not below the world size.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank and world_size: expected both or neither, got {rank} and {world_size}")
    if rank is not None and world_size is not None:
        return _checked(rank, world_size)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return _checked(torch.distributed.get_rank(), torch.distributed.get_world_size())
    environ = os.environ if environ is None else environ
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return 0, 1
    return _checked(_number(environ, "RANK"), _number(environ, "WORLD_SIZE"))


def resolve_share(rank: int, world_size: int, micro_batch_size: int | None, global_batch_size: int) -> Share:
    """The share of a global step of G rows; without a micro-batch size a rank gets its G / W rows at once.

    Raises:
        RequestError: world size times micro-batch size does not divide G; the message names valid values.
    """
    if global_batch_size % world_size:
        valid = ", ".join(str(n) for n in _divisors(global_batch_size))
        raise RequestError(
            f"world_size {world_size} does not divide the global batch of {global_batch_size}; valid: {valid}"
        )
    rows = global_batch_size // world_size
    wanted = rows if micro_batch_size is None else micro_batch_size
    if wanted < 1 or rows % wanted:
        valid = ", ".join(str(n) for n in _divisors(rows))
        raise RequestError(
            f"micro_batch_size {wanted} does not divide the {rows} rows that each of {world_size} ranks gets of a "
            f"global batch of {global_batch_size}; valid: {valid}"
        )
    return Share(rank, world_size, wanted)


def _checked(rank: int, world_size: int) -> tuple[int, int]:
    if not 0 <= rank < world_size:
        raise RequestError(f"rank: expected 0 to {world_size - 1} for world size {world_size}, got {rank}")
    return rank, world_size


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name)
    if text is None:
        raise ConfigError(f"environment: {name} is missing, its partner is set; set both or pass rank and world_size")
    try:
        return int(text)
    except ValueError as exc:
        raise ConfigError(f"environment: expected a whole number in {name}, got {text!r}") from exc


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
