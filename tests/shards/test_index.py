"""What the plan asks of an index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from owl_stream.errors import DataChangedError, RequestError, ShardError
from owl_stream.shards import Index, build_index, find_shards
from owl_stream.shards.columns import gather
from owl_stream.shards.tables import COST
from tests.shards.measures import members
from tests.support.damage import member, overwrite, write
from tests.support.tars import write_shard

IMAGES = [3, 0, 1, 0, 0, 2, 0, 1]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Two shards of 5 and 3 samples; IMAGES says how many images each has."""
    pictures = [{f"{number}.jpg": b"x" for number in range(images)} for images in IMAGES]
    made = [(f"k{at}", {**images, "json": b"{}"}) for at, images in enumerate(pictures)]
    write_shard(tmp_path / "s-0.tar", made[:5])
    write_shard(tmp_path / "s-1.tar", made[5:])
    shards = find_shards(["s-*.tar"], tmp_path)
    with build_index(shards, members, "r", None, processes=0, on_bad_sample="fail") as built:
        yield built


def test_pools_keep_the_order_of_the_manifest(index: Index) -> None:
    """Image-bearing and text-only samples; both together are all."""
    sizes = {"all": 8, "image": 4, "text": 4}
    ids = {"all": list(range(8)), "image": [0, 2, 5, 7], "text": [1, 3, 4, 6]}
    by_shard = {"all": [5, 3], "image": [2, 2], "text": [3, 1]}
    for pool in ("all", "image", "text"):
        assert index.pool_size(pool) == sizes[pool]
        assert index.pool_ids(pool, np.arange(sizes[pool])).tolist() == ids[pool]
        assert index.pool_counts_by_shard(pool).tolist() == by_shard[pool]


def test_columns_are_read_in_any_order_with_repeats(index: Index) -> None:
    """int64 (digests uint64), one per id asked for."""
    ids = np.array([7, 0, 7, 3, 5])
    costs, spans = index.costs(ids), index.spans(ids)
    assert costs.crops.tolist() == [1, 3, 1, 0, 2]
    assert costs.text_tokens.tolist() == [2, 4, 2, 1, 3]
    assert costs.supervised_tokens.tolist() == [1] * 5
    assert spans.shard.tolist() == [1, 0, 1, 0, 1]
    assert index.keys(ids) == ["k7", "k0", "k7", "k3", "k5"]
    assert index.pool_ids("image", np.array([3, 0, 3])).tolist() == [7, 0, 7]
    assert {a.dtype for a in (costs.crops, spans.offset, spans.length, spans.shard)} == {np.dtype(np.int64)}
    assert spans.digest.dtype == np.uint64


def test_asking_for_nothing_gives_nothing(index: Index) -> None:
    """Empty arrays, not errors."""
    none = np.array([], dtype=np.int64)
    assert len(index.costs(none).crops) == len(index.spans(none).shard) == len(index.pool_ids("text", none)) == 0
    assert index.keys(none) == []


@pytest.mark.parametrize("bad", [-1, 8, 1 << 40])
def test_ids_out_of_range_are_refused(index: Index, bad: int) -> None:
    """A negative id must not count from the end."""
    for ask in (index.costs, index.spans, index.keys, lambda ids: index.pool_ids("all", ids)):
        with pytest.raises(RequestError, match=f"expected 0 <= n < 8, got {bad}"):
            ask(np.array([0, bad]))
    with pytest.raises(RequestError, match="pool text: expected 0 <= n < 4"):
        index.pool_ids("text", np.array([4]))


@pytest.mark.parametrize(("rows", "spread"), [(1, 1), (40_000, 1), (40_000, 3), (2_000, 400)])
def test_gathering_equals_indexing(tmp_path: Path, rows: int, spread: int) -> None:
    """Neighbours read together, far ones apart, long runs in pieces: the same rows."""
    column = np.zeros(rows * spread, dtype=COST)
    column["text_tokens"] = np.arange(len(column))
    (tmp_path / "f").write_bytes(b"head" + column.tobytes())
    wanted = np.random.default_rng(0).permutation(rows) * spread
    file = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert (gather(file, 4, COST, wanted) == column[wanted]).all()
    finally:
        os.close(file)


def test_an_index_holds_at_most_64_bytes_a_sample(tmp_path: Path) -> None:
    """All files together, headers included, for shards of a usual size."""
    samples = 4000
    write(tmp_path / "s-0.tar", *(member(f"{at:06d}.json", b"{}") for at in range(samples)))
    shards = find_shards(["s-0.tar"], tmp_path)
    build_index(shards, members, "r", None, processes=0, on_bad_sample="fail").close()
    assert sum(path.stat().st_size for path in (tmp_path / ".owl-index").iterdir()) <= 64 * samples


def test_an_index_outlives_a_newer_one(index: Index, tmp_path: Path) -> None:
    """It is immutable: shards added and indexed meanwhile do not show in it."""
    write_shard(tmp_path / "s-2.tar", [("new", {"json": b"{}"})])
    shards = find_shards(["s-*.tar"], tmp_path)
    with build_index(shards, members, "r", None, processes=0, on_bad_sample="fail") as newer:
        assert newer.samples == 9
    assert index.samples == 8
    assert index.costs(np.arange(8)).crops.tolist() == IMAGES


def test_keys_of_a_shard_that_was_rewritten_or_is_gone(index: Index) -> None:
    """A typed error each, never another key or garbage."""
    path = index.shards[1].path
    offset = int(index.spans(np.array([6])).offset[0])
    overwrite(path, offset, b"#" * 40)
    with pytest.raises(DataChangedError, match=f"@ {offset}: .*index again"):
        index.keys(np.array([6]))
    assert index.keys(np.array([5])) == ["k5"]
    path.unlink()
    with pytest.raises(ShardError, match="no such file"):
        index.keys(np.array([6]))


def test_long_names_are_read_from_the_headers(tmp_path: Path) -> None:
    """Keys that need PAX headers, longer than one chunk."""
    long = "d/" + "ключ" * 300
    write_shard(tmp_path / "s.tar", [("a", {"json": b"{}"}), (long, {"json": b"{}"})])
    shards = find_shards(["s.tar"], tmp_path)
    with build_index(shards, members, "r", None, processes=0, on_bad_sample="fail") as built:
        assert built.keys(np.array([1, 0])) == [long, "a"]


def test_a_closed_index_reads_nothing(index: Index, tmp_path: Path) -> None:
    """Not from whatever file got its descriptor; closing twice is fine."""
    index.close()
    index.close()
    with (tmp_path / "other").open("wb"), pytest.raises(RequestError, match="the index is closed"):
        index.costs(np.array([0]))
    with pytest.raises(RequestError, match="the index is closed"):
        list(index.quarantine())
