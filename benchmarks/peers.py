"""Other loaders at the same work: the same samples, the same functions from sample to batch, two workers each.

Each gets the photographs in its own format, written once, and runs in an environment of its own. One that is not
installed is named and left out.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.contender import Feed, counted
from benchmarks.environments import PACKAGES, missing
from benchmarks.usual import WORKERS, Row, recipe_of
from benchmarks.workload import SAMPLES, SHARDS, Workload


def usable_peers() -> tuple[list[str], dict[str, str]]:
    """Names of those that are installed, and why the others are not measured."""
    reasons = {name: why for name in PACKAGES if (why := missing(name))}
    return [name for name in PACKAGES if name not in reasons], reasons


def samples(workload: Workload) -> Iterator[dict[str, bytes]]:
    """Every sample: `__key__` and the bytes of `jpg` and `json`."""
    for path in workload.shards:
        parts: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                key, _, ext = member.name.partition(".")
                parts.setdefault(key, {})[ext] = file.read()
        for key, members in parts.items():
            yield {"__key__": key.encode(), **members}


def litdata_feed(workload: Workload, stack: ExitStack) -> Feed:
    """`StreamingDataset` over optimised chunks and its own loader."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    home, recipe = workload.directory / "litdata", recipe_of(workload, "usual")
    if not (home / "index.json").exists():
        everything = list(samples(workload))
        optimize(
            fn=everything.__getitem__,
            inputs=list(range(SAMPLES)),
            output_dir=str(home),
            chunk_bytes="16MB",
            num_workers=1,
            start_method="fork",
            verbose=False,
        )
    dataset = StreamingDataset(str(home), shuffle=True, transform=recipe.row)
    loader = StreamingDataLoader(dataset, batch_size=workload.rows, num_workers=WORKERS, collate_fn=recipe.batch)

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from loader

    return Feed(counted(batches()))


def spdl_feed(workload: Workload, stack: ExitStack) -> Feed:
    """A pipeline of threads: decoding releases the interpreter's lock."""
    from spdl.pipeline import PipelineBuilder

    recipe, everything = recipe_of(workload, "usual"), list(samples(workload))
    recipe.row(everything[0])  # builds the tokenizer before threads want it

    def source() -> Iterator[dict[str, bytes]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            for at in torch.randperm(len(everything), generator=generator).tolist():
                yield everything[at]

    pipeline = (
        PipelineBuilder()
        .add_source(source())
        .pipe(recipe.row, concurrency=WORKERS)
        .aggregate(workload.rows)
        .pipe(recipe.batch)
        .add_sink(4)
        .build(num_threads=WORKERS)
    )
    stack.enter_context(pipeline.auto_stop())
    return Feed(counted(iter(pipeline)))


def energon_feed(workload: Workload, stack: ExitStack) -> Feed:
    """A crude webdataset and a task encoder of two methods."""
    from megatron.energon import (
        Cooker,
        CrudeSample,
        DefaultTaskEncoder,
        WorkerConfig,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )

    recipe = recipe_of(workload, "usual")
    if not (workload.directory / ".nv-meta" / "dataset.yaml").exists():
        command = [str(Path(sys.executable).with_name("energon")), "prepare", str(workload.directory)]
        command += ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @stateless  # type: ignore[untyped-decorator]
    def cook(sample: CrudeSample) -> CrudeSample:
        return sample

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc] # untyped
        decoder = None
        cookers = (Cooker(cook),)

        @stateless  # type: ignore[untyped-decorator]
        def encode_sample(self, sample: CrudeSample) -> Any:
            return _EnergonRow(sample["__key__"], recipe.row(sample))

        def batch(self, rows: list[Any]) -> dict[str, torch.Tensor]:
            return recipe.batch([row.row for row in rows])

        def encode_batch(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return batch

    dataset = get_train_dataset(
        workload.directory,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=WORKERS),
        batch_size=workload.rows,
        shuffle_buffer_size=256,
        max_samples_per_sequence=SAMPLES // SHARDS,
        task_encoder=Encoder(),
    )
    return Feed(counted(iter(get_savable_loader(dataset))))


class _EnergonRow:
    """What energon passes between its two methods: it wants a key on every sample."""

    def __init__(self, key: str, row: Row) -> None:
        self.__key__, self.row = key, row
        self.__restore_key__ = (key,)
        self.__subflavors__: dict[str, Any] = {}
        self.__sources__: tuple[Any, ...] = ()


def mosaic_feed(workload: Workload, stack: ExitStack) -> Feed:
    """`StreamingDataset` over MDS shards, in torch's loader."""
    # Its data sets of pictures want torchvision, which need not be there beside every torch; none of them is used.
    sys.modules.setdefault("streaming.vision", ModuleType("streaming.vision"))
    from streaming import MDSWriter, StreamingDataset

    home, recipe = workload.directory / "mds", recipe_of(workload, "usual")
    if not (home / "index.json").exists():
        with MDSWriter(out=str(home), columns={"jpg": "bytes", "json": "bytes"}) as out:
            for sample in samples(workload):
                out.write({"jpg": sample["jpg"], "json": sample["json"]})

    class Rows(StreamingDataset):  # type: ignore[misc] # untyped
        def __getitem__(self, at: int) -> Row:
            return recipe.row(super().__getitem__(at))

    dataset = Rows(local=str(home), shuffle=True, batch_size=workload.rows)
    loader = torch.utils.data.DataLoader(dataset, workload.rows, num_workers=WORKERS, collate_fn=recipe.batch)

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from loader

    return Feed(counted(batches()))


PEERS: dict[str, Callable[..., Feed]] = {
    "energon": energon_feed,
    "litdata": litdata_feed,
    "mosaic": mosaic_feed,
    "spdl": spdl_feed,
}
