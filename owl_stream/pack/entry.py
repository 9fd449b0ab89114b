"""One sample on its way into a shard, and what is said of an input that cannot become one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xxhash

from owl_stream.errors import DataError, SampleError
from owl_stream.records import Message, place_media
from owl_stream.shards import Member, Sample, read_record

BLOCK = 512
_STAND_IN = memoryview(b"\0")


@dataclass(frozen=True)
class Draft:
    """What a source says: turns with its own markers, names of images, and the source's own id for it, if any.

    `literal`: markers of other tools are text. `notes`: what is worth telling (`owl_stream.records.notes`).
    `source`: the file that was read, where that is another one than the draft's origin. `tools`: schemas of functions.
    """

    messages: tuple[Message, ...]
    images: tuple[str, ...]
    id: str | int | None = None
    literal: bool = False
    notes: tuple[str, ...] = ()
    source: str = ""
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where in the input something stands: a file as the user named it, and a line from 1 (0: the file as such).

    A record of an array has its `number` there too, from 1, and its own `id`, if any: arrays often are one long line.
    """

    source: str
    line: int = 0
    number: int = 0
    id: str | int | None = None

    def __str__(self) -> str:
        own = "" if self.id is None else f" (id {str(self.id)[:80]!r})"
        record = f", record {self.number}{own}" if self.number else ""
        return f"{self.source}{record}, line {self.line}" if self.line else self.source


@dataclass(frozen=True)
class BadInput:
    """An input that was left out. `reason` is a stable word for counting, `detail` is for people."""

    origin: Origin
    reason: str
    detail: str

    def describe(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "source": self.origin.source,
            "line": self.origin.line,
            "record": self.origin.number or None,
            "id": self.origin.id,
            "reason": self.reason,
            "detail": self.detail,
        }

    def error(self) -> DataError:
        """The same, for who does not skip."""
        return DataError(f"{self.origin}: {self.detail} [{self.reason}]; mend it, or leave such out with --on-bad skip")


@dataclass(frozen=True)
class ImageFile:
    """An image on this machine. `ext`: what its member is called, without a dot; `size` in bytes."""

    path: str
    ext: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Entry:
    """A sample as it will be written: its key, its record as JSON, its images in order. `notes`: as of its draft.

    `source`: the file that its record was read from.
    """

    key: str
    document: bytes
    images: tuple[ImageFile, ...]
    notes: tuple[str, ...] = ()
    source: str = ""

    @cached_property
    def members(self) -> tuple[tuple[str, int], ...]:
        """(name, bytes) of each member, the record first."""
        numbers = [""] if len(self.images) == 1 else [f"{number}." for number in range(len(self.images))]
        images = [
            (f"{self.key}.{number}{image.ext}", image.size) for number, image in zip(numbers, self.images, strict=True)
        ]
        return (f"{self.key}.json", len(self.document)), *images

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all that it is made of."""
        return self.source, *(image.path for image in self.images)

    @property
    def nbytes(self) -> int:
        """What it takes in a tar."""
        return sum(BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK for _, size in self.members)

    def update(self, digest: xxhash.xxh3_128) -> None:
        """Add what its bytes in the shard depend on."""
        digest.update(self.key.encode() + self.document)
        for image in self.images:
            digest.update(os.fsencode(f"\0{image.path}\0{image.ext}\0{image.size}\0{image.mtime_ns}"))


def make_entry(key: str, draft: Draft, images: tuple[ImageFile, ...], source: str) -> Entry:
    """The entry of a draft that was read from the file `source`, read back as a server would read it.

    Raises:
        SampleError: a server would refuse it: turns out of order, markers that do not fit the images, unusable text.
    """
    messages, in_front = place_media(draft.messages, len(images), 0, draft.literal, draft.tools)
    record: Mapping[str, object] = {
        **({"id": draft.id} if draft.id is not None else {}),
        **({"literal_markers": True} if draft.literal else {}),
        **({"tools": draft.tools} if draft.tools else {}),
        "messages": [_turn(message) for message in messages],
    }
    try:
        document = json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise SampleError("text_surrogate", "a text holds bytes that are not UTF-8, or half a surrogate pair") from exc
    entry = Entry(key, document, images, (*draft.notes, *in_front), source)
    names = [name for name, _ in entry.members]
    data = [memoryview(document), *[_STAND_IN] * len(images)]
    members = [Member(name, name[len(key) + 1 :], 0, view) for name, view in zip(names, data, strict=True)]
    read_record(Sample("", key, tuple(members)))
    return entry


def _turn(message: Message) -> dict[str, object]:
    beside = {
        "reasoning_content": message.reasoning,
        "tool_calls": message.calls,
        "tool_call_id": message.call_id,
        "name": message.name,
    }
    said = {name: value for name, value in beside.items() if value}
    turn: dict[str, object] = {"role": message.role, "content": message.content, **said}
    return turn if message.learned else {**turn, "loss": False}
