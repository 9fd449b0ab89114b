"""A dataset as it is served: index, plan and recipe under one fingerprint. Makes jobs, never decodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from owl_stream.assemble.assembler import Assembler, AssemblerFactory
from owl_stream.assemble.cache import CacheSettings
from owl_stream.assemble.fingerprint import assembly_id, components, cost_recipe_digest, fingerprint, frame_identity
from owl_stream.assemble.heaviest import Heaviest, find_heaviest
from owl_stream.assemble.job import Job, JobRow
from owl_stream.assemble.measure import Measurer
from owl_stream.assemble.origin import read_members
from owl_stream.assemble.pieces import Pieces
from owl_stream.assemble.tokenizer import TokenizerFile, load_tokenizer
from owl_stream.blocking import Running, Threads
from owl_stream.config import DatasetConfig
from owl_stream.errors import RequestError
from owl_stream.layouts.recipe import Recipe, settle_recipe
from owl_stream.plan import Plan, check_deal, check_rank, valid_micro_batch_sizes
from owl_stream.shards import Index, IndexPlace, Progress, RowTables, Shard, build_index, find_shards
from owl_stream.wire import MAX_FRAME_BYTES, Totals

STALL_S = 120.0
"""Storage that has not answered for so long stalls, where the server's configuration says nothing else."""


