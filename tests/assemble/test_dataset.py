"""Datasets: fingerprints that name what changed, jobs for every rank, refusals that name valid values."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owl_stream.assemble import Dataset, Measurer, heaviest, open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.errors import ConfigError, DataError, RequestError
from owl_stream.plan import Plan
from owl_stream.shards import Progress, read_sample
from tests.support.assembly import make_dataset, reopen, run_at
from tests.support.datasets import mixed_samples
from tests.support.tokenizer import small_tokenizer


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[Dataset]:
    """Forty samples in two shards, steps of eight, fully shuffled."""
    dataset = make_dataset(
        tmp_path, [mixed_samples(20), mixed_samples(20, 20)], global_batch_size=8, shuffle="full", bucket_window=2
    )
    yield dataset
    dataset.close()


def differing(one: Dataset, other: Dataset) -> set[str]:
    """The components that differ; the fingerprint differs exactly if one does."""
    names = {name for name in one.components if one.components[name] != other.components[name]}
    assert bool(names) == (one.fingerprint != other.fingerprint)
    return names


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, set()),
        ({"resize": "pillow"}, set()),
        ({"seed": 5}, {"seed"}),
        ({"global_batch_size": 4}, {"plan"}),
        ({"shuffle": "block"}, {"plan"}),
        ({"vision_token_cost": 2}, {"plan"}),
        ({"max_image_pixels": 10**6}, {"recipe"}),
        ({"layout": "owl3-241101"}, {"recipe", "costs"}),
        ({"cut": "off"}, {"recipe", "costs"}),
    ],
)
def test_a_fingerprint_names_what_changed(
    tmp_path: Path, mixed: Dataset, settings: dict[str, Any], changed: set[str]
) -> None:
    """Every component is hex and answers for its own settings only."""
    with closing(
        reopen(tmp_path, **{"global_batch_size": 8, "shuffle": "full", "bucket_window": 2, **settings})
    ) as other:
        assert differing(mixed, other) == changed
        assert all(int(value, 16) >= 0 for value in other.components.values())
        assert (mixed.assembly != other.assembly) == ("resize" in settings)


def test_fault_18_a_changed_tokenizer_or_shard_is_named(tmp_path: Path) -> None:
    """Another vocabulary and other data are told apart; time, place and name of the files are not looked at."""
    first = make_dataset(tmp_path / "a", mixed_samples(8))
    small_tokenizer(tmp_path / "b" / "tokenizer.json", 300)
    vocabulary = make_dataset(tmp_path / "b", mixed_samples(8))
    data = make_dataset(tmp_path / "c", mixed_samples(9))
    moved = tmp_path / "elsewhere"
    (tmp_path / "a").rename(moved)
    (moved / "s-000.tar").rename(moved / "renamed.tar")
    os.utime(moved / "renamed.tar", (1, 1))
    same = reopen(moved, shards=("renamed.tar",))
    assert differing(first, same) == set()
    assert differing(first, vocabulary) >= {"tokenizer"}
    assert differing(first, vocabulary) <= {"tokenizer", "costs"}
    assert differing(first, data) == {"manifest", "costs"}
    for dataset in (first, vocabulary, data, same):
        dataset.close()


def test_only_the_recipe_of_costs_decides_whether_costs_are_measured_again(tmp_path: Path, mixed: Dataset) -> None:
    """A new seed or resizer opens the old index; a new cut measures anew."""
    seen: list[Progress] = []

    def reports(vision: dict[str, Any], **settings: Any) -> int:
        seen.clear()
        config = DatasetConfig(
            shards=("s-*.tar",),
            tokenizer="tokenizer.json",
            vision={"image_size": 28, **vision},
            max_length=512,
            **settings,
        )
        open_dataset("train", config, tmp_path, processes=0, progress=seen.append).close()
        return len(seen)

    assert reports({}, seed=9, resize="pillow") == 0
    assert reports({"cut": "off"}) > 0


@pytest.mark.parametrize(("world_size", "size"), [(1, 8), (1, 2), (2, 4), (4, 1), (8, 1)])
def test_jobs_deal_every_sample_once_whatever_the_ranks(mixed: Dataset, world_size: int, size: int) -> None:
    """The rows of a step are the same for every world size; together the jobs hold each sample once."""
    micros, seen = 8 // (world_size * size), []
    for step in range(mixed.steps_per_epoch):
        rows = []
        for rank in range(world_size):
            for micro in range(micros):
                job = mixed.job(0, step, micro, rank, world_size, size)
                assert (job.rank, job.micro, len(job.rows)) == (rank, micro, size)
                rows += [row for row in job.rows if row is not None]
        assert sorted(rows) == sorted(mixed.job(0, step, 0, 0, 1, 8).spares)
        seen += [(row.shard, row.offset) for row in rows]
    assert len(seen) == len(set(seen)) == mixed.samples == mixed.totals.samples == 40


def test_costs_promise_what_assembly_makes(mixed: Dataset) -> None:
    """A whole epoch assembles, so every cost measured from headers was right; supervised tokens add up."""
    for step in range(mixed.steps_per_epoch):
        made = run_at(mixed, step, size=8)
        assert made.header.supervised_tokens == made.header.step_supervised_tokens


def test_the_schema_describes_every_batch(mixed: Dataset) -> None:
    """Letters stand for B rows, L tokens, C crops; names, order, types and ranks are those of real frames."""
    schema = {entry.name: entry for entry in mixed.schema}
    assert schema["media_offset"].dims == ("B", "L", 2)
    assert schema["pixel_values"].dims == ("C", 3, 28, 28)
    for step in range(mixed.steps_per_epoch):
        made = run_at(mixed, step, size=8)
        letters = {"B": 8, "L": made.tensors["input_ids"].shape[1], "C": made.header.units}
        assert made.header.lengths == letters
        for spec in made.header.tensors:
            entry = schema[spec.name]
            assert (entry.dtype, tuple(letters.get(str(d), d) for d in entry.dims)) == (spec.dtype, spec.shape)
        left_out = {"pixel_values"} if letters["C"] == 0 else set()
        assert [spec.name for spec in made.header.tensors] == [name for name in schema if name not in left_out]


@pytest.mark.parametrize(
    ("at", "named"),
    [
        ((0, 0, 0, 4, 4, 2), "valid ranks: 0 to 3"),
        ((0, 0, 0, -1, 4, 2), "valid ranks: 0 to 3"),
        ((0, 0, 0, 0, 3, 1), "valid world_size at all: 1, 2, 4, 8"),
        ((0, 0, 0, 0, 2, 3), "valid micro_batch_size for world_size 2: 1, 2, 4"),
        ((0, 0, 0, 0, 0, 1), "valid world_size at all: 1, 2, 4, 8"),
        ((0, 99, 0, 0, 1, 8), "expected 0 to 5"),
        ((0, -1, 0, 0, 1, 8), "expected 0 to 5"),
        ((-1, 0, 0, 0, 1, 8), "expected a whole number from 0"),
        ((0, 0, 2, 0, 2, 2), "expected 0 to 1"),
        ((0, 0, -1, 0, 2, 2), "expected 0 to 1"),
    ],
)
def test_faults_20_86_a_coordinate_that_cannot_be_names_valid_ones(
    mixed: Dataset, at: tuple[int, int, int, int, int, int], named: str
) -> None:
    """Rank, world size, micro-batch size, epoch, step and micro are all checked before anything is read."""
    assert mixed.steps_per_epoch == 6
    with pytest.raises(RequestError, match=named):
        mixed.job(*at)


def test_a_frame_that_would_be_too_large_names_smaller_ones(mixed: Dataset) -> None:
    """The limit is checked when the job is made; the message says which sizes may fit."""
    mixed._max_frame_bytes = 60_000
    with pytest.raises(RequestError, match=r"max_frame_bytes = 60000; use a micro_batch_size of 1, 2, or a larger"):
        mixed.job(0, 0, 0, 0, 2, 4)
    mixed._max_frame_bytes = 1000
    with pytest.raises(RequestError, match="one row alone is too large"):
        mixed.job(0, 0, 0, 0, 8, 1)


def test_the_heaviest_micro_batch_is_the_dearest_of_all(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by looking at every step; with more steps than it may deal it says how many it looked at."""
    found = mixed.heaviest(2, 2)
    assert found.exact
    assert found.steps_seen == 6
    made = run_at(mixed, found.step, found.micro, found.rank, 2, 2)
    assert made.tensors["input_ids"].size == found.padded_tokens
    assert (made.header.units, made.header.vision_tokens) == (found.units, found.vision_tokens)
    last = made.header.tensors[-1]
    assert last.offset + last.nbytes == found.payload_bytes
    for step in range(6):
        for rank in range(2):
            for micro in range(2):
                other = run_at(mixed, step, micro, rank, 2, 2)
                assert other.header.vision_tokens == other.header.units * (28 // 14) ** 2
                tokens = other.tensors["input_ids"].size + other.header.vision_tokens
                assert tokens <= found.padded_tokens + found.vision_tokens == found.cost
    monkeypatch.setattr(heaviest, "MAX_STEPS", 3)
    sampled = heaviest.find_heaviest(mixed._plan, mixed.layout, 4, 1)
    assert (sampled.exact, sampled.steps_seen) == (False, 3)
    with pytest.raises(RequestError, match="valid"):
        mixed.heaviest(3, 1)


def test_what_is_shown_of_a_dataset_is_json(mixed: Dataset) -> None:
    """Descriptions go out as they are; keys and shards of a step are those of its frame."""
    described = mixed.describe()
    assert json.loads(json.dumps(described))["totals"]["steps"] == mixed.steps_per_epoch
    step = mixed.describe_step(0, 2)
    json.dumps([step, asdict(mixed.heaviest(1, 8))])
    made = run_at(mixed, 2, size=8)
    assert {(row["shard"], row["key"]) for row in step["rows"]} == {(r.shard, r.key) for r in made.rows if r.key}
    assert step["supervised_tokens"] == made.header.step_supervised_tokens


def test_the_quarantine_is_paged(tmp_path: Path) -> None:
    """Findings come in order, from an offset, as many as asked for."""
    broken = [(f"bad{n}", {"json": b"{"}) for n in range(5)]
    dataset = make_dataset(tmp_path, [*broken, *mixed_samples(4)])
    assert dataset.quarantined == 5
    assert [finding["key"] for finding in dataset.quarantine(1, 2)] == ["bad1", "bad2"]
    assert len(dataset.quarantine()) == 5
    dataset.close()


def test_threads_share_a_dataset(mixed: Dataset) -> None:
    """A server's thread pool asks for many jobs at once and gets what one thread gets."""
    places = [(0, step, 0, rank, 4, 2) for step in range(6) for rank in range(4)]
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda at: mixed.job(*at).to_bytes(), places * 3))
    assert jobs == [mixed.job(*at).to_bytes() for at in places] * 3


