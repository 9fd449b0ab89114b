"""One record read twice: as it lies in a shard, and packed and then read from the shard that packing wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import SampleError
from owl_stream.pack import PackSettings, pack
from owl_stream.records import Message, RecordOptions
from owl_stream.shards import (
    Index,
    Member,
    Record,
    Sample,
    build_index,
    find_shards,
    read_record,
    read_sample,
    read_span,
)
from tests.shards.measures import conversations
from tests.support.tars import picture

Turns = list[tuple[str, str]]


def messages(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A `messages` record."""
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def asked(question: str, answer: str = "b", **more: Any) -> dict[str, Any]:
    """One question and its answer."""
    return messages(("user", question), ("assistant", answer), **more)


def in_shard(record: object, images: int = 0, options: RecordOptions = RecordOptions()) -> Record:  # noqa: B008 # frozen
    """The record as the only json of a sample with so many images."""
    members = [Member("k.json", "json", 0, memoryview(json.dumps(record).encode()))]
    members += [Member(f"k.{at}.jpg", f"{at}.jpg", 512, memoryview(picture(8, 8, at))) for at in range(images)]
    return read_record(Sample("s.tar", "k", tuple(members)), options)


def packed(record: object, directory: Path, **settings: Any) -> Record | str:
    """The record of the shard that packing made, or the reason why it was left out. Images lie in `directory`."""
    directory.mkdir(exist_ok=True)
    for at in range(3):
        (directory / f"{at}.jpg").write_bytes(picture(8, 8, at))
    records = [record, asked("a good one, so that there is a shard")]
    (directory / "x.json").write_text(json.dumps(records))
    made = pack(PackSettings(inputs=(directory / "x.json",), out=directory / "out", **settings), workers=1)
    if made.bad:
        return made.bad[0].reason
    shards = find_shards([str(directory / "out")], directory)
    with build_index(shards, conversations, "r", directory / "index", processes=0, on_bad_sample="fail") as index:
        return _first(index)


def _first(index: Index) -> Record:
    import numpy as np

    spans = index.spans(np.array([0]))
    where = int(spans.offset[0]), int(spans.length[0])
    span = read_span(index.shards[0].path, *where, int(spans.digest[0]))
    return read_record(read_sample(index.shards[0].name, span, where[0]))


def reason(record: object, images: int = 0, options: RecordOptions = RecordOptions()) -> str:  # noqa: B008 # frozen
    """Why a record is refused in a shard."""
    with pytest.raises(SampleError) as caught:
        in_shard(record, images, options)
    return caught.value.reason


def detail(record: object, images: int = 0) -> str:
    """What is said of it."""
    with pytest.raises(SampleError) as caught:
        in_shard(record, images)
    return caught.value.detail


def turns_of(record: Record | str) -> Turns:
    """Roles and texts."""
    assert isinstance(record, Record), record
    return [(message.role, message.content) for message in record.messages]


def learned(record: Record | str) -> list[str]:
    """The answers that are learned."""
    assert isinstance(record, Record), record
    return [message.content for message in record.messages if message.role == "assistant" and message.learned]


__all__ = ["Message", "asked", "detail", "in_shard", "learned", "messages", "packed", "reason", "turns_of"]
