"""What a trainer was given, written down batch by batch: so that two runs can be compared and a lost row be missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from owl_stream.wire import RowInfo


@dataclass(frozen=True)
class Skipped:
    """A sample whose row was masked, and why."""

    shard: str
    key: str
    reason: str


@dataclass
class Ledger:
    """Counts and a digest over everything that was delivered.

    `samples` counts, per (epoch, shard, key), rows that were delivered or masked; `statuses` counts rows.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    samples: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    skipped: set[Skipped] = field(default_factory=set)
    attended_tokens: int = 0
    all_tokens: int = 0
    _digest: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)

    def write(self, batch: Mapping[str, Any], meta: Any) -> None:
        """Enter one batch: its place, its rows and every byte of its tensors."""
        rows: tuple[RowInfo, ...] = tuple(meta.rows)
        self._digest.update(
            repr((meta.epoch, meta.step, meta.micro, [(r.shard, r.key, r.status) for r in rows])).encode()
        )
        for name in sorted(batch):
            self._digest.update(name.encode())
            for array in _arrays(batch[name]):
                self._digest.update(np.ascontiguousarray(array).data)
        for row, mask in zip(rows, np.asarray(batch["attention_mask"]), strict=True):
            self._write_row(meta.epoch, row, mask)

    @property
    def order_hash(self) -> str:
        """16 hex digits; equal exactly if the same batches came in the same order."""
        return self._digest.hexdigest()

    @property
    def padding_efficiency(self) -> float:
        """Attended tokens per token, filler rows left out."""
        return self.attended_tokens / max(self.all_tokens, 1)

    def _write_row(self, epoch: int, row: RowInfo, mask: np.ndarray[Any, Any]) -> None:
        self.statuses[row.status] += 1
        if row.status == "filler":
            return
        self.attended_tokens += int(mask.sum())
        self.all_tokens += len(mask)
        if row.status == "ok":
            self.samples[epoch, row.shard, row.key] += 1
        elif row.status == "masked":
            self._skip(epoch, Skipped(row.shard, row.key, row.reason))
        elif row.replaces is not None:
            self._skip(epoch, Skipped(*row.replaces, row.reason))

    def _skip(self, epoch: int, skipped: Skipped) -> None:
        self.samples[epoch, skipped.shard, skipped.key] += 1
        self.skipped.add(skipped)


def _arrays(value: Any) -> Iterable[np.ndarray[Any, Any]]:
    """The arrays of a tensor, or of a list of tensors (241101's `media_offset`)."""
    return [np.asarray(part) for part in value] if isinstance(value, list | tuple) else [np.asarray(value)]
