"""The weights of the cost model, from what batches really cost a trainer.

A batch is taken to cost `fixed + text * padded text tokens + vision * vision tokens` seconds. Dealing compares ranks
that run equally many batches, so it needs the ratio of the last two alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import DataError

LEAST_BATCHES = 16
"""Fewer say more about the machine's mood than about the model."""

_SCALE = 1000
"""What the larger of both weights becomes: whole numbers that leave the ratio within a thousandth."""
_ROUNDS = 30
_SAME = 1e-3
"""Relative size of the least singular value below which two columns tell the same."""


@dataclass(frozen=True)
class StepTime:
    """One micro-batch as a trainer ran it: padded text tokens, vision tokens, seconds."""

    text_tokens: int
    vision_tokens: int
    seconds: float


@dataclass(frozen=True)
class CostFit:
    """Seconds a batch and a token, and how far off the model is: the median of |error| / seconds.

    `even_error` is the same for equal weights, each with the best scale.
    """

    fixed_s: float
    text_s: float
    vision_s: float
    error: float
    even_error: float

    @property
    def text_token_cost(self) -> int:
        """For the data set's settings."""
        return round(self.text_s / max(self.text_s, self.vision_s) * _SCALE)

    @property
    def vision_token_cost(self) -> int:
        """For the data set's settings."""
        return round(self.vision_s / max(self.text_s, self.vision_s) * _SCALE)


def fit_costs(times: Sequence[StepTime]) -> CostFit:
    """Find the weights with the least sum of absolute errors, none of them negative.

    Absolute, not squared: a first batch that compiles kernels and one that met a busy machine must not decide.

    Raises:
        DataError: too few batches, or batches so alike that they cannot tell text from vision.
    """
    if len(times) < LEAST_BATCHES:
        raise DataError(f"expected the times of at least {LEAST_BATCHES} batches, got {len(times)}: record some more")
    seconds = np.array([time.seconds for time in times])
    text = np.array([time.text_tokens for time in times], dtype=np.float64)
    vision = np.array([time.vision_tokens for time in times], dtype=np.float64)
    both = _columns(text, vision)
    if np.linalg.svd(both / np.maximum(np.linalg.norm(both, axis=0), 1e-300), compute_uv=False)[-1] < _SAME:
        raise DataError(
            f"expected batches that differ in text and in vision tokens, got {len(times)} in which one follows from "
            f"the other: record batches of several lengths, with many and with few pictures"
        )
    candidates = [_fit(both, seconds, used) for used in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [1], [2])]
    allowed = [each for each in candidates if each.min() >= 0 and each[1:].max() > 0]
    best = min(allowed, key=lambda weights: _misfit(both, weights, seconds), default=None)
    if best is None or _misfit(both, best, seconds) >= _misfit(both, _fit(both, seconds, [0]), seconds):
        raise DataError("expected batches that take longer with more tokens, got none that do: measure again")
    even = _columns(text + vision)
    fixed_s, text_s, vision_s = best.tolist()
    error, even_error = _error(both, best, seconds), _error(even, _fit(even, seconds, [0, 1]), seconds)
    return CostFit(fixed_s, text_s, vision_s, error, even_error)


def _columns(*columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(columns[0]), *columns], axis=1)


def _fit(columns: NDArray[np.float64], seconds: NDArray[np.float64], used: list[int]) -> NDArray[np.float64]:
    """Least absolute deviations over the columns `used`, by least squares weighed anew; zeros for the others."""
    weights = np.zeros(columns.shape[1])
    scale = columns[:, used].max(axis=0)
    chosen = columns[:, used] / scale
    floor = 1e-6 * float(np.median(seconds))
    trust = np.ones_like(seconds)
    for _ in range(_ROUNDS):
        found = np.linalg.lstsq(chosen * trust[:, None], seconds * trust, rcond=None)[0]
        trust = 1 / np.sqrt(np.maximum(np.abs(chosen @ found - seconds), floor))
    weights[used] = found / scale
    return weights


def _misfit(columns: NDArray[np.float64], weights: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    return float(np.abs(columns @ weights - seconds).sum())


def _error(columns: NDArray[np.float64], weights: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(columns @ weights - seconds) / seconds))
