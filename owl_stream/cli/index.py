"""`owl-stream index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl_stream.cli.notes import note_lines
from owl_stream.cli.options import (
    ConfigOption,
    IndexOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    ProcessesOption,
    ShardsOption,
    TokenizerOption,
    settings,
)
from owl_stream.cli.terminal import Bar, emit, say
from owl_stream.config import DatasetConfig

if TYPE_CHECKING:
    from owl_stream.assemble import Dataset

SHOWN = 20
"""Findings that are listed; `owl-stream check` lists them all."""


def index(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    index_dir: IndexOption = None,
    processes: ProcessesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scan shards once, so that a server starts at once; an index that is up to date is kept."""
    wanted = settings(config, shards, model, tokenizer, layout)
    described = {}
    for name, dataset_config in wanted.datasets.items():
        dataset = open_indexed(name, dataset_config, wanted.base, index_dir, processes)
        try:
            described[name] = _describe(dataset)
        finally:
            dataset.close()
        if not as_json:
            _print(name, described[name])
    if as_json:
        emit({"datasets": described})


def open_indexed(
    name: str, config: DatasetConfig, base: Path, index_dir: Path | None, processes: int | None = None
) -> Dataset:
    """Open a dataset, indexing what is not indexed yet, with a bar if that takes time. The caller closes it."""
    from owl_stream.assemble import open_dataset  # noqa: PLC0415 # see serve
    from owl_stream.engine.cores import usable_cores  # noqa: PLC0415

    with Bar(f"indexing {name}") as bar:
        return open_dataset(
            name,
            config,
            base=base,
            index_dir=index_dir,
            processes=processes or usable_cores(),
            progress=lambda done: bar.bytes(done.bytes_done, done.bytes_total),
        )


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {
        "samples": dataset.samples,
        "quarantined": dataset.quarantined,
        "notes": dataset.notes,
        "steps_per_epoch": dataset.steps_per_epoch,
        "fingerprint": dataset.fingerprint,
        "quarantine": dataset.quarantine(0, SHOWN),
    }


def _print(name: str, described: dict[str, Any]) -> None:
    say(
        f"{name}: {described['samples']} samples, {described['quarantined']} quarantined, "
        f"{described['steps_per_epoch']} steps per epoch, fingerprint {described['fingerprint']}"
    )
    for bad in described["quarantine"]:
        say(f"  {bad['shard']} {bad['key']} {bad['member']} @ {bad['offset']}: {bad['detail']}")
    for line in note_lines(described["notes"]):
        say(line)
    if described["quarantined"] > SHOWN:
        say(f"  and {described['quarantined'] - SHOWN} more; `owl-stream check` lists them all")
