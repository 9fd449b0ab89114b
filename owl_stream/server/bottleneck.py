"""What holds a server back, and what to do about it: from the seconds that it counts anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from owl_stream.assemble import STAGES

_REMEDIES = {
    "read": "put the shards on faster storage",
    "cache": "put the cache on a faster disk",
    "decode": "let it keep pixels (`server.cache`)",
    "resize": "let it keep pixels (`server.cache`)",
}


@dataclass(frozen=True)
class Bottleneck:
    """The dearest stage of a server that its readers wait for, and its share of the workers' time."""

    stage: str
    share: float
    workers: int

    def advice(self, samples_per_s: float, needed: float | None = None) -> str:
        """One sentence. `needed` is the rate, in samples a second, that would keep the accelerators busy."""
        found = (
            f"{self.stage}-bound: {_count(self.workers, 'worker')} feed {samples_per_s:.0f} samples/s, "
            f"{self.share:.0%} of the time goes into {self.stage}"
        )
        remedy = f", or {_REMEDIES[self.stage]}" if self.stage in _REMEDIES else ""
        if needed is None:
            return f"{found}: add cores{remedy}."
        if samples_per_s >= needed:
            return f"{found}; that is enough for the {needed:.0f} you need."
        more = math.ceil(self.workers * (needed / max(samples_per_s, 1e-9) - 1))
        return f"{found}; you need {needed:.0f}: add {_count(more, 'core')}{remedy}."


def find_bottleneck(seconds: Mapping[str, float], workers: int) -> Bottleneck | None:
    """Of workers that spent so many seconds in each stage; None while they have done nothing."""
    stages = {stage: seconds.get(stage, 0.0) for stage in STAGES}  # none else: waiting is counted there too
    total = sum(stages.values())
    if total <= 0:
        return None
    dearest = max(STAGES, key=lambda stage: stages[stage])
    return Bottleneck(dearest, stages[dearest] / total, workers)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
