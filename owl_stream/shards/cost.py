"""What a sample costs under a recipe. The measure itself comes from above: this package knows no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError
from owl_stream.shards.sample import Sample

Pool = Literal["all", "image", "text", "video", "image_video"]
"""By the towers that a sample calls: `text` calls none. `all` is every sample. Each keeps the order of the manifest."""

TOWER_POOLS: tuple[Pool, ...] = tuple(pool for pool in get_args(Pool) if pool != "all")
"""The pools that every sample is in exactly one of."""


class RowSize(NamedTuple):
    """The size of one row: text tokens (T of `input_ids`), how many of them are supervised, and what towers are given.

    A unit is what a tower takes at a time: a crop, a tile, an image, a video. `image_tokens` and `video_tokens` are
    vision tokens: how many patches a tower works on.
    """

    text_tokens: int
    supervised_tokens: int
    image_units: int = 0
    image_tokens: int = 0
    video_units: int = 0
    video_tokens: int = 0

    @property
    def units(self) -> int:
        """Units of both towers."""
        return self.image_units + self.video_units

    @property
    def vision_tokens(self) -> int:
        """Vision tokens of both towers."""
        return self.image_tokens + self.video_tokens


_BYTES = RowSize(text_tokens=3, supervised_tokens=3, image_units=2, image_tokens=3, video_units=1, video_tokens=3)
"""Of each number in a table. `max_length` is at most 2^20; and no frame holds the pixels of more vision tokens."""

PACKED = np.dtype(f"V{sum(_BYTES)}")
"""One size in a table: 15 bytes."""

UNMEASURED = RowSize(0xFF_FFFF, 0)
"""Stands for a sample that the recipe refused; its reason is among the findings."""


def check_fits(size: RowSize) -> None:
    """Refuse a sample whose numbers are too large for a table.

    Raises:
        SampleError: `too_many_media`, naming the number.
    """
    for name, number, nbytes in zip(RowSize._fields, size, _BYTES, strict=True):
        most = (1 << 8 * nbytes) - 1
        if number >= most:
            raise SampleError(
                "too_many_media", f"expected fewer than {most} {name} in one sample, got {number}: split the sample"
            )


@dataclass(frozen=True)
class Cost:
    """What a measure says of one sample.

    `row`: what the measure wants to find again when the sample is assembled, as its row table keeps it. `notes`: what
    is worth telling about a good sample, counted per shard.
    """

    size: RowSize
    row: bytes = b""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Costs:
    """Sizes of n rows: `table` is int64 [n, 6], its columns the fields of `RowSize`."""

    table: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: Sequence[RowSize] | NDArray[np.int64]) -> Costs:
        """The costs of rows of these sizes, which may come as one array of numbers."""
        return cls(np.array(sizes, dtype=np.int64).reshape(-1, len(RowSize._fields)))

    @classmethod
    def unpack(cls, packed: NDArray[np.void]) -> Costs:
        """What `pack` made."""
        columns = packed.view(np.uint8).reshape(-1, PACKED.itemsize)
        table = np.zeros((len(columns), len(_BYTES)), dtype=np.int64)
        first = 0
        for field, nbytes in enumerate(_BYTES):
            for place in range(nbytes):
                table[:, field] |= columns[:, first + place].astype(np.int64) << 8 * place
            first += nbytes
        return cls(table)

    def pack(self) -> NDArray[np.void]:
        """PACKED [n]: the numbers in as few bytes as they need, little endian."""
        whole = np.ascontiguousarray(self.table, dtype="<i8").view(np.uint8).reshape(len(self), len(_BYTES), 8)
        parts = [whole[:, field, :nbytes] for field, nbytes in enumerate(_BYTES)]
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(PACKED).reshape(-1)

    def sizes(self) -> list[RowSize]:
        """The rows one by one."""
        return [RowSize(*row) for row in self.table.tolist()]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Costs:
        return Costs(self.table[rows])

    @property
    def text_tokens(self) -> NDArray[np.int64]:
        """Tokens of each row before padding, int64 [n]."""
        return self.table[:, 0]

    @property
    def supervised_tokens(self) -> NDArray[np.int64]:
        """Tokens with a label, int64 [n]."""
        return self.table[:, 1]

    @property
    def vision_tokens(self) -> NDArray[np.int64]:
        """Vision tokens of both towers, int64 [n]."""
        tokens: NDArray[np.int64] = self.table[:, 3] + self.table[:, 5]
        return tokens

    @property
    def units(self) -> NDArray[np.int64]:
        """Units of both towers, int64 [n]."""
        units: NDArray[np.int64] = self.table[:, 2] + self.table[:, 4]
        return units

    @property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each row calls the image tower, bool [n]."""
        return self.table[:, 2] > 0

    @property
    def has_videos(self) -> NDArray[np.bool_]:
        """Whether each row calls the video tower, bool [n]."""
        return self.table[:, 4] > 0

    def in_pool(self, pool: Pool) -> NDArray[np.bool_]:
        """Whether each row is in a pool, bool [n]."""
        if pool == "all":
            return np.ones(len(self), dtype=bool)
        image, video = calls(pool)
        members: NDArray[np.bool_] = (self.has_images == image) & (self.has_videos == video)
        return members


def calls(pool: Pool) -> tuple[bool, bool]:
    """Whether samples of a pool call the image tower and the video tower."""
    return pool in ("image", "image_video"), pool in ("video", "image_video")


@dataclass(frozen=True)
class Spans:
    """Where n samples lie: shard number, number among the shard's good samples, offset and length in bytes (int64 [n]),
    xxh3-64 (uint64 [n]).
    """

    shard: NDArray[np.int64]
    number: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    digest: NDArray[np.uint64]


Measure = Callable[[Sample], Cost]
"""May raise `SampleError`: the sample is quarantined."""

MeasureFactory = Callable[[], Measure]
"""Picklable; called once in every indexing process."""
