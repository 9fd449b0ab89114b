"""A cache of pixels on disk, by content: the sample's bytes and what makes pixels of them, never a name or a place.

So epochs, data sets, jobs and servers that share a directory share its pixels. One file holds the pixels of one sample;
it appears by a rename and carries the digest of its own content, so neither a process that is killed nor a machine that
loses power nor a full disk leaves anything that is taken for pixels: the worst is that a sample is decoded again.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from owl_stream.layouts import Visual
from owl_stream.privacy import PRIVATE, Readers, create, make_directory, tighten_open

log = logging.getLogger("owl_stream.assemble")

SHELVES = 32
"""Directories that files are spread over; each keeps to its share of the bytes by itself."""

_HEAD = struct.Struct("<8s16sQQ")
"""Magic, key, length of the pixels in bytes, xxh3-64 of them."""
_MAGIC = b"owlpix01"
_SUFFIX, _UNFINISHED = ".pixels", ".part"

_ROOM = 0.9
"""Of its share a shelf keeps when it has grown too full, so that it is not looked through at every write."""
_LOOK_EVERY = 0.05
"""Of its share a process writes to a shelf before it looks again at what others have written there."""
_ABANDONED_S = 3600.0
"""After this an unfinished file is nobody's any more."""
_REST_S = 60.0
"""How long nothing is written after a write has failed: a full disk is not asked for every sample."""


@dataclass(frozen=True)
class CacheSettings:
    """Where pixels are kept and how many bytes of them, over all processes that share the directory.

    Each process may exceed it by a twentieth for a moment: it does not look at every write what others have written.
    """

    directory: Path
    max_bytes: int


def pixels_key(span: bytes, visuals: Sequence[Visual], drawing: str, assembly: str) -> bytes:
    """16 bytes that name the pixels of a sample: its bytes, its visuals, what draws them, and with which libraries."""
    recipe = msgpack.packb((xxhash.xxh3_128_digest(span), list(visuals), drawing, assembly))
    return xxhash.xxh3_128_digest(recipe)


Pixels = Mapping[str, NDArray[np.uint8]]
"""A row's part of each drawn tensor, by the tensor's name."""


def _key(key: bytes, tensor: str) -> bytes:
    """16 bytes that name the pixels of one tensor of a sample."""
    return xxhash.xxh3_128_digest(key + tensor.encode())


class PixelCache:
    """One process's way to the cache. Nothing here ever fails: what does not work is a miss.

    Least recently used files go first; a hit makes a file young again.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._directory = settings.directory
        self._share = max(1, settings.max_bytes // SHELVES)
        self._unseen: dict[str, int] = {}
        self._unfinished = f".{secrets.token_hex(8)}{_UNFINISHED}"  # process ids repeat among containers
        self._resting_until = 0.0
        self.hits = self.misses = 0

    def read(self, key: bytes, pixels: Pixels, readers: Readers | None = None) -> bool:
        """Fill `pixels` (C-contiguous, one array a tensor) if they are here. If not, their content is undefined.

        A file that others than `readers` may read, as earlier versions wrote them, is kept from them.
        """
        found = all(self._read(_key(key, name), pixels[name].data.cast("B"), readers) for name in pixels)
        self.hits += found
        self.misses += not found
        return found

    def write(self, key: bytes, pixels: Pixels, readers: Readers = PRIVATE) -> None:
        """Keep pixels, if there is room and the disk is willing; nobody but the owner and `readers` may read them."""
        largest = max((array.nbytes for array in pixels.values()), default=0)
        if _HEAD.size + largest > self._share or time.monotonic() < self._resting_until:
            return
        try:
            for name, array in pixels.items():
                self._write(_key(key, name), array.data.cast("B"), readers)
        except OSError as exc:
            self._resting_until = time.monotonic() + _REST_S
            log.warning("pixel cache %s: %s; nothing is written for %g s", self._directory, exc.strerror, _REST_S)

    def _read(self, key: bytes, pixels: memoryview, readers: Readers | None) -> bool:
        path = self._path(key)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold up
        except OSError:
            return False
        head = bytearray(_HEAD.size)
        try:
            got = os.preadv(file, [head, pixels], 0)
            with suppress(OSError):  # on a file system that is read-only, files just grow old
                os.utime(file)
            if readers is not None:
                tighten_open(file, readers, path)
        except OSError as exc:
            log.warning("pixel cache %s: %s", path, exc.strerror)
            return False
        finally:
            os.close(file)
        expected = (_MAGIC, key, pixels.nbytes, xxhash.xxh3_64_intdigest(pixels))
        if got == _HEAD.size + pixels.nbytes and _HEAD.unpack(head) == expected:
            return True
        log.warning("pixel cache %s: damaged; thrown away", path)
        with suppress(OSError):
            path.unlink()
        return False

    def _write(self, key: bytes, pixels: memoryview, readers: Readers) -> None:
        path = self._path(key)
        nbytes = _HEAD.size + pixels.nbytes
        self._make_room(path.parent, nbytes)
        unfinished = path.with_suffix(self._unfinished)
        file = create(unfinished, readers)
        try:
            try:
                head = _HEAD.pack(_MAGIC, key, pixels.nbytes, xxhash.xxh3_64_intdigest(pixels))
                if os.writev(file, [head, pixels]) != nbytes:
                    raise OSError(0, "no room for the whole file")
            finally:
                os.close(file)
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def _make_room(self, shelf: Path, nbytes: int) -> None:
        """See that a shelf has room for a file more. What others write in the meantime is seen at the next look."""
        left = self._unseen.get(shelf.name, 0) - nbytes
        if left < 0:
            make_directory(self._directory, PRIVATE)
            with suppress(FileExistsError):  # as open as the whole cache, which the user may share
                shelf.mkdir(self._directory.stat().st_mode & 0o777)
            used = self._tidy(shelf, nbytes)
            left = int(min(self._share - used, self._share * _LOOK_EVERY)) - nbytes
        self._unseen[shelf.name] = left

    def _tidy(self, shelf: Path, nbytes: int) -> int:
        """Remove the oldest files of a shelf that has no room; returns the bytes that are left."""
        files = sorted(_files(shelf))
        used = sum(size for _, size, _ in files)
        if used + nbytes <= self._share:
            return used
        for _, size, path in files:
            with suppress(OSError):  # another process may have been quicker
                os.unlink(path)
            used -= size
            if used + nbytes <= self._share * _ROOM:
                break
        return used

    def _path(self, key: bytes) -> Path:
        return self._directory / f"{key[0] % SHELVES:02x}" / f"{key.hex()}{_SUFFIX}"


def _files(shelf: Path) -> Iterator[tuple[int, int, str]]:
    """(time of last use, bytes, path) of what lies on a shelf; long abandoned unfinished files are removed."""
    with os.scandir(shelf) as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    yield status.st_mtime_ns, status.st_size, entry.path
                elif entry.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED_S:
                    os.unlink(entry.path)
