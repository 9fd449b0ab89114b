"""What the demo promises, and whether two runs through the same data kept it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from owl_stream.demo.dataset import CORRUPT_KEY, Place
from owl_stream.demo.ledger import Ledger

LOSS_MUST_FALL_TO = 0.75
LOSS_STEPS = 5
"""The first and last loss are means over this many steps: one step's loss depends on which samples it holds."""


@dataclass(frozen=True)
class Run:
    """One way through all epochs: what came, in how many seconds, after how many reconnects.

    `losses` holds the mean loss of every global step if a model was trained, else nothing.
    """

    ledger: Ledger
    seconds: float
    reconnects: int = 0
    losses: Sequence[float] = ()

    @property
    def samples_per_second(self) -> float:
        """Samples delivered or skipped per second, fillers and repeats left out."""
        return self.ledger.samples.total() / self.seconds


@dataclass(frozen=True)
class Promise:
    """One thing that the demo shows, and whether it held."""

    text: str
    held: bool


def judge(places: Sequence[Place], epochs: int, undisturbed: Run, trained: Run) -> list[Promise]:
    """What the demo promises, held against the members of the shards as `tarfile` reads them."""
    expected = {(epoch, place.key) for epoch in range(epochs) for place in places}
    delivered: Counter[tuple[int, str]] = Counter()
    for (epoch, _, key), count in trained.ledger.samples.items():
        delivered[epoch, key] += count
    corrupt = next(p for p in places if p.key == CORRUPT_KEY and not p.member.endswith(".json"))
    skipped = list(trained.ledger.skipped)
    named = [(Path(s.shard).name, s.key) for s in skipped] == [(corrupt.shard, CORRUPT_KEY)]
    where = f"{corrupt.member} @ {corrupt.offset}"
    first, last = first_and_last(trained.losses)
    return [
        Promise("every sample was delivered or skipped exactly once per epoch", delivered == Counter(expected)),
        Promise("the client noticed that its server was killed, and came back", trained.reconnects > 0),
        Promise(
            "the run whose server was killed got the same batches in the same order",
            trained.ledger.order_hash == undisturbed.ledger.order_hash,
        ),
        Promise(
            f"exactly the corrupt sample was skipped, and named: {corrupt.shard}, {CORRUPT_KEY}, {where}",
            named and where in skipped[0].reason,
        ),
        Promise(f"the loss fell below {LOSS_MUST_FALL_TO:.0%} of where it began", last < LOSS_MUST_FALL_TO * first),
    ]


def first_and_last(losses: Sequence[float]) -> tuple[float, float]:
    """Means over the first and the last LOSS_STEPS global steps."""
    return fmean(losses[:LOSS_STEPS]), fmean(losses[-LOSS_STEPS:])
