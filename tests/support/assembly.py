"""Small whole datasets in one call, and frames out of them without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.assemble import Assembled, Assembler, Dataset, Job, open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.wire import BatchHeader, RowInfo, parse_frames, tensor_views
from tests.support.layouts import OWL, settings_of
from tests.support.tars import Sample, write_shard


@dataclass(frozen=True)
class Made:
    """A frame and what is in it."""

    frame: bytes
    header: BatchHeader
    tensors: dict[str, NDArray[Any]]
    assembled: Assembled

    @property
    def rows(self) -> tuple[RowInfo, ...]:
        """The rows' origins and statuses."""
        return self.header.rows

    def labels(self, row: int) -> NDArray[np.int64]:
        """The labels of a row that are not ignored."""
        labels: NDArray[np.int64] = self.tensors["labels"][row]
        return np.extract(labels != -100, labels)

    def drawn(self, row: int) -> dict[str, NDArray[np.uint8]]:
        """A row's part of the tensors of pixels; those that it has no part of are left out."""
        found = {}
        for name, counts in _drawn_rows(self.tensors).items():
            first = sum(counts[:row])
            if counts[row]:
                found[name] = self.tensors[name][first : first + counts[row]]
        return found

    def crops(self, row: int) -> NDArray[np.uint8]:
        """The crops or patches of a row that has images and no videos."""
        return self.drawn(row)["pixel_values"]


def _drawn_rows(tensors: Mapping[str, NDArray[Any]]) -> dict[str, list[int]]:
    """How many rows of each tensor of pixels belong to each row of the batch, from its other tensors."""
    if "mm_token_type_ids" in tensors:
        types = tensors["mm_token_type_ids"]
        kinds = {"pixel_values": 1, "pixel_values_videos": 2}
        return {name: (4 * (types == kind).sum(axis=1)).tolist() for name, kind in kinds.items()}
    if "media_offset_lengths" in tensors:
        return {"pixel_values": tensors["media_offset_lengths"].tolist()}
    begin, end = tensors["media_offset"][:, -1].T
    return {"pixel_values": np.maximum(end - begin, 0).tolist()}


def make_dataset(directory: Path, samples: Sequence[Sample] | Sequence[Sequence[Sample]], **settings: Any) -> Dataset:
    """Write the samples (or lists of samples, one per shard) and open them, indexed in this process.

    Small crops, steps of 4 rows in file order, unless `settings` say otherwise.
    """
    shards = [samples] if not samples or isinstance(samples[0][0], str) else samples
    for number, shard in enumerate(shards):
        write_shard(directory / f"s-{number:03d}.tar", shard)  # type: ignore[arg-type] # told apart above
    return reopen(directory, **settings)


def reopen(directory: Path, *, layout: str = OWL, index_dir: Path | None = None, **settings: Any) -> Dataset:
    """Open what `make_dataset` wrote, perhaps with other settings; `image_size` and `cut` go under `vision`."""
    defaults = {"shards": ("s-*.tar",), "global_batch_size": 4, "bucket_window": 1, "shuffle": "none"}
    config = DatasetConfig(**settings_of(directory, layout, **{**defaults, **settings}))
    return open_dataset("train", config, directory, index_dir, processes=0)


def run_job(
    dataset: Dataset,
    job: Job,
    assembler: Assembler | None = None,
    *,
    progress: Callable[[int], None] = lambda row: None,
    fill: int = 0xA5,
) -> Made:
    """Assemble a job in a buffer of just its capacity that holds old bytes (`fill`), and read the frame."""
    mine = assembler or dataset.assembler()
    try:
        memory = bytearray([fill]) * dataset.capacity(job)
        with memoryview(memory) as buffer:
            assembled = mine.assemble(job, buffer, progress)
    finally:
        if assembler is None:
            mine.close()
    frame = bytes(memory[assembled.start : assembled.start + assembled.nbytes])
    (parsed,) = parse_frames(frame)
    assert isinstance(parsed.header, BatchHeader)
    return Made(frame, parsed.header, tensor_views(parsed.payload, parsed.header.tensors), assembled)


def run_at(dataset: Dataset, step: int, micro: int = 0, rank: int = 0, world_size: int = 1, size: int = 4) -> Made:
    """Assemble one micro-batch of epoch 0."""
    return run_job(dataset, dataset.job(0, step, micro, rank, world_size, size))
