"""How a whole number is distributed over samples: a summary in one line, and bars of characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS, WIDTH = 12, 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Bin:
    """How many samples have `low` <= value <= `high`."""

    low: int
    high: int
    samples: int


class Distribution:
    """Counts samples by value, chunk by chunk; memory grows with the largest value, not with the samples."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, values: NDArray[np.int64]) -> None:
        """Count more samples: int64 [n], from 0."""
        counts = np.bincount(values, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    @property
    def samples(self) -> int:
        """How many were counted."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return float(np.arange(len(self._counts)) @ self._counts) / max(self.samples, 1)

    def at_most(self, share: float) -> int:
        """The smallest value that at least this share of the samples (0 to 1) does not exceed; 0 of none."""
        if not self.samples:
            return 0
        return int(np.searchsorted(np.cumsum(self._counts), max(1.0, share * self.samples - 1e-9)))

    def bins(self) -> list[Bin]:
        """From the first to the last value that occurs, in at most BINS bins of a round width."""
        if not self.samples:
            return []
        present = np.flatnonzero(self._counts)
        first, last = int(present[0]), int(present[-1])
        width = next(width for width in _round_widths() if last // width - first // width < BINS)
        starts = range(first // width * width, last + 1, width)
        return [Bin(low, low + width - 1, int(self._counts[low : low + width].sum())) for low in starts]

    def describe(self) -> dict[str, object]:
        """Summary and bins, ready for JSON."""
        return {
            "samples": self.samples,
            "min": self.at_most(0),
            "mean": round(self.mean, 2),
            "median": self.at_most(0.5),
            "p99": self.at_most(0.99),
            "max": self.at_most(1),
            "bins": [[bin.low, bin.high, bin.samples] for bin in self.bins()],
        }

    def lines(self, name: str) -> Iterator[str]:
        """Summary and bars, for a terminal."""
        yield (
            f"{name}: {self.at_most(0)} to {self.at_most(1)}, mean {self.mean:.1f}, median {self.at_most(0.5)}, "
            f"99 % have at most {self.at_most(0.99)}"
        )
        bins = self.bins()
        digits = len(str(bins[-1].high)) if bins else 0
        tallest = max((bin.samples for bin in bins), default=0)
        for bin in bins:
            label = f"{bin.low:>{digits}}" if bin.low == bin.high else f"{bin.low:>{digits}} - {bin.high:>{digits}}"
            yield f"  {label} |{_bar(bin.samples / tallest):<{WIDTH}} {bin.samples}"


def _round_widths() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _bar(share: float) -> str:
    """A bar of `share` * WIDTH characters, to an eighth; what is not nothing shows."""
    eighths = max(round(share * WIDTH * 8), 1 if share else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