class Dataset:
    """Immutable and safe to share between threads. Owns its index.

    Its methods may wait for storage. `planning`, `describing` and `pages` are threads for that, of this dataset alone:
    for the jobs of streams, for what trainers ask before they begin, and for what people look at.

    `fingerprint` names the exact sequence of global steps, `components` what it is made of, `assembly` what makes the
    pixels. `frames`: datasets of one server whose `frames` are equal make equal frames. `schema`: the tensors that
    batches may hold. `totals`: what an epoch holds.
    """

    def __init__(
        self,
        name: str,
        config: DatasetConfig,
        recipe: Recipe,
        index: Index,
        tokenizer: TokenizerFile,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        cache: CacheSettings | None = None,
        rows: RowTables | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self.name, self.recipe, self.layout = name, recipe, recipe.make_layout()
        self.global_batch_size = config.global_batch_size
        self._index, self._on_bad_sample, self._max_frame_bytes = index, config.on_bad_sample, max_frame_bytes
        self._plan = Plan(index, config.plan)
        self.assembler_factory = AssemblerFactory(self.recipe, tokenizer, index.shards, cache, rows)
        self.components = components(index.manifest_digest, index.cost_digest, tokenizer, self.recipe, config.plan)
        self.fingerprint = fingerprint(self.components)
        self.assembly = assembly_id(self.recipe)
        self.frames = frame_identity(self.fingerprint, self.assembly, config.on_bad_sample, index.shards, cache)
        self.schema = self.layout.schema
        self.samples, self.quarantined, self.notes = index.samples, index.quarantined, index.notes
        self.steps_per_epoch = self._plan.steps_per_epoch
        self.totals = Totals(
            steps=self._plan.steps_per_epoch,
            samples=index.samples - self._plan.dropped_per_epoch,
            fillers=self._plan.fillers_per_epoch,
            dropped=self._plan.dropped_per_epoch,
            quarantined=index.quarantined,
        )
        self._max_shard_name_bytes = max(len(shard.name.encode()) for shard in index.shards)
        self.planning = Threads(f"planning {name}", 2, stall_s, waiting=1 << 14)
        self.describing = Threads(f"describing {name}", 2, stall_s)
        self.pages = Threads(f"pages of {name}", 4, stall_s)
        # All ranks ask for the same step at about the same time, each for its own part of it.
        self._rows = lru_cache(maxsize=16)(self._rows_of_step)
        self._heaviest = lru_cache(maxsize=16)(self._find_heaviest)

    def job(self, epoch: int, step: int, micro: int, rank: int, world_size: int, micro_batch_size: int) -> Job:
        """What a worker needs to assemble one micro-batch.

        Raises:
            RequestError: there is no such coordinate, or its frame would be too large; the message names valid values.
            ReadError: the index cannot be read.
        """
        check_deal(self.global_batch_size, world_size, micro_batch_size)
        check_rank(rank, world_size)
        planned = self._plan.step(epoch, step)
        places = planned.deal(world_size, micro_batch_size).micro_batch(rank, micro)
        rows = self._rows(epoch, step)
        job = Job(
            fingerprint=self.fingerprint,
            epoch=epoch,
            step=step,
            micro=micro,
            rank=rank,
            world_size=world_size,
            rows=tuple(rows[place] if place >= 0 else None for place in places.tolist()),
            spares=rows,
            step_supervised_tokens=planned.supervised_tokens,
            on_bad_sample=self._on_bad_sample,
        )
        self._check_size(job, world_size, micro_batch_size)
        return job

    def capacity(self, job: Job) -> int:
        """Bytes that surely hold the job's frame."""
        return job.capacity(self.layout, self._max_shard_name_bytes)

    def assembler(self) -> Assembler:
        """An assembler for use in this process."""
        return self.assembler_factory()

    def heaviest(self, world_size: int, micro_batch_size: int) -> Heaviest:
        """The dearest micro-batch of epoch 0; see `Heaviest` for how exact that is.

        Raises:
            RequestError: world_size * micro_batch_size does not divide the global batch size.
        """
        return self._heaviest(world_size, micro_batch_size)

    def describe(self) -> dict[str, Any]:
        """What /v1/datasets/{name} shows, ready for JSON."""
        return {
            "name": self.name,
            "layout": self.layout.name,
            "fingerprint": self.fingerprint,
            "components": self.components,
            "assembly": self.assembly,
            "samples": self.samples,
            "quarantined": self.quarantined,
            "notes": self.notes,
            "global_batch_size": self.global_batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "totals": asdict(self.totals),
            "schema": [asdict(entry) for entry in self.schema],
        }

    def describe_step(self, epoch: int, step: int) -> dict[str, Any]:
        """Which samples are in a global step, in canonical order, with their costs; ready for JSON.

        Raises:
            RequestError: there is no such step.
            ReadError: the keys, which stand in the shards, cannot be read.
        """
        planned = self._plan.step(epoch, step)
        keys = self._index.keys(planned.ids)
        rows = [
            {
                "shard": self._index.shards[row.shard].name,
                "key": key,
                "offset": row.offset,
                "nbytes": row.length,
                "text_tokens": row.size.text_tokens,
                "supervised_tokens": row.size.supervised_tokens,
                "vision_tokens": row.size.vision_tokens,
                "units": row.size.units,
            }
            for key, row in zip(keys, self._rows(epoch, step), strict=True)
        ]
        return {
            "epoch": epoch,
            "step": step,
            "pool": planned.pool,
            "fillers": planned.fillers,
            "supervised_tokens": planned.supervised_tokens,
            "rows": rows,
        }

    def describe_deal(self, epoch: int, step: int, world_size: int, micro_batch_size: int) -> dict[str, Any]:
        """How a global step is dealt: places in `describe_step`'s rows by rank and micro-batch (-1: filler), and costs.

        Raises:
            RequestError: there is no such step, or no such deal.
        """
        planned = self._plan.step(epoch, step)
        dealt = planned.deal(world_size, micro_batch_size)
        return {
            "rows": dealt.rows.tolist(),
            "micro_costs": dealt.micro_costs.tolist(),
            "rank_costs": dealt.rank_costs.tolist(),
            "padded_tokens": dealt.padded_tokens,
            "weights": asdict(planned.weights),
        }

    def members(self, epoch: int, step: int, place: int) -> list[dict[str, Any]]:
        """Name, offset in the shard and length of each member of the sample at a place in `describe_step`'s rows.

        Raises:
            RequestError: there is no such step or place.
            ReadError: the shard cannot be read.
            DataChangedError: the sample is not what was indexed.
        """
        rows = self._rows(epoch, step)
        if not 0 <= place < len(rows):
            raise RequestError(f"place {place}: expected 0 to {len(rows) - 1}, the samples of step {step}")
        return read_members(self._index.shards, rows[place])

    @cached_property
    def pieces(self) -> Pieces:
        """Token ids back to bytes. Costs half a second and the vocabulary's memory when first asked for."""
        return Pieces(self.assembler_factory.tokenizer)

    def quarantine(self, offset: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Samples (and damage of shards) that were found bad at indexing, from `offset` on; ready for JSON."""
        stop = None if limit is None else offset + limit
        return [asdict(bad) for bad in islice(self._index.quarantine(), offset, stop)]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards that samples lie in, by the number that rows of jobs name."""
        return self._index.shards

    @property
    def threads(self) -> tuple[Threads, ...]:
        """All of its threads."""
        return self.planning, self.describing, self.pages

    def stuck(self) -> list[Running]:
        """Calls in its threads that have waited for storage for longer than `stall_s`."""
        return [each for threads in self.threads for each in threads.stuck()]

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _rows_of_step(self, epoch: int, step: int) -> tuple[JobRow, ...]:
        planned = self._plan.step(epoch, step)
        spans = self._index.spans(planned.ids)
        columns = (spans.shard, spans.number, spans.offset, spans.length, spans.digest)
        rows = zip(*(column.tolist() for column in columns), planned.costs.sizes(), strict=True)
        return tuple(itertools.starmap(JobRow, rows))

    def _find_heaviest(self, world_size: int, micro_batch_size: int) -> Heaviest:
        return find_heaviest(self._plan, self.layout, world_size, micro_batch_size)

    def _check_size(self, job: Job, world_size: int, micro_batch_size: int) -> None:
        nbytes = self.capacity(job)
        if nbytes <= self._max_frame_bytes:
            return
        smaller = [m for m in valid_micro_batch_sizes(self.global_batch_size, world_size) if m < micro_batch_size]
        remedy = (
            f"use a micro_batch_size of {', '.join(map(str, smaller))}, or a larger world_size"
            if smaller
            else "one row alone is too large: raise max_frame_bytes, or lower max_length, or choose smaller pictures"
        )
        raise RequestError(
            f"{job}: a frame of up to {nbytes} bytes, expected at most max_frame_bytes = "
            f"{self._max_frame_bytes}; {remedy}"
        )


def open_dataset(
    name: str,
    config: DatasetConfig,
    base: Path,
    index_dir: Path | None = None,
    processes: int = 1,
    progress: Callable[[Progress], None] | None = None,
    *,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    cache: CacheSettings | None = None,
    stall_s: float = STALL_S,
) -> Dataset:
    """Find the shards, load the tokenizer, build or open the index, make the plan.

    Relative paths start at `base`. `index_dir` None keeps the index next to the shards. `progress` is told how far
    indexing is; what it raises ends it. `stall_s` is how long the dataset's threads wait for storage.

    Raises:
        ConfigError: shards or tokenizer not found, or settings that leave nothing to plan.
        ShardError, SampleError: damage, where `on_bad_sample` is `fail`.
        DataError: no good sample.
        ReadError: storage failed.
    """
    recipe = settle_recipe(config, base)
    shards = find_shards(config.shards, base)
    tokenizer = load_tokenizer(recipe.tokenizer, base, recipe.make_layout().tokens)
    tables = RowTables(IndexPlace(index_dir), cost_recipe_digest(recipe, tokenizer))
    index = build_index(
        shards,
        Measurer(recipe, tokenizer, config.keep_rows),
        tables.recipe_digest,
        index_dir,
        processes=processes,
        on_bad_sample=config.on_bad_sample,
        progress=progress,
        keep_rows=config.keep_rows,
    )
    try:
        rows = tables if config.keep_rows else None
        return Dataset(
            name,
            config,
            recipe,
            index,
            tokenizer,
            max_frame_bytes=max_frame_bytes,
            cache=cache,
            rows=rows,
            stall_s=stall_s,
        )
    except BaseException:
        index.close()
        raise
