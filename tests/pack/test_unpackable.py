"""Inputs that are neither records nor folders of images: one line says what each is and what to do with it."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from owl_stream.errors import ConfigError, DataError
from owl_stream.pack import PackSettings, pack
from tests.pack.foreign import llava, write_array, write_captions, write_lines, write_pictures

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 132735\n"
SPREAD = b'{\n  "info": {},\n  "images": [\n    {"id": 1}\n  ]\n}\n'


def tar() -> bytes:
    """A tar of one small file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("1.json"), io.BytesIO())
    return out.getvalue()


def archive() -> bytes:
    """A ZIP archive of one small file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("1.json", "{}")
    return out.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "train-000000.tar": (tar(), "needs no packing, try `owl-stream check --shards"),
    "shard": (tar(), "needs no packing"),
    "x.parquet": (b"PAR1\0\0", "a Parquet table: .*JSON Lines"),
    "x.bin": (b"PAR1\0\0", "a Parquet table"),
    "data-00000-of-00001.arrow": (b"\xff\xff\xff\xff\x10\0", "an Arrow table"),
    "x.csv": (b"image,caption\n1.jpg,A cat.\n", r"a CSV table: write a metadata\.jsonl"),
    "x.tsv": (b"image\tcaption\n", "a TSV table"),
    "x.zip": (archive(), "a ZIP archive: unpack it"),
    "x.jsonl.gz": (gzip.compress(b"{}\n"), "a compressed file: unpack it"),
    "renamed.jsonl": (gzip.compress(b"{}\n"), "a compressed file: unpack it"),
    "x.jsonl": (POINTER, "a Git LFS pointer, not the data: fetch them with `git lfs pull`"),
    "empty.jsonl": (b"", "the file is empty"),
    "cat.jpg": (b"\xff\xd8\xff\xe0", "one image: pack its folder"),
    "utf16.json": ('[{"a": 1}]'.encode("utf-16"), "UTF-16; expected UTF-8"),
    "weights.pt": (b"\x80\x02\0\0", "a binary file"),
    "coco.json": (SPREAD, "JSON objects that go over several lines; .*jq"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_records_is_named(tmp_path: Path, name: str) -> None:
    """Known by its suffix or by its first bytes; nothing is written."""
    content, expected = FILES[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, expected)


FOLDERS: dict[str, tuple[Mapping[str, bytes], str]] = {
    "shards": (
        {"train-0.tar": b"", "train-1.tar": b""},
        r"a folder of shards \(2 x \.tar\).*`owl-stream check",
    ),
    "deep shards": ({"a/train-0.tar": b"", "README.md": b""}, "a folder of shards"),
    "packed": ({"a-0.tar": b"", "a.manifest.json": b"{}", "b.json": b"{}"}, "a folder of shards"),
    "parquet": ({"data/train-0.parquet": b"PAR1", "README.md": b""}, r"a folder of Parquet tables \(1 x"),
    "saved": ({"dataset_info.json": b"{}", "state.json": b"{}", "data-0.arrow": b""}, "save_to_disk: pack reads JSON"),
    "saved splits": ({"dataset_dict.json": b"{}", "train/data-0.arrow": b""}, "save_to_disk.*one split at a time"),
    "json files": ({"1.json": b"{}", "2.json": b"{}"}, r"a folder of JSON files .*name the files \(`owl-stream pack "),
    "json lines": ({"1.jsonl": b"{}"}, "a folder of JSON Lines files"),
    "csv": ({"labels.csv": b"a,b"}, "a folder of CSV tables"),
    "downloaded metadata": ({"metadata.jsonl": POINTER, "1.jpg": b"x"}, "metadata.jsonl is a Git LFS pointer"),
    "nothing": ({}, "no image below it; expected images, each with its caption"),
    "texts": ({"1.txt": b"A cat."}, "no image below it"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_without_images_is_named(tmp_path: Path, kind: str) -> None:
    """By what it holds most of, at any depth."""
    files, expected = FOLDERS[kind]
    folder = tmp_path / "input"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    refused(folder, expected)


def refused(path: Path, expected: str) -> None:
    """Packing ends with one line that names the path, and leaves nothing behind."""
    out = path.parent / "out"
    with pytest.raises(ConfigError, match=expected) as caught:
        pack(PackSettings(inputs=(path,), out=out), workers=1)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """`pack <(jq ...)`: it would have to be read twice."""
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "got a pipe or a device; write it to a file first")


def test_what_lies_beside_images_disturbs_nobody(tmp_path: Path) -> None:
    """A folder of images with captions may hold a table or a tar too; records may lie in files of any name."""
    folder = write_captions(tmp_path / "c", 1)
    for name in ("labels.csv", "old.tar", "index.json"):
        (folder / name).write_bytes(b"x")
    assert pack(PackSettings(inputs=(folder,), out=tmp_path / "a"), workers=1).samples == 1
    records = write_lines(tmp_path / "records.txt", llava(write_pictures(tmp_path, 1)))
    assert pack(PackSettings(inputs=(records,), out=tmp_path / "b"), workers=1).samples == 2


def test_lines_of_which_some_are_bad_are_still_lines(tmp_path: Path) -> None:
    """A broken first line does not make a file of JSON Lines into something else."""
    good = [json.dumps(record) for record in llava(write_pictures(tmp_path, 2))]
    (tmp_path / "x.jsonl").write_text("\n".join(["{", "", *good]))
    made = pack(PackSettings(inputs=(tmp_path / "x.jsonl",), out=tmp_path / "out"), workers=1)
    assert [(bad.origin.line, bad.reason) for bad in made.bad] == [(1, "json_malformed")]


def test_an_image_that_was_never_fetched_is_named_and_left_out(tmp_path: Path) -> None:
    """Git LFS pointers in the place of images would be masked one by one in training."""
    names = write_pictures(tmp_path, 3)
    (tmp_path / names[1]).write_bytes(POINTER)
    made = pack(
        PackSettings(inputs=(write_array(tmp_path / "x.json", llava(names)[:3]),), out=tmp_path / "out"), workers=1
    )
    assert [bad.reason for bad in made.bad] == ["image_lfs_pointer"]
    assert "git lfs pull" in made.bad[0].detail
    for name in names:
        (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(DataError, match=r"not one good record in .*: 3 x image_lfs_pointer; the first: .*git lfs pull"):
        pack(PackSettings(inputs=(tmp_path / "x.json",), out=tmp_path / "none"), workers=1)
