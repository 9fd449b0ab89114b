"""The same samples as webdataset: names, groups and bytes, compared with webdataset itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from owl_stream.shards import find_shards
from owl_stream.shards.sample import split_name
from tests.shards.readers import ours, scanned, theirs
from tests.support.damage import member, write
from tests.support.tars import write_shard

NAMES = st.text(alphabet=["a", "B", "_", ".", "/", "\n", "é", "日"], max_size=14) | st.text(max_size=20)
FILES = st.builds("{}{}.{}".format, st.sampled_from(["", "./", "d/"]), st.sampled_from("ab"), st.sampled_from("xyz"))
JUNK = st.sampled_from(["._a.x", "./._a.x", "d/._b.y", ".DS_Store", "d/.DS_Store", "__MACOSX/._a.x", "d/Thumbs.db"])
ODD = st.sampled_from(["__m__", "__m__/a.x", "noext", "d/", "d/.x", "a.X", "b.tar.x", "./a.x.y"])


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
    try:
        expected = theirs(path)
    except ValueError:
        expected = []
    keys = [key for key, _ in expected]
    if expected and len(set(keys)) == len(keys):
        assert ours(path) == expected
    else:
        _, findings = scanned(path)
        assert {f.reason for f in findings} <= {"member_duplicate", "key_interleaved", "shard_empty"}
        assert findings


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(FILES | JUNK, max_size=8))
def test_junk_between_the_members_changes_nothing(tmp_path: Path, names: list[str]) -> None:
    """Wherever it lies: samples and findings are those of the same tar without it."""
    without = [name for name in names if "._" not in name and ".DS_Store" not in name and "Thumbs" not in name]
    tar = write(tmp_path / "t.tar", *(member(name, name.encode()) for name in names))
    clean = write(tmp_path / "clean.tar", *(member(name, name.encode()) for name in without))
    (groups, findings), (expected, expected_findings) = scanned(tar), scanned(clean)
    assert groups == expected
    assert [(f.key, f.member, f.reason) for f in findings] == [(f.key, f.member, f.reason) for f in expected_findings]


def test_long_names_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    """GNU long names and PAX names, non-ASCII included, written by tarfile."""
    deep = "directory/" * 20
    samples = [(f"{deep}ключ-{at:04d}", {"jpg": b"x" * at, "json": b"{}"}) for at in range(3)]
    path = write_shard(tmp_path / "t.tar", samples)
    assert ours(path) == theirs(path)
    assert [key for key, _ in theirs(path)] == [key for key, _ in samples]


@pytest.mark.parametrize("number", range(5))
def test_real_shards_give_the_samples_that_webdataset_gives(shared_data: Path, number: int) -> None:
    """Keys, extensions and every byte of real tars."""
    (shard,) = find_shards([f"real/real-{number:05d}.tar"], shared_data)
    assert ours(shard.path) == theirs(shard.path)
