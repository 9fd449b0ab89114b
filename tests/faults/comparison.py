"""How what a reader was given differs from what an undisturbed one was given, counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Place = tuple[int, int, int]


@dataclass(frozen=True)
class Differences:
    """All are 0 where the promise was kept."""

    missing: int
    duplicated: int
    reordered: int
    mismatched: int

    @property
    def none(self) -> bool:
        """Whether there is no difference."""
        return self == Differences(0, 0, 0, 0)

    def __add__(self, other: Differences) -> Differences:
        return Differences(
            self.missing + other.missing,
            self.duplicated + other.duplicated,
            self.reordered + other.reordered,
            self.mismatched + other.mismatched,
        )

    def __str__(self) -> str:
        return (
            f"missing {self.missing}, duplicated {self.duplicated}, reordered {self.reordered}, "
            f"hash mismatches {self.mismatched}"
        )


def compare(expected: Sequence[str], got: Sequence[str]) -> Differences:
    """Compare lines as `batch_line` writes them: epoch, step, micro and a digest. `expected` is in order, each once."""
    digests = dict(_placed(line) for line in expected)
    placed = [_placed(line) for line in got]
    times = Counter(place for place, _ in placed)
    return Differences(
        missing=len(digests.keys() - times.keys()),
        duplicated=sum(count - 1 for count in times.values()),
        reordered=sum(after < before for (before, _), (after, _) in pairwise(placed)),
        mismatched=sum(digests.get(place) != digest for place, digest in placed),
    )


def _placed(line: str) -> tuple[Place, str]:
    epoch, step, micro, digest = line.split()
    return (int(epoch), int(step), int(micro)), digest
