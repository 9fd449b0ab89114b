"""What the plan asks of an index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from owl_stream.errors import DataChangedError, RequestError, SampleError, ShardError
from owl_stream.shards import Costs, Index, Pool, RowSize, build_index, find_shards
from owl_stream.shards.columns import gather
from owl_stream.shards.cost import PACKED, UNMEASURED, check_fits
from tests.shards.measures import as_recorded, members
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
    """Image-bearing and text-only samples; both together are all, and the pools of videos are empty."""
    ids: dict[Pool, list[int]] = {"all": list(range(8)), "image": [0, 2, 5, 7], "text": [1, 3, 4, 6]}
    by_shard: dict[Pool, list[int]] = {"all": [5, 3], "image": [2, 2], "text": [3, 1]}
    for pool in get_args(Pool):
        expected = ids.get(pool, [])
        assert index.pool_size(pool) == len(expected)
        assert index.pool_ids(pool, np.arange(len(expected))).tolist() == expected
        assert index.pool_counts_by_shard(pool).tolist() == by_shard.get(pool, [0, 0])


def test_columns_are_read_in_any_order_with_repeats(index: Index) -> None:
    """int64 (digests uint64), one per id asked for."""
    ids = np.array([7, 0, 7, 3, 5])
    costs, spans = index.costs(ids), index.spans(ids)
    assert costs.units.tolist() == [1, 3, 1, 0, 2]
    assert costs.text_tokens.tolist() == [2, 4, 2, 1, 3]
    assert costs.supervised_tokens.tolist() == [1] * 5
    assert spans.shard.tolist() == [1, 0, 1, 0, 1]
    assert index.keys(ids) == ["k7", "k0", "k7", "k3", "k5"]
    assert index.pool_ids("image", np.array([3, 0, 3])).tolist() == [7, 0, 7]
    assert {a.dtype for a in (costs.units, spans.offset, spans.length, spans.shard)} == {np.dtype(np.int64)}
    assert spans.digest.dtype == np.uint64


def test_asking_for_nothing_gives_nothing(index: Index) -> None:
    """Empty arrays, not errors."""
    none = np.array([], dtype=np.int64)
    assert len(index.costs(none).units) == len(index.spans(none).shard) == len(index.pool_ids("text", none)) == 0
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
    sizes = np.zeros((rows * spread, len(RowSize._fields)), dtype=np.int64)
    sizes[:, 0] = np.arange(len(sizes))
    column = Costs.of(sizes).pack()
    (tmp_path / "f").write_bytes(b"head" + column.tobytes())
    wanted = np.random.default_rng(0).permutation(rows) * spread
    file = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        gathered = gather(file, 4, PACKED, wanted)
        assert gathered.tobytes() == column[wanted].tobytes()
        assert Costs.unpack(gathered).text_tokens.tolist() == wanted.tolist()
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
    assert index.costs(np.arange(8)).units.tolist() == IMAGES


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


MOST = RowSize(
    text_tokens=(1 << 24) - 2,
    supervised_tokens=(1 << 24) - 2,
    image_units=(1 << 16) - 2,
    image_tokens=(1 << 24) - 2,
    video_units=(1 << 8) - 2,
    video_tokens=(1 << 24) - 2,
)
"""The largest numbers that a table holds."""

any_size = st.tuples(*(st.sampled_from([0, 1, most]) | st.integers(0, most) for most in MOST)).map(RowSize._make)


@given(st.lists(any_size, max_size=8))
@example([MOST, RowSize(*[0] * 6), MOST])
@example([UNMEASURED])
def test_packed_costs_come_back(sizes: list[RowSize]) -> None:
    """Every number that fits, zero and the largest included, beside any neighbour; 15 bytes a sample."""
    for size in set(sizes) - {UNMEASURED}:
        check_fits(size)
    costs = Costs.of(sizes)
    packed = costs.pack()
    assert (packed.nbytes, packed.shape) == (15 * len(sizes), (len(sizes),))
    back = Costs.unpack(packed)
    assert (back.sizes(), back.table.dtype) == (sizes, np.dtype(np.int64))
    assert back.units.tolist() == [size.units for size in sizes]
    assert back.vision_tokens.tolist() == [size.vision_tokens for size in sizes]


@pytest.mark.parametrize("field", RowSize._fields)
def test_a_number_that_a_table_cannot_hold_is_refused_by_name(field: str) -> None:
    """One more than the largest: the message says which number, how large, and what to do."""
    check_fits(MOST)
    most = getattr(MOST, field)
    expected = rf"expected fewer than {most + 1} {field} in one sample, got {most + 1}: split the sample"
    with pytest.raises(SampleError, match=expected) as caught:
        check_fits(MOST._replace(**{field: most + 1}))
    assert caught.value.reason == "too_many_media"


def recorded(directory: Path, *shards: Sequence[RowSize]) -> Index:
    """An index of samples that say themselves what they cost; those that say nothing that fits are quarantined."""
    for number, sizes in enumerate(shards):
        samples = [(f"k{number}-{at}", {"json": json.dumps(size).encode()}) for at, size in enumerate(sizes)]
        write_shard(directory / f"s-{number}.tar", samples)
    found = find_shards(["s-*.tar"], directory)
    return build_index(found, as_recorded, "r", None, processes=0, on_bad_sample="mask")


def test_a_sample_of_too_many_units_is_quarantined_and_its_neighbours_are_not(tmp_path: Path) -> None:
    """It has no id, no cost and no place in a pool; the largest that fits is served."""
    images, videos = RowSize(9, 1, 1 << 16, 64), RowSize(9, 1, 0, 0, 1 << 8, 64)
    with recorded(tmp_path, [RowSize(5, 1), images, MOST, videos, RowSize(7, 1, 1, 4)]) as index:
        found = [(bad.key, bad.reason) for bad in index.quarantine()]
        assert found == [("k0-1", "too_many_media"), ("k0-3", "too_many_media")]
        assert [bad.detail for bad in index.quarantine()] == [
            "expected fewer than 65535 image_units in one sample, got 65536: split the sample",
            "expected fewer than 255 video_units in one sample, got 256: split the sample",
        ]
        assert (index.samples, index.quarantined) == (3, 2)
        assert index.costs(np.arange(3)).sizes() == [RowSize(5, 1), MOST, RowSize(7, 1, 1, 4)]
        assert index.keys(np.arange(3)) == ["k0-0", "k0-2", "k0-4"]
        assert index.pool_ids("image_video", np.array([0])).tolist() == [1]
        assert index.pool_ids("image", np.array([0])).tolist() == [2]


KINDS: dict[Pool, RowSize] = {
    "text": RowSize(5, 1),
    "image": RowSize(6, 1, 2, 8),
    "video": RowSize(7, 1, 0, 0, 1, 16),
    "image_video": RowSize(8, 1, 3, 12, 2, 32),
}
TOO_MANY = RowSize(1, 1, 1 << 16, 1)
MIXES: dict[str, list[Pool]] = {
    "all four": ["text", "image", "video", "image_video"],
    "hardly a video": [*["text"] * 20, *["image"] * 30, "video"],
    "videos and text": ["text", "video"],
    "only videos": ["video"],
    "only both": ["image_video"],
    "no text": ["image", "video", "image_video"],
    "no videos": ["text", "image"],
    "only text": ["text"],
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("lengths", [(64, 64), (1, 63, 65), (130, 7, 200)])
def test_pools_are_what_a_list_of_all_samples_says(tmp_path: Path, mix: str, lengths: tuple[int, ...]) -> None:
    """Ids, sizes and counts by shard of the pools of all towers, with samples in between that are quarantined."""
    rng = np.random.default_rng(len(lengths))
    kinds = [[MIXES[mix][pick] for pick in rng.integers(0, len(MIXES[mix]), length)] for length in lengths]
    bad = [rng.random(length) < 0.1 for length in lengths]
    bad[0][0] = False  # so that there is a sample
    shards = [
        [TOO_MANY if gone else KINDS[kind] for kind, gone in zip(shard, gaps, strict=True)]
        for shard, gaps in zip(kinds, bad, strict=True)
    ]
    good = [
        [kind for kind, gone in zip(shard, gaps, strict=True) if not gone]
        for shard, gaps in zip(kinds, bad, strict=True)
    ]
    listed = [kind for shard in good for kind in shard]
    with recorded(tmp_path, *shards) as index:
        assert index.samples == len(listed)
        assert index.costs(np.arange(len(listed))).sizes() == [KINDS[kind] for kind in listed]
        for pool in get_args(Pool):
            ids = [at for at, kind in enumerate(listed) if pool in (kind, "all")]
            assert index.pool_size(pool) == len(ids)
            assert index.pool_ids(pool, np.arange(len(ids))).tolist() == ids
            positions = rng.integers(0, len(ids), 50 if ids else 0)  # in any order, with repeats
            assert index.pool_ids(pool, positions).tolist() == [ids[at] for at in positions]
            counts = [sum(pool in (kind, "all") for kind in shard) for shard in good]
            assert index.pool_counts_by_shard(pool).tolist() == counts
            with pytest.raises(RequestError, match=rf"position in pool {pool}: expected 0 <= n < {len(ids)}"):
                index.pool_ids(pool, np.array([len(ids)]))
