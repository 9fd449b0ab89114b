"""An epoch's end is honest: over all ranks every sample of the manifest is accounted for once, and `end` says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from owl_stream.wire import BatchHeader, End, RowInfo, parse_frames
from tests.faults.conftest import dataset_of
from tests.faults.oracle import sample_of
from tests.support.datasets import mixed_samples, small_dataset
from tests.support.http import get
from tests.support.layouts import every_layout
from tests.support.server import ServerProcess
from tests.support.tars import write_shard

STREAM = "/v1/datasets/train/stream"
SIZES = [(1, 4), (1, 1), (2, 2), (2, 1), (4, 1)]
LASTS = ["fill", "drop"]
BAD = {"000100", "000103"}
"""Their JPEGs have an end, but not all that should come before it: indexing does not see that, decoding does."""


@pytest.fixture(scope="module", params=LASTS)
def server(
    request: pytest.FixtureRequest, layout: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """46 samples: two that assembly will mask, one that indexing has found bad; steps are filled or dropped."""
    directory: Path = tmp_path_factory.mktemp("ends")
    config = small_dataset(directory, layout=layout, server={"workers": 1}, last=request.param)
    samples = mixed_samples(6, 100, layout=layout)
    write_shard(directory / "train-00002.tar", [(key, spoilt(members, key)) for key, members in samples])
    write_shard(directory / "train-00003.tar", [("no-answer", {"json": b"{}"})])
    with ServerProcess(config) as server:
        yield server


def spoilt(members: Mapping[str, bytes], key: str) -> dict[str, bytes]:
    """The members of a sample, its image or a frame of its video cut short if it is to be bad."""
    name = "jpg" if "jpg" in members else "f1.jpg"
    return {**members, name: members[name][:-150] + b"\xff\xd9"} if key in BAD else dict(members)


def rows_of(server: ServerProcess, world_size: int, micro_batch_size: int) -> tuple[list[RowInfo], Counter[str]]:
    """All rows that the clients of all ranks were given in one epoch, and what those clients counted by status."""
    rows: list[RowInfo] = []
    counted: Counter[str] = Counter()
    for rank in range(world_size):
        dataset = dataset_of(server.url, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
        rows += [row for batch in dataset for row in batch.meta.rows]
        counted.update(dataset.stats().rows)
    return rows, counted


def end_of(server: ServerProcess, query: str = "") -> End:
    """The last frame of an epoch."""
    end = list(parse_frames(get(server.url + STREAM + query).body))[-1].header
    assert isinstance(end, End)
    return end


@every_layout
@pytest.mark.parametrize(("world_size", "micro_batch_size"), SIZES)
def test_all_ranks_together_account_for_the_manifest(
    server: ServerProcess, world_size: int, micro_batch_size: int
) -> None:
    """ok + masked (or repeated in a masked one's place) + dropped = manifest, each key once; `end` says the same."""
    rows, counted = rows_of(server, world_size, micro_batch_size)
    totals = end_of(server, f"?world_size={world_size}&micro_batch_size={micro_batch_size}").totals
    keys = Counter(sample for row in rows if (sample := sample_of(row)))
    assert set(keys.values()) == {1}
    in_place_of_masked = sum(row.status == "repeated" and row.replaces is not None for row in rows)
    assert counted["ok"] + counted["masked"] + in_place_of_masked == totals.samples
    assert totals.samples + totals.dropped == 46
    planned = get(server.url + "/v1/datasets/train/plan?count=100").json["steps"]
    # Under `drop` a bad sample may be among the rows that are left out; it is then counted there.
    bad = BAD & {row["key"] for step in planned for row in step["rows"]}
    assert bad
    assert counted["masked"] + in_place_of_masked == len(bad)
    assert counted["filler"] + counted["repeated"] - in_place_of_masked == totals.fillers
    assert counted.total() == totals.steps * 4
    assert totals.quarantined == 1
    assert counted == Counter(row.status for row in rows)


def test_the_totals_are_the_plans_and_the_same_for_every_stream(server: ServerProcess) -> None:
    """Wherever a stream began, `end` tells of the whole epoch: steps, samples, fillers and dropped rows as planned."""
    described = get(server.url + "/v1/datasets/train").json
    planned = get(server.url + "/v1/datasets/train/plan?count=100").json["steps"]
    for query in ("", "?step=5", "?rank=1&world_size=2&micro_batch_size=1&step=3&micro=1", "?epoch=7"):
        totals = end_of(server, query).totals
        assert (totals.steps, totals.samples + totals.dropped) == (described["steps_per_epoch"], described["samples"])
        assert totals.fillers == sum(step["fillers"] for step in planned)
        assert totals.samples == sum(len(step["rows"]) for step in planned)
        assert totals.quarantined == described["quarantined"] == 1


@every_layout
def test_no_row_is_masked_otherwise_after_a_resume(server: ServerProcess) -> None:
    """The batches from any step on are those of the whole epoch, statuses and replaced samples included."""
    whole = headers(server, "?world_size=2&micro_batch_size=1")
    for step in range(0, len(whole) // 2, 3):
        assert headers(server, f"?world_size=2&micro_batch_size=1&step={step}") == whole[2 * step :]


def headers(server: ServerProcess, query: str) -> list[BatchHeader]:
    """Headers of a stream's batches."""
    frames = parse_frames(get(server.url + STREAM + query).body)
    return [frame.header for frame in frames if isinstance(frame.header, BatchHeader)]
