"""Seeded permutations that need no memory: position -> place, for a hundred million samples as for three.

Everything is integer arithmetic modulo 2^64, so every platform and every numpy agrees on the order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Constants of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014)."""

_ROUNDS = 8
_ROUNDS_SMALL = 16
_SMALL = 1 << 12
"""Below this size a round function has so few values that eight rounds favour some permutations."""


def derive_key(seed: int, *words: int) -> int:
    """A 64-bit key from a seed and any number of whole numbers; other words or another order give another key."""
    key = _mix_int(seed + _GOLDEN)
    for word in words:
        key = _mix_int(_mix_int(key + _GOLDEN) + word + _GOLDEN)
    return key


class Permutation:
    """A keyed permutation of range(size).

    An alternating Feistel network over Z_a x Z_b with a * b just above `size` (Black, Rogaway: Ciphers with arbitrary
    finite domains, 2002); a value that falls outside walks on along its cycle until it is inside.
    """

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self._rows = max(1, math.isqrt(max(size - 1, 0)) + 1)
        self._columns = max(1, -(-size // self._rows))
        rounds = _ROUNDS_SMALL if size < _SMALL else _ROUNDS
        self._keys = [np.uint64(derive_key(key, number)) for number in range(rounds)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each position goes. `positions`: int64 [n] in 0..size-1; returns int64 [n], distinct for distinct."""
        assert not positions.size or 0 <= positions.min() <= positions.max() < self.size  # else the walk never ends
        values = self._encrypt(positions.astype(np.uint64))
        while (outside := np.flatnonzero(values >= np.uint64(self.size))).size:
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, columns = np.uint64(self._rows), np.uint64(self._columns)
        left, right = values // columns, values % columns
        for number, key in enumerate(self._keys):
            # The round value is reduced before the sum: a sum that wraps at 2^64 would not be a bijection.
            if number % 2 == 0:
                left = (left + _mix(right ^ key) % rows) % rows
            else:
                right = (right + _mix(left ^ key) % columns) % columns
        return left * columns + right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return values ^ (values >> np.uint64(31))


def _mix_int(value: int) -> int:
    value &= _MASK
    value = (value ^ (value >> 30)) * _MULTIPLIERS[0] & _MASK
    value = (value ^ (value >> 27)) * _MULTIPLIERS[1] & _MASK
    return value ^ (value >> 31)
