"""What an examination finds, and what there is to examine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from owl_client.connection import Tls, Token
from owl_stream.errors import ConfigError

Verdict = Literal["ok", "note", "fault"]
"""`fault`: training, or what is used beside it, fails, is wrong or waits. `note`: good to know; it works."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `check`: its name; `said`: what was seen; `remedy`: what would mend it."""

    check: str
    verdict: Verdict
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Case:
    """What a trainer would be given.

    `url`: the server's address. `dataset`: its name; None where the server has one only. `state`: a checkpoint with the
    state of the data in it. `world_size` and `micro_batch_size` as in `OwlStreamDataset`. `needs`: samples a second
    that would keep the accelerators busy. `seconds`: how long to read batches; 0 reads none.

    Raises:
        ConfigError: `seconds` or `needs` are no such numbers.
    """

    url: str
    dataset: str | None = None
    token: Token | None = None
    tls: Tls = Tls()  # noqa: RUF009 # frozen
    state: Path | None = None
    world_size: int | None = None
    micro_batch_size: int | None = None
    needs: float | None = None
    seconds: float = 7.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ConfigError(f"seconds: expected a number from 0, got {self.seconds}")
        if self.needs is not None and not (math.isfinite(self.needs) and self.needs > 0):
            raise ConfigError(f"needs: expected samples a second above 0, got {self.needs}")
