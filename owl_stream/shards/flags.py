"""Which towers each sample calls, one bit each: from it the ids of a pool are computed, and no table lists them.

The bits, and how many samples of each pool stand before every 64th, are held in memory: 25 MB for a hundred million
samples with images and without. Columns of ids would be 400 MB on disk, and thousands of reads more for a window of the
plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl_stream.shards.cost import Pool, calls
from owl_stream.shards.tables import write_all

_WORD_BITS = 64
_MOST_AT_ONCE = 1 << 12
"""Ids looked up together: each spreads its word's bits over 64 bytes, and that stays in cache."""


def flag_bytes(samples: int) -> int:
    """Bytes that the flags of so many samples take in a file: whole words."""
    return -(-samples // _WORD_BITS) * (_WORD_BITS // 8)


class FlagWriter:
    """Writes flags to a file piece by piece, whatever the pieces' lengths."""

    def __init__(self, file: int, offset: int) -> None:
        self._file, self._at = file, offset
        self._rest = np.zeros(0, dtype=bool)

    def write(self, flags: NDArray[np.bool_]) -> None:
        """Append flags, bool [n]."""
        flags = np.concatenate([self._rest, flags])
        whole = len(flags) // _WORD_BITS * _WORD_BITS
        self._put(flags[:whole])
        self._rest = flags[whole:]

    def finish(self) -> None:
        """Write what is left, completed to a word by zeros."""
        self._put(np.pad(self._rest, (0, -len(self._rest) % _WORD_BITS)))

    def _put(self, flags: NDArray[np.bool_]) -> None:
        self._at = write_all(self._file, np.packbits(flags, bitorder="little").tobytes(), self._at)


class Flags:
    """Which of n samples call the image tower and the video tower; finds the k-th sample of a pool in a few steps.

    `images`, `videos`: what `FlagWriter` wrote, a bit a sample. `pools`: those that have samples.
    """

    def __init__(self, images: bytes, videos: bytes, pools: Sequence[Pool]) -> None:
        self._images = np.frombuffer(images, dtype="<u8")
        self._videos = np.frombuffer(videos, dtype="<u8") if any(calls(pool)[1] for pool in pools) else None
        self._before = {pool: _before(self._members(pool, slice(None))) for pool in pools}

    def ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of the samples at these positions of a pool; the caller has checked the range."""
        ids = np.empty(len(positions), dtype=np.int64)
        order = np.argsort(positions, kind="stable")  # neighbours share cache lines of what is searched
        for first in range(0, len(positions), _MOST_AT_ONCE):
            part = order[first : first + _MOST_AT_ONCE]
            ids[part] = self._some_ids(pool, positions[part])
        return ids

    def _some_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        before = self._before[pool]
        word = np.searchsorted(before, positions.astype(before.dtype), side="right") - 1
        words = self._members(pool, word)
        bits = np.unpackbits(words.view(np.uint8).reshape(-1, _WORD_BITS // 8), axis=1, bitorder="little")
        rank = (positions - before[word]).astype(np.uint8)
        nth = np.cumsum(bits, axis=1, dtype=np.uint8)
        ids: NDArray[np.int64] = word * _WORD_BITS + (nth == rank[:, None] + 1).argmax(axis=1)
        return ids

    def _members(self, pool: Pool, at: slice | NDArray[np.int64]) -> NDArray[np.uint64]:
        """Words in which the bits of a pool's samples are set. Behind the last sample the pool `text` has bits too."""
        image, video = calls(pool)
        members: NDArray[np.uint64] = self._images[at] if image else ~self._images[at]
        if self._videos is not None:
            members = members & (self._videos[at] if video else ~self._videos[at])
        return members


def _before(words: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """How many set bits stand before each word."""
    counts = np.bitwise_count(words)
    before: NDArray[np.uint32] = np.cumsum(counts, dtype=np.uint32) - counts
    return before
