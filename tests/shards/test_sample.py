"""Splitting names, reading spans and cutting them into members."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from owl_stream.errors import DataChangedError, ReadError, SampleError
from owl_stream.shards import read_sample, read_span
from owl_stream.shards.sample import is_meta, name_fault, split_name
from tests.support.damage import header, member


def test_splitting_a_hostile_name_is_linear() -> None:
    """Names that take webdataset's pattern quadratic time are split in one go."""
    assert split_name("/" * 4_000_000 + "x.y/.jpg") is None


@pytest.mark.parametrize(
    ("name", "meta"), [("__a__", True), ("__a__/b.jpg", True), ("__a.jpg", False), ("x/__a__", False)]
)
def test_meta_members_are_those_that_webdataset_passes_over(name: str, meta: bool) -> None:
    """Only the first part of a name counts."""
    assert is_meta(name) is meta


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a\0.jpg", "a\udcff.jpg", "a" * 5000 + ".jpg"]
)
def test_hostile_names_have_a_fault(name: str) -> None:
    """Absolute, climbing, NUL, not UTF-8, longer than a path."""
    assert name_fault(name)
    assert not name_fault("train/..hidden/a..b.jpg")


def test_a_span_is_cut_without_copying() -> None:
    """Members are read-only views; offsets count from the start of the shard; extensions are lower case."""
    span = member("a/k.0.JPG", b"pixels") + member("a", b"", kind=b"5") + header("a/k.json", 2) + b"{}"
    sample = read_sample("s.tar", span, 5120)
    assert (sample.shard, sample.key) == ("s.tar", "a/k")
    assert [(m.name, m.ext, m.offset, bytes(m.data)) for m in sample.members] == [
        ("a/k.0.JPG", "0.jpg", 5632, b"pixels"),
        ("a/k.json", "json", 7168, b"{}"),
    ]
    assert all(m.data.readonly and m.data.obj is span for m in sample.members)


@pytest.mark.parametrize(
    "span",
    [
        b"",
        b"short",
        member("a.jpg")[:515],
        header("a.jpg", 100) + b"x" * 99,
        member("a.jpg") + member("b.jpg"),
        member("a.jpg") + b"\xff" * 512,
        member("noext"),
        bytes(1024),
    ],
)
def test_a_span_that_is_not_one_sample_is_refused(span: bytes) -> None:
    """Cut, mixed, garbage, empty: a typed error with the place, never a shorter sample."""
    with pytest.raises(SampleError) as caught:
        read_sample("s.tar", span, 512)
    assert caught.value.shard == "s.tar"
    assert caught.value.offset >= 512


def test_a_span_is_read_and_checked(tmp_path: Path) -> None:
    """By path and by descriptor; the descriptor's position stays where it was."""
    path = tmp_path / "s"
    path.write_bytes(b"0123456789")
    digest = xxhash.xxh3_64_intdigest(b"3456")
    assert read_span(path, 3, 4, digest) == b"3456"
    file = os.open(path, os.O_RDONLY)
    try:
        assert read_span(file, 3, 4, digest) == b"3456"
        assert os.lseek(file, 0, os.SEEK_CUR) == 0
    finally:
        os.close(file)


def test_fault_40_changed_bytes_are_noticed(tmp_path: Path) -> None:
    """A shard rewritten with the same size, and one that became shorter, are data that changed."""
    path = tmp_path / "s"
    path.write_bytes(b"0123456789")
    with pytest.raises(DataChangedError, match="index again"):
        read_span(path, 3, 4, xxhash.xxh3_64_intdigest(b"3x56"))
    with pytest.raises(DataChangedError, match="ends after 2"):
        read_span(path, 8, 4, 0)


def test_fault_54_an_io_error_is_retryable(tmp_path: Path) -> None:
    """The kernel answers EIO for unmapped memory, as a disk would; a file that is gone may come back."""
    with pytest.raises(ReadError, match="error") as caught:
        read_span("/proc/self/mem", 0, 512, 0)
    assert caught.value.retryable
    with pytest.raises(ReadError):
        read_span(tmp_path / "gone", 0, 512, 0)


def test_importing_shards_imports_neither_torch_nor_webdataset() -> None:
    """Assembly workers and the server stay small."""
    script = "import sys, owl_stream.shards; print([m for m in ('torch', 'webdataset', 'fastapi') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
