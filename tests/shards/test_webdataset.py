"""The same samples as webdataset: names, groups and bytes, compared with webdataset itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from owl_stream.shards import Shard, find_shards, read_sample, read_span
from owl_stream.shards.sample import split_name
from owl_stream.shards.scan import scan_shard
from tests.shards.measures import member_cost
from tests.support.damage import member, write
from tests.support.tars import write_shard

Groups = list[tuple[str, dict[str, bytes]]]

NAMES = st.text(alphabet=["a", "B", "_", ".", "/", "\n", "é", "日"], max_size=14) | st.text(max_size=20)
FILES = st.builds("{}{}.{}".format, st.sampled_from(["", "./", "d/"]), st.sampled_from("ab"), st.sampled_from("xyz"))
ODD = st.sampled_from(["__m__", "__m__/a.x", "noext", "d/", "d/.x", "a.X", "b.tar.x", "./a.x.y"])


def theirs(path: Path) -> Groups:
    """What webdataset makes of a shard."""
    with path.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in samples]


def ours(shard: Shard) -> Groups:
    """What a scan makes of it, read back span by span."""
    scan, _ = scan_shard(shard, member_cost, lambda *_: None)
    assert not scan.findings
    groups = []
    for block, length, digest in scan.spans.tolist():
        sample = read_sample(shard.name, read_span(shard.path, block * 512, length, digest), block * 512)
        groups.append((sample.key, {m.ext: bytes(m.data) for m in sample.members}))
    return groups


@given(NAMES)
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    """For any name at all, key and extensions are those of webdataset's own function."""
    expected = base_plus_ext(name)
    assert split_name(name) == (None if expected == (None, None) else expected)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(FILES | ODD, max_size=8))
def test_members_are_grouped_as_webdataset_groups_them(tmp_path: Path, names: list[str]) -> None:
    """Where keys are unique and members are not doubled, any tar gives the same samples; else both refuse."""
    blocks = [member(name, b"", b"5") if name.endswith("/") else member(name, name.encode()) for name in names]
    path = write(tmp_path / "t.tar", *blocks)
    (shard,) = find_shards(["t.tar"], tmp_path)
    try:
        expected = theirs(path)
    except ValueError:
        expected = []
    keys = [key for key, _ in expected]
    if expected and len(set(keys)) == len(keys):
        assert ours(shard) == expected
    else:
        findings = scan_shard(shard, member_cost, lambda *_: None)[0].findings
        assert {f.reason for f in findings} <= {"member_duplicate", "key_interleaved", "shard_empty"}
        assert findings


def test_long_names_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    """GNU long names and PAX names, non-ASCII included, written by tarfile."""
    deep = "directory/" * 20
    samples = [(f"{deep}ключ-{at:04d}", {"jpg": b"x" * at, "json": b"{}"}) for at in range(3)]
    path = write_shard(tmp_path / "t.tar", samples)
    (shard,) = find_shards(["t.tar"], tmp_path)
    assert ours(shard) == theirs(path)
    assert [key for key, _ in theirs(path)] == [key for key, _ in samples]


@pytest.mark.parametrize("number", range(5))
def test_real_shards_give_the_samples_that_webdataset_gives(shared_data: Path, number: int) -> None:
    """Keys, extensions and every byte of real tars."""
    (shard,) = find_shards([f"real/real-{number:05d}.tar"], shared_data)
    assert ours(shard) == theirs(shard.path)
