"""Inputs that people try and that are neither records nor a folder of images: what each one is, and what to do with it.

Told by a name or by the first bytes; nothing is parsed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from owl_stream.errors import ConfigError
from owl_stream.shards.media import IMAGE_SUFFIXES
from owl_stream.shards.sniff import sniff
from owl_stream.shards.source import open_regular

"""What the file begins with that Git puts in the place of a large one."""

_HEAD_BYTES = 1 << 12
_METADATA = "metadata.jsonl"
_CHECK = "`owl-stream check --shards {path!r} --tokenizer tokenizer.json`"

_TABLE = (
    "pack reads JSON, JSON Lines and folders of images: write its rows as JSON Lines and its images as files, "
    "then pack that (docs/commands.md, pack, shows how)"
)
_CAPTION_TABLE = (
    f'write a {_METADATA} with one {{"file_name": ..., "text": ...}} a line beside the images, and pack the folder; '
    "or write records as JSON Lines"
)
_UNPACK = "unpack it, and pack what is inside"

_BY_SUFFIX = {
    "parquet": f"a Parquet table: {_TABLE}",
    "arrow": f"an Arrow table: {_TABLE}",
    "feather": f"an Arrow table: {_TABLE}",
    "tfrecord": f"TFRecords: {_TABLE}",
    "h5": f"an HDF5 file: {_TABLE}",
    "hdf5": f"an HDF5 file: {_TABLE}",
    "pkl": f"a Python pickle: {_TABLE}",
    "csv": f"a CSV table: {_CAPTION_TABLE}",
    "tsv": f"a TSV table: {_CAPTION_TABLE}",
    "xlsx": f"a spreadsheet: {_CAPTION_TABLE}",
    "tar": f"a tar: if it is a WebDataset shard it needs no packing, try {_CHECK}; if not, {_UNPACK}",
    "zip": f"a ZIP archive: {_UNPACK}",
    "7z": f"an archive: {_UNPACK}",
    "rar": f"an archive: {_UNPACK}",
    "gz": f"a compressed file: {_UNPACK}",
    "tgz": f"a compressed file: {_UNPACK}",
    "bz2": f"a compressed file: {_UNPACK}",
    "xz": f"a compressed file: {_UNPACK}",
    "zst": f"a compressed file: {_UNPACK}",
    **dict.fromkeys(IMAGE_SUFFIXES, f"one image: pack its folder, with a caption beside each image or a {_METADATA}"),
}
_BY_HEAD = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\x89HDF\r\n": "h5",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
}
_TAR_MAGIC = slice(257, 262)


def refuse_unpackable(path: Path) -> None:
    """Return if `path` may hold records, or images with captions.

    Raises:
        ConfigError: it is something else; the message says what, and what to do.
    """
    if not path.is_dir() and not path.is_file():
        raise ConfigError(f"{path}: expected a file or a directory, got a pipe or a device; write it to a file first")
    try:
        what = _folder(path) if path.is_dir() else _file(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read it: {exc.strerror}") from exc
    if what:
        raise ConfigError(f"{path}: " + what.replace("{path!r}", repr(str(path))))


def is_lfs_pointer(path: str | Path, nbytes: int) -> bool:
    """Whether a file of `nbytes` holds no data but names them for Git LFS."""
    return nbytes < _HEAD_BYTES and sniff(_head(path)) == "git-lfs"


def _head(path: str | Path) -> bytes:
    with open(open_regular(path), "rb") as file:
        return file.read(_HEAD_BYTES)


def _file(path: Path) -> str:
    head, suffix = _head(path), path.suffix[1:].lower()
    if not head:
        return "the file is empty; expected records (JSON or JSON Lines)"
    if sniff(head) == "git-lfs":
        return "a Git LFS pointer, not the data: fetch them with `git lfs pull`, and pack again"
    kind = "tar" if head[_TAR_MAGIC] == b"ustar" else suffix
    kind = next((kind for magic, kind in _BY_HEAD.items() if head.startswith(magic)), kind)
    return _BY_SUFFIX.get(kind) or _encoding(head) or _object(head)


def _encoding(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16; expected UTF-8: convert it (`iconv -f utf-16 -t utf-8`)"
    return "a binary file; expected records (JSON or JSON Lines)" if b"\0" in head else ""


def _object(head: bytes) -> str:
    """What is to be said of a file whose objects go over several lines, of which no line alone is a record."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    if len(lines) < 3 or not lines[0].lstrip().startswith(b"{") or any(map(_is_object, lines[:-1])):
        return ""
    opened = lines[0].count(b"{") + lines[0].count(b"[") > lines[0].count(b"}") + lines[0].count(b"]")
    return _SPREAD if opened else ""


def _is_object(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


_SPREAD = (
    "JSON objects that go over several lines; expected JSON Lines (a record on each line) or an array `[...]` of "
    "records: `jq -c . FILE` writes each object on one line, `jq .FIELD FILE` takes an array out of an object"
)


def _folder(path: Path) -> str:
    """What is to be said of a folder in which there is no image."""
    if (path / "dataset_dict.json").is_file():
        return f"`datasets` wrote this with save_to_disk, several splits of it: {_TABLE}, one split at a time"
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return f"`datasets` wrote this with save_to_disk: {_TABLE}"
    metadata = path / _METADATA
    if metadata.is_file():
        return f"{_METADATA} is {_file(metadata)}" if sniff(_head(metadata)) == "git-lfs" else ""
    suffixes: Counter[str] = Counter()
    for suffix in _suffixes(path):
        if suffix in IMAGE_SUFFIXES:
            return ""
        suffixes[suffix] += 1
    return _without_images(path, suffixes)


def _suffixes(path: Path) -> Iterator[str]:
    for _, _, names in os.walk(path):
        yield from (name.rpartition(".")[2].lower() for name in names if "." in name and not name.startswith("."))


def _without_images(path: Path, suffixes: Counter[str]) -> str:
    known = [suffix for suffix, _ in suffixes.most_common() if suffix in _FOLDERS]
    if not known:
        return f"no image below it; expected images, each with its caption (cat.jpg, cat.txt), or a {_METADATA}"
    suffix = "tar" if "tar" in known else known[0]  # what lies beside shards tells of them
    return f"a folder of {_FOLDERS[suffix]} ({suffixes[suffix]} x .{suffix}) without an image: " + _remedy(path, suffix)


_FOLDERS = {
    "tar": "shards",
    "gz": "compressed files",
    "tgz": "compressed files",
    "zip": "archives",
    "zst": "compressed files",
    "parquet": "Parquet tables",
    "arrow": "Arrow tables",
    "tfrecord": "TFRecords",
    "csv": "CSV tables",
    "tsv": "TSV tables",
    "json": "JSON files",
    "jsonl": "JSON Lines files",
}


def _remedy(path: Path, suffix: str) -> str:
    if suffix == "tar":
        return f"WebDataset shards need no packing, try {_CHECK}; other tars: {_UNPACK}"
    if suffix in ("json", "jsonl"):
        return f"name the files (`owl-stream pack {path}/*.{suffix} --out ...`); --images says where their images lie"
    return _BY_SUFFIX[suffix].partition(": ")[2]
