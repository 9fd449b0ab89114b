"""Samples: the members of a shard that share a key, cut out of the tar as one span of bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import xxhash

from owl_stream.errors import DataChangedError, ReadError, SampleError
from owl_stream.shards.junk import is_junk
from owl_stream.shards.source import NotRegularError, open_regular
from owl_stream.shards.tar import SpanTape, TarDamage, read_entry

MAX_NAME_BYTES = 4096
"""A member's name may be as long as a path on Linux."""


class Member(NamedTuple):
    """One file of a sample: `ext` is what follows the key in `name`, in lower case (`jpg`, `0.jpg`, `json`).

    `offset` is where its data begins in the shard; `data` is a read-only view into the span.
    """

    name: str
    ext: str
    offset: int
    data: memoryview


class Sample(NamedTuple):
    """The members of `shard` that share `key`, in the order of the tar; `offset` is where the first header lies."""

    shard: str
    key: str
    members: tuple[Member, ...]
    offset: int = 0


def sample_name(name: str) -> tuple[str, str] | None:
    """(key, extensions) of a member's name, or None for one that belongs to no sample.

    As in webdataset, except for the files that operating systems and tools leave behind (`is_junk`): they are passed
    over like its own metadata.
    """
    return None if is_meta(name) or is_junk(name) else split_name(name)


def split_name(name: str) -> tuple[str, str] | None:
    """A name as webdataset splits it: (key, extensions), or None where it finds no key or no extension.

    The rule is webdataset's `base_plus_ext`: the key ends at the first dot behind the last slash. A base name that
    begins with a dot takes its directory as the stem; a line break ends what counts as a directory.
    """
    slash = name.rfind("/")
    dot = name.find(".", slash + 1)
    if dot < 0:
        return None
    stem_end = dot if dot > slash + 1 else slash
    line_break = name.find("\n", 0, dot)
    if line_break >= 0:
        stem_end = min(stem_end, line_break)
    start = name.rfind("/", 0, max(stem_end, 0)) + 1
    if start >= dot or "." in name[start:dot]:
        return None
    return name[:dot], name[dot + 1 :]


def is_meta(name: str) -> bool:
    """Whether webdataset passes the member over as metadata: `__name__`, or anything in such a directory."""
    if not name.startswith("__"):
        return False
    first, slash, _ = name.partition("/")
    first = first if slash else first.removesuffix("\n")
    return len(first) >= 4 and first.endswith("__")


def name_fault(name: str) -> str:
    """Why a member of this name must not be used, or an empty string."""
    if name.startswith("/"):
        return "an absolute name"
    if ".." in name.split("/"):
        return "a name with `..`"
    if "\0" in name:
        return "a name with a NUL"
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        return "a name that is not UTF-8 (perhaps latin-1)"
    return f"a name of {len(raw)} bytes, more than {MAX_NAME_BYTES}" if len(raw) > MAX_NAME_BYTES else ""


def read_span(file: int | str | Path, offset: int, length: int, digest: int) -> bytes:
    """The `length` bytes at `offset` of a shard, checked against their xxh3-64.

    `file` is a file descriptor (its position is neither used nor moved) or a path.

    Raises:
        DataChangedError: the bytes are not those that were indexed.
        ReadError: storage failed, or the file is gone for now.
    """
    if not isinstance(file, int):
        try:
            opened = open_regular(file)
        except NotRegularError as exc:
            raise DataChangedError(f"{exc}; index again") from exc
        except OSError as exc:
            raise ReadError(f"{file}: {exc.strerror}; try again") from exc
        try:
            return read_span(opened, offset, length, digest)
        finally:
            os.close(opened)
    pieces: list[bytes] = []
    got = 0
    while got < length:
        try:
            piece = os.pread(file, length - got, offset + got)
        except OSError as exc:
            raise ReadError(f"cannot read {length} bytes @ {offset}: {exc.strerror}; try again") from exc
        if not piece:
            raise DataChangedError(f"expected {length} bytes @ {offset}, the file ends after {got}; index again")
        pieces.append(piece)
        got += len(piece)
    span = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if xxhash.xxh3_64_intdigest(span) != digest:
        raise DataChangedError(f"{length} bytes @ {offset} are not those that were indexed; index again")
    return span


def read_sample(shard: str, span: bytes, offset: int) -> Sample:
    """Cut a span (from `offset` of the shard) into its members. No byte is copied.

    Raises:
        SampleError: the span is no sequence of whole members of one key.
    """
    tape, view = SpanTape(span, offset), memoryview(span).toreadonly()
    members: list[Member] = []
    key, at = "", offset
    try:
        while at < tape.end and (entry := read_entry(tape, at)) is not None:
            named = sample_name(entry.name) if entry.kind in ("file", "refused") else None
            if entry.end > tape.end or entry.kind == "nameless":
                raise _not_whole(shard, entry.start)
            if named is not None and entry.kind == "file":
                if members and named[0] != key:
                    raise _not_whole(shard, entry.start)
                key = named[0]
                data = view[entry.offset - offset : entry.end - offset]
                members.append(Member(entry.name, named[1].lower(), entry.offset, data))
            elif named is not None and members and named[0] == key:
                raise SampleError("member_type", entry.why, shard=shard, key=key, member=entry.name, offset=entry.start)
            at = entry.next
    except TarDamage as damage:
        raise SampleError(damage.reason, damage.detail, shard=shard, key=key, offset=damage.offset) from damage
    if not members:
        raise _not_whole(shard, offset)
    return Sample(shard, key, tuple(members), offset)


def _not_whole(shard: str, offset: int) -> SampleError:
    return SampleError("tar_span", "the span is not one whole sample", shard=shard, offset=offset)
