"""What a sample costs under a recipe. The measure itself comes from above: this package knows no tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owl_stream.shards.sample import Sample

Pool = Literal["all", "image", "text"]
"""`image`: the samples with crops; `text`: those without; both keep the order of the manifest."""


@dataclass(frozen=True)
class Cost:
    """One sample: text tokens of its row, how many of them are supervised, crops the vision tower sees.

    `row`: what the measure wants to find again when the sample is assembled, as its row table keeps it. `notes`: what
    is worth telling about a good sample, counted per shard.
    """

    text_tokens: int
    supervised_tokens: int
    crops: int
    row: bytes = b""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Costs:
    """Costs of n samples, int64 [n] each."""

    text_tokens: NDArray[np.int64]
    supervised_tokens: NDArray[np.int64]
    crops: NDArray[np.int64]


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
