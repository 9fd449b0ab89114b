"""What the pages must show, read through the API and decoded by the Python side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.wire import BatchHeader, parse_frames, tensor_views
from tests.support.http import get


@dataclass(frozen=True)
class Served:
    """A micro-batch as a trainer gets it."""

    header: BatchHeader
    tensors: dict[str, NDArray[Any]]

    def sees(self, row: int, token: int) -> list[int]:
        """The crops that a token may attend to, by the contract of the batch's layout."""
        offsets = self.tensors["media_offset"]
        if "media_offset_lengths" not in self.tensors:
            first, end = offsets[row, token].tolist()
            return list(range(first, end))
        lengths = self.tensors["media_offset_lengths"]
        first = int(lengths[:row].sum())
        starts = offsets[first : first + int(lengths[row])]
        return list(range(first, first + int((starts <= token).sum())))

    def crop_starts(self, row: int) -> list[int]:
        """Where the crops of a row begin among its tokens."""
        counts = np.array([len(self.sees(row, token)) for token in range(self.length(row))])
        shift = 0 if "media_offset_lengths" in self.tensors else -1
        return (np.flatnonzero(np.diff(counts, prepend=0) > 0) + shift).tolist()

    def length(self, row: int) -> int:
        """Attended tokens of a row."""
        return int(self.tensors["attention_mask"][row].sum())


def read_batch(url: str, dataset: str, step: int, *, rank: int = 0, world_size: int = 1, micro: int = 0) -> Served:
    """The frame of a place in epoch 0."""
    place = f"{url}/v1/datasets/{dataset}/batches/0/{step}/{micro}?rank={rank}&world_size={world_size}"
    (frame,) = parse_frames(get(place).body)
    assert isinstance(frame.header, BatchHeader)
    return Served(frame.header, tensor_views(frame.payload, frame.header.tensors))


def steps_of(url: str, dataset: str) -> list[dict[str, Any]]:
    """All global steps of epoch 0."""
    steps: list[dict[str, Any]] = get(f"{url}/v1/datasets/{dataset}/plan?count=100").json["steps"]
    return steps


def step_with(url: str, dataset: str, key: str) -> int:
    """The global step of epoch 0 that a sample is in."""
    return next(step["step"] for step in steps_of(url, dataset) if key in [row["key"] for row in step["rows"]])