def test_a_measurer_travels_to_other_processes(mixed: Dataset, tmp_path: Path) -> None:
    """Pickled with its tokenizer, it measures what the index holds."""
    factory = mixed.assembler_factory
    measure = pickle.loads(pickle.dumps(Measurer(factory.recipe, factory.tokenizer)))()
    rows = mixed.job(0, 0, 0, 0, 1, 8).spares
    for row in rows:
        data = (tmp_path / f"s-{row.shard:03d}.tar").read_bytes()
        cost = measure(read_sample("s", data[row.offset : row.offset + row.length], row.offset))
        assert cost.size == row.size


def test_steps_are_planned_once_for_all_ranks(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks of a step ask within moments of each other; the index is read for the first only."""
    asked: list[int] = []
    spans = mixed._index.spans

    def counted(ids: Any) -> Any:
        asked.append(len(np.asarray(ids)))
        return spans(ids)

    monkeypatch.setattr(mixed._index, "spans", counted)
    for rank in range(8):
        mixed.job(3, 1, 0, rank, 8, 1)
    assert len(asked) == 1
    assert isinstance(mixed._plan, Plan)


def test_a_dataset_without_shards_tokenizer_or_samples_says_so(tmp_path: Path) -> None:
    """The three things that a newcomer gets wrong are three clear errors."""
    make_dataset(tmp_path, mixed_samples(4)).close()
    with pytest.raises(ConfigError, match="no such shard"):
        reopen(tmp_path, shards=("nowhere-*.tar",))
    with pytest.raises(ConfigError, match="tokenizer not found"):
        reopen(tmp_path, tokenizer="nowhere.json")
    with pytest.raises(DataError, match="not one good sample"):
        make_dataset(tmp_path / "bad", [("x", {"json": b"{"})])
