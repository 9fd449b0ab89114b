"""Linting a dataset: index it, then assemble every good sample alone, in worker processes that a decoder may crash.

So it finds what indexing would quarantine and what assembly would mask, by the code that does so in service.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from owl_stream.assemble import Dataset, Measurer, load_tokenizer, settle_recipe
from owl_stream.assemble.fingerprint import cost_recipe_digest
from owl_stream.cli.histogram import Distribution
from owl_stream.cli.terminal import Bar
from owl_stream.config import Config, DatasetConfig, ServerConfig
from owl_stream.engine import Coordinate, Engine, ProcessEngine
from owl_stream.errors import OwlStreamError, SampleError, ShardError
from owl_stream.shards import Index, Quarantined, build_index, find_shards

_CHUNK = 1 << 20
_AHEAD = 2
"""Frames asked for per worker, so that none waits for us."""

Stage = Literal["finding", "indexing", "assembly"]


@dataclass(frozen=True)
class Finding:
    """Something bad, and which part of the service would meet it.

    `finding`: a shard that cannot be used at all. `indexing`: quarantined. `assembly`: its row would be masked (or,
    where the reason is no fault of the sample's bytes, its micro-batch would be an error).
    """

    stage: Stage
    bad: Quarantined

    def describe(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"stage": self.stage, **asdict(self.bad)}


@dataclass
class Report:
    """What linting one dataset has found. Distributions are over the samples that indexing found good.

    `suspicious`: pictures that are decoded and sent, and whose decoder warned. `notes`: what is worth telling about
    good samples, and of how many. Neither is anything bad.
    """

    dataset: str
    shards: int = 0
    samples: int = 0
    decoded: int = 0
    findings: list[Finding] = field(default_factory=list)
    suspicious: list[Quarantined] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    text_tokens: Distribution = field(default_factory=Distribution)
    supervised_tokens: Distribution = field(default_factory=Distribution)
    vision_tokens: Distribution = field(default_factory=Distribution)
    units: Distribution = field(default_factory=Distribution)

    @property
    def reasons(self) -> dict[str, int]:
        """Findings by reason, most frequent first."""
        return dict(Counter(finding.bad.reason for finding in self.findings).most_common())

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "shards": self.shards,
            "samples": self.samples,
            "decoded": self.decoded,
            "bad": [finding.describe() for finding in self.findings],
            "reasons": self.reasons,
            "suspicious": [asdict(picture) for picture in self.suspicious],
            "notes": self.notes,
            "text_tokens": self.text_tokens.describe(),
            "supervised_tokens": self.supervised_tokens.describe(),
            "vision_tokens": self.vision_tokens.describe(),
            "units": self.units.describe(),
        }


def lint(name: str, config: Config, index_dir: Path | None, processes: int, *, decode: bool, bar: Bar) -> Report:
    """Find everything bad in a dataset; `decode` False stops after indexing.

    Raises:
        ConfigError: shards or tokenizer not found.
        ReadError: storage failed while indexing.
    """
    dataset_config, report = config.datasets[name], Report(name)

    def unusable(error: ShardError) -> None:
        bad = Quarantined(error.shard, "", "", error.offset, error.reason, error.detail)
        report.findings.append(Finding("finding", bad.printable()))

    shards = find_shards(dataset_config.shards, config.base, unusable)
    report.shards = len(shards) + len(report.findings)
    recipe = settle_recipe(dataset_config, config.base)
    tokenizer = load_tokenizer(recipe.tokenizer, config.base, recipe.make_layout().tokens)
    if not shards:
        return report
    digest = cost_recipe_digest(recipe, tokenizer)
    with build_index(
        shards,
        Measurer(recipe, tokenizer, dataset_config.keep_rows),
        digest,
        index_dir,
        processes=processes,
        on_bad_sample="report",
        progress=lambda done: bar.bytes(done.bytes_done, done.bytes_total, what=f"indexing {name}"),
        keep_rows=dataset_config.keep_rows,
    ) as index:
        report.findings += [Finding("indexing", bad) for bad in index.quarantine()]
        report.samples, report.notes = index.samples, dict(index.notes)
        _measure(index, report)
        if decode and index.samples:
            limit = config.server.max_frame_bytes
            alone = Dataset(name, _alone(dataset_config), recipe, index, tokenizer, max_frame_bytes=limit)
            asyncio.run(_assemble_all(alone, index, config.server, processes, bar, report))
            report.decoded = index.samples
        order = {shard.name: number for number, shard in enumerate(index.shards)}
    report.findings.sort(key=lambda finding: (order.get(finding.bad.shard, -1), finding.bad.offset))
    report.suspicious.sort(key=lambda picture: (order[picture.shard], picture.offset))
    return report


def _alone(config: DatasetConfig) -> DatasetConfig:
    """The same rows, each a global step of its own, in manifest order: step n is sample n."""
    return config.model_copy(
        update={
            "global_batch_size": 1,
            "shuffle": "none",
            "bucket_window": 1,
            "modality": "off",
            "last": "fill",
            "on_bad_sample": "fail",
        }
    )


def _measure(index: Index, report: Report) -> None:
    for start in range(0, index.samples, _CHUNK):
        costs = index.costs(np.arange(start, min(start + _CHUNK, index.samples), dtype=np.int64))
        report.text_tokens.add(costs.text_tokens)
        report.supervised_tokens.add(costs.supervised_tokens)
        report.vision_tokens.add(costs.vision_tokens)
        report.units.add(costs.units)


async def _assemble_all(
    dataset: Dataset, index: Index, server: ServerConfig, processes: int, bar: Bar, report: Report
) -> None:
    steps, done = iter(range(dataset.samples)), itertools.count(1)
    engine = ProcessEngine(processes, job_timeout_s=server.job_timeout_s, sample_cpu_s=server.sample_cpu_s)

    async def take_turns() -> None:
        for step in steps:
            await _assemble_one(dataset, index, engine, step, report)
            number = next(done)
            note = f"{number} of {dataset.samples} samples"
            bar.update(number, dataset.samples, note=note, what=f"decoding {dataset.name}")

    try:
        await engine.prepare(dataset)  # no sample is to blame where not one worker starts
        async with asyncio.TaskGroup() as group:
            for _ in range(processes * _AHEAD):
                group.create_task(take_turns())
    finally:
        await engine.aclose()


async def _assemble_one(dataset: Dataset, index: Index, engine: Engine, step: int, report: Report) -> None:
    try:
        lease = await engine.frame(dataset, Coordinate(0, step, 0, 0, 1, 1))
    except SampleError as exc:
        bad = Quarantined(exc.shard, exc.key, exc.member, exc.offset, exc.reason, exc.detail)
    except OwlStreamError as exc:
        spans = index.spans(np.array([step]))
        shard, offset = index.shards[int(spans.shard[0])].name, int(spans.offset[0])
        bad = Quarantined(shard, _key(index, step), "", offset, exc.code, str(exc))
    else:
        report.suspicious += [picture.printable() for picture in lease.assembled.suspicious]
        lease.release()
        return
    report.findings.append(Finding("assembly", bad.printable()))


def _key(index: Index, sample: int) -> str:
    """The key as the shard has it; a shard that has changed or gone may not have it any more."""
    try:
        return index.keys(np.array([sample]))[0]
    except OwlStreamError:
        return "?"
