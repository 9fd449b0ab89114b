"""A batch as people look at it: what a server tells pages and terminals, as JSON. Trainers never ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from owl_stream.errors import FrameError
from owl_stream.wire.bounds import MAX_BATCH_ROWS, Count, Name
from owl_stream.wire.decoding import explain

Span = tuple[Count, Count]
"""[begin, end) of a row's tokens."""


@dataclass(frozen=True)
class LookRun:
    """Tokens that see equally many of the row's units, from its first on, and of which the tensors say the same."""

    begin: Count
    end: Count
    sees: Count
    says: Name


@dataclass(frozen=True)
class LookPicture:
    """A unit's picture as the vision tower gets it: uint8 [height, width, 3]; base64 in JSON."""

    width: Count
    height: Count
    rgb: bytes


@dataclass(frozen=True)
class LookRow:
    """A row: where it came from, its attended tokens, and how many of padding follow.

    `supervised`: tokens that are learned; `units`: tokens that stand for each unit; `pictures`: each unit's.
    """

    shard: Name
    key: Name
    status: Name
    reason: Name
    replaces: tuple[Name, Name] | None
    ids: tuple[Count, ...]
    padding: Count
    supervised: tuple[Span, ...]
    units: tuple[Span, ...]
    runs: tuple[LookRun, ...]
    pictures: tuple[LookPicture, ...]


@dataclass(frozen=True)
class BatchLook:
    """A micro-batch. `unit`: what a unit is called: crop, image, tile. `tensors`: dtype and shape of each, in words.

    `nbytes`: of its frame.
    """

    fingerprint: Name
    layout: Name
    unit: Name
    epoch: Count
    step: Count
    micro: Count
    rank: Count
    world_size: Count
    attended_tokens: Count
    supervised_tokens: Count
    step_supervised_tokens: Count
    vision_tokens: Count
    units: Count
    nbytes: Count
    tensors: dict[Name, Name]
    rows: Annotated[tuple[LookRow, ...], Meta(max_length=MAX_BATCH_ROWS)]


_DECODER = msgspec.json.Decoder(BatchLook)


def pack_look(look: BatchLook) -> bytes:
    """The look as JSON."""
    return msgspec.json.encode(look)


def read_look(data: bytes) -> BatchLook:
    """The look that `pack_look` wrote.

    Raises:
        FrameError: it is none; the message names the key.
    """
    try:
        look: BatchLook = _DECODER.decode(data)
    except (ValueError, RecursionError) as exc:
        raise FrameError(f"look of a batch, {len(data)} bytes of JSON: {explain(exc)}") from exc
    for number, row in enumerate(look.rows):
        spans = [*row.supervised, *row.units, *((run.begin, run.end) for run in row.runs)]
        if any(not begin < end <= len(row.ids) for begin, end in spans):
            raise FrameError(f"look of a batch, row {number}: expected spans within its {len(row.ids)} tokens")
        if any(len(picture.rgb) != picture.width * picture.height * 3 for picture in row.pictures):
            raise FrameError(f"look of a batch, row {number}: expected 3 bytes for each pixel of a picture")
    return look
