"""What reading costs a trainer and what it brings, as numbers for the trainer's own log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from owl_client.batch import Batch
from owl_stream.wire import Status

PREFIX = "owl/"
"""Of every name, so that loggers show them side by side."""
SLOWER_FROM = 0.02
"""The share of its time that a trainer waits from which on the loader is called the slower side."""


@dataclass
class Trained:
    """Sums over batches. `padded_tokens`: rows times the longest row, which a model computes on."""

    batches: int = 0
    rows: Counter[Status] = field(default_factory=Counter)
    attended_tokens: int = 0
    padded_tokens: int = 0
    vision_tokens: int = 0

    def add(self, batch: Batch) -> None:
        """Count one batch."""
        meta = batch.meta
        self.batches += 1
        for row in meta.rows:  # `update` would first look at length what it has been given
            self.rows[row.status] += 1
        self.attended_tokens += meta.attended_tokens
        self.padded_tokens += batch["input_ids"].numel()
        self.vision_tokens += meta.vision_tokens

    def copy(self) -> Trained:
        """The sums as they are now."""
        return Trained(self.batches, Counter(self.rows), self.attended_tokens, self.padded_tokens, self.vision_tokens)


class ReadingMetrics:
    """What was read and waited for between two looks, on this rank.

    Args:
        trained: sums that somebody adds to.
        waited_s: how long the trainer has waited for batches, in all.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, trained: Trained, waited_s: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._trained, self._waited_s, self._clock = trained, waited_s, clock
        self._before, self._waited_before, self._looked_at = trained.copy(), waited_s(), clock()

    def look(self, micros_per_step: int) -> dict[str, float]:
        """Numbers since the last look by name, as `wandb.log` takes them; none where no batch came.

        Of names: `wait_s_per_step`, seconds; `wait_share`, of the time; `loader_is_slower`, 1 where that is above 2 %;
        `samples_per_s`, good rows; `tokens_per_s` and `vision_tokens_per_s`; `padding_share`, of the tokens that a
        model computes on; `masked_rows`, `filler_rows`.
        """
        now, at, waited = self._trained.copy(), self._clock(), self._waited_s()
        before, seconds = self._before, max(at - self._looked_at, 1e-9)
        batches = now.batches - before.batches
        if not batches:
            return {}
        wait_s = waited - self._waited_before
        self._before, self._waited_before, self._looked_at = now, waited, at
        rows = now.rows - before.rows
        attended, padded = now.attended_tokens - before.attended_tokens, now.padded_tokens - before.padded_tokens
        found = {
            "wait_s_per_step": wait_s / batches * micros_per_step,
            "wait_share": wait_s / seconds,
            "loader_is_slower": float(wait_s / seconds > SLOWER_FROM),
            "samples_per_s": (rows["ok"] + rows["repeated"]) / seconds,
            "tokens_per_s": attended / seconds,
            "vision_tokens_per_s": (now.vision_tokens - before.vision_tokens) / seconds,
            "padding_share": 1 - attended / padded if padded else 0.0,
            "masked_rows": float(rows["masked"]),
            "filler_rows": float(rows["filler"]),
        }
        return {PREFIX + name: value for name, value in found.items()}
