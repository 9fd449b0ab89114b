"""What is no tar is named by what it is, with what to do.

Fault 106 of docs/faults.md.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest

from owl_stream.errors import DataError
from owl_stream.shards import build_index
from tests.shards import measures
from tests.shards.readers import scanned, shard_at
from tests.support.damage import member, write
from tests.support.tars import picture

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1073741824\n"
)


def zipped() -> bytes:
    """A zip archive of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("0000.json", "{}")
    return out.getvalue()


FORMS = {
    "git lfs": (POINTER, "shard_lfs_pointer", "Git LFS pointer, not the shard itself; run `git lfs pull`"),
    "old git lfs": (POINTER.replace(b"v1", b"v2", 1), "shard_lfs_pointer", "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "shard_not_tar", "an HTML page"),
    "html below": (b"\xef\xbb\xbf\n  <HTML><body>" + b"x" * 2000, "shard_not_tar", "download the shard again"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "shard_not_tar", "an XML document"),
    "json": (b'{"messages": []}\n' * 100, "shard_not_tar", "`owl-stream pack`"),
    "json array": (b' [{"from": "human"}]', "shard_not_tar", "JSON"),
    "parquet": (b"PAR1" + bytes(600) + b"PAR1", "shard_not_tar", "a Parquet file"),
    "arrow": (b"ARROW1\0\0" + bytes(600), "shard_not_tar", "an Arrow file"),
    "arrow stream": (b"\xff\xff\xff\xff\x10\0\0\0" + b"x" * 600, "shard_not_tar", "`save_to_disk`"),
    "zip": (zipped(), "shard_not_tar", "a zip archive; unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "shard_not_tar", "an HDF5 file"),
    "jpeg": (picture(64, 64), "shard_not_tar", "a JPEG image"),
    "gzip": (gzip.compress(b"x"), "shard_compressed", "gzip data"),
    "bzip2": (bz2.compress(b"x"), "shard_compressed", "bzip2 data"),
    "xz": (lzma.compress(b"x"), "shard_compressed", "decompress it to .tar"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(600), "shard_compressed", "lz4 data"),
    "empty": (b"", "shard_empty", "zero bytes"),
    "noise": (b"\x01\x02\x03" * 300, "tar_checksum", "not a tar header"),
}


@pytest.mark.parametrize("form", FORMS)
def test_fault_48_a_shard_that_is_no_tar_is_named(tmp_path: Path, form: str) -> None:
    """Its reason can be counted, its detail says what it is and what to do."""
    content, reason, said = FORMS[form]
    (tmp_path / "t.tar").write_bytes(content)
    groups, (finding,) = scanned(tmp_path / "t.tar")
    assert groups == []
    assert (finding.key, finding.offset, finding.reason) == ("", 0, reason)
    assert said in finding.detail
    assert f"{len(content)} bytes were left unread" in finding.detail


@pytest.mark.parametrize("start", [b"PK\x03\x04.jpg", b"{.json", b"[0].json", b"BZh.jpg", b"PAR1.txt"])
def test_a_tar_whose_first_name_looks_like_another_form_is_read(tmp_path: Path, start: bytes) -> None:
    """Only what cannot be read as a tar is judged by its first bytes."""
    groups, findings = scanned(write(tmp_path / "t.tar", member(start), member(b"0001.json")))
    assert len(groups) == 2
    assert findings == ()


def test_a_data_set_of_pointers_says_so(tmp_path: Path) -> None:
    """The reason that the last line counts is the one word that a newcomer needs."""
    (tmp_path / "t.tar").write_bytes(POINTER)
    with pytest.raises(DataError, match="1 x shard_lfs_pointer"):
        build_index(
            [shard_at(tmp_path / "t.tar")], measures.members, "00" * 16, None, processes=0, on_bad_sample="mask"
        )
