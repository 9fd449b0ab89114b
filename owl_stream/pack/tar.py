"""Writing one shard: the same entries give the same bytes, and the file is whole or not there."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

import xxhash

from owl_stream.errors import ConfigError, DataError
from owl_stream.pack.entry import BLOCK, Entry
from owl_stream.privacy import Readers, create, readers_of
from owl_stream.shards import open_regular

TEMPORARY = ".tmp"
_END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class PackedShard:
    """A shard that is complete. `digest`: xxh3-128 of the file, 32 hex digits."""

    name: str
    samples: int
    nbytes: int
    digest: str


class Stopped(Exception):  # noqa: N818 - asked for, not an error
    """Another shard failed, or the user stopped: the rest of this one would be written in vain."""


def write_shard(path: Path, entries: Sequence[Entry], stop: Event) -> PackedShard:
    """Write to a temporary file, sync it, rename it: after a crash at any point `path` is absent or complete.

    Nobody but the owner may read it who may not read every file that it is made of.

    Raises:
        ConfigError: the directory cannot be written, or is full.
        DataError: an image changed since it was found.
        Stopped: `stop` was set.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with created(temporary, readers_of_entries(entries, path.parent)) as file:
            shard = _write(file, path.name, entries, stop)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot write it: {exc.strerror}; make room, or choose another --out") from exc
    return shard


def readers_of_entries(entries: Sequence[Entry], beside: Path) -> Readers:
    """Who may read all that these entries are made of, as far as files in the directory `beside` are concerned."""
    return readers_of(map(Path, {path for entry in entries for path in entry.files}), beside)


def created(temporary: Path, readers: Readers) -> BinaryIO:
    """A new file for what is being written, in place of one that an earlier run left behind."""
    temporary.unlink(missing_ok=True)
    return os.fdopen(create(temporary, readers), "wb", buffering=1 << 20)


def sync_directory(path: Path) -> None:
    """Make renames in a directory outlive a power cut."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write(file: BinaryIO, name: str, entries: Sequence[Entry], stop: Event) -> PackedShard:
    digest, nbytes = xxhash.xxh3_128(), 0

    def put(data: bytes) -> None:
        nonlocal nbytes
        file.write(data)
        digest.update(data)
        nbytes += len(data)

    for entry in entries:
        if stop.is_set():
            raise Stopped
        for (member, size), data in zip(entry.members, _contents(entry), strict=True):
            put(_header(member, size))
            put(data)
            put(bytes(-size % BLOCK))
    put(_END)
    return PackedShard(name, len(entries), nbytes, digest.hexdigest())


def _contents(entry: Entry) -> list[bytes]:
    return [entry.document, *(_image(image.path, image.size) for image in entry.images)]


def _image(path: str, size: int) -> bytes:
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(size + 1)
    except OSError as exc:
        raise DataError(f"{path}: cannot read it any more: {exc.strerror}; pack again, what is done is kept") from exc
    if len(data) != size:
        raise DataError(f"{path}: expected {size} bytes, it changed meanwhile; pack again, what is done is kept")
    return data


def _header(name: str, size: int) -> bytes:
    """A ustar header; owner 0 and time 0, so that nothing of this machine gets in."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)
