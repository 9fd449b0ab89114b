"""The truth about a run, from the plan alone: which samples a global step holds, and which batch must come next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from owl_client import Batch
from owl_stream.wire import Cursor, RowInfo

Keys = Callable[[int, int], Sequence[str]]
"""The plan: (epoch, step) -> keys of the samples in that global step, each once."""


class BrokenPromiseError(AssertionError):
    """What was yielded is not what the plan says."""


@dataclass
class Trained:
    """What a trainer has done and not lost: steps that are whole, and the beginning of one that is not."""

    cursor: Cursor = field(default_factory=lambda: Cursor(0, 0, 0))
    steps: list[tuple[int, int]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Trained:
        """As it is now, for a checkpoint."""
        return Trained(self.cursor, list(self.steps), Counter(self.seen))


def sample_of(row: RowInfo) -> str:
    """The key of the planned sample that a row stands for; empty for a filler or a row in a filler's place."""
    if row.status == "repeated":
        return row.replaces[1] if row.replaces else ""
    return "" if row.status == "filler" else row.key


class Oracle:
    """Follows all ranks of a run in step. Knows the plan and what was read; nothing of servers, bytes or faults."""

    def __init__(self, steps_per_epoch: int, keys: Keys) -> None:
        self._steps_per_epoch, self._keys = steps_per_epoch, keys
        self.trained = Trained()

    def read(self, batches: Sequence[Batch], micros: int) -> None:
        """Every rank has been given one micro-batch, of `micros` a step.

        Raises:
            BrokenPromiseError: it is not the next one, or its step holds other samples than planned.
        """
        now = self.trained
        for rank, batch in enumerate(batches):
            meta = batch.meta
            place = (Cursor(meta.epoch, meta.step, meta.micro), meta.rank, meta.world_size)
            if place != (now.cursor, rank, len(batches)):
                raise BrokenPromiseError(f"expected {now.cursor} of rank {rank}, got {place}")
            now.seen.update(sample for row in meta.rows if (sample := sample_of(row)))
        if now.cursor.micro == micros - 1:
            self._whole_step()
        now.cursor = now.cursor.after(self._steps_per_epoch, micros)

    def end_of_epoch(self, epoch: int) -> None:
        """Every rank was told that `epoch` has ended.

        Raises:
            BrokenPromiseError: it has not.
        """
        if self.trained.cursor != Cursor(epoch + 1, 0, 0):
            raise BrokenPromiseError(f"epoch {epoch} was said to have ended, at {self.trained.cursor}")

    def check(self) -> None:
        """The steps trained on are all there are up to now, in order.

        Raises:
            BrokenPromiseError: one is missing, doubled or out of order.
        """
        count = self.trained.cursor.epoch * self._steps_per_epoch + self.trained.cursor.step
        expected = [divmod(number, self._steps_per_epoch) for number in range(count)]
        if self.trained.steps != expected:
            raise BrokenPromiseError(f"expected the steps {expected}, got {self.trained.steps}")

    def _whole_step(self) -> None:
        now = self.trained
        planned = Counter(self._keys(now.cursor.epoch, now.cursor.step))
        if now.seen != planned:
            raise BrokenPromiseError(
                f"step {now.cursor}: expected {sorted(planned)}, got {sorted(now.seen.elements())}"
            )
        now.steps.append((now.cursor.epoch, now.cursor.step))
        now.seen.clear()
