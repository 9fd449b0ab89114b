"""What a frame can say: one frozen class per kind, and its map on the wire.

The annotations are what `read_header` checks: types, ranges and lengths. A record's fields have no defaults, for every
key of it is on the wire. Keys that are not known are passed over, so that a newer peer may add some.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from owl_stream.wire.bounds import (
    MAX_BATCH_ROWS,
    MAX_DIMENSIONS,
    MAX_REPEAT,
    MAX_TENSORS,
    Channels,
    Count,
    Epoch,
    Letter,
    Message,
    Name,
    NamedCounts,
    NamedNumbers,
    NamedTexts,
    Rank,
    RowCount,
    StepCount,
    WorldSize,
)
from owl_stream.wire.cursor import Cursor
from owl_stream.wire.tensors import TensorSpec

Status = Literal["ok", "filler", "masked", "repeated"]
"""Of a row: as it should be / completes a last step / stands for a bad sample, labels -100 / given a second time."""


@dataclass(frozen=True)
class RowInfo:
    """Where a row came from and why it is as it is.

    A repeated row that stands where a masked one would have, names that sample in `replaces` as (shard, key).
    """

    shard: Name
    key: Name
    status: Status
    reason: Name
    replaces: tuple[Name, Name] | None


@dataclass(frozen=True)
class Normalise:
    """What the client makes of raw pixels, uint8: (x / 255 - mean) / std for each channel along `axis`.

    Then each picture is repeated `repeat` times along a new axis behind the channels, if that is more than once, and
    all axes behind the first become one, if `flatten`.
    """

    mean: Channels
    std: Channels
    axis: Count
    repeat: Annotated[int, Meta(ge=1, le=MAX_REPEAT)]
    flatten: bool


@dataclass(frozen=True)
class SchemaEntry:
    """A tensor that batches of a stream may hold: its dimensions are numbers or letters (`["B", "L", 2]`).

    A batch says what the letters are. An `optional` tensor is left out where one of its letters is 0. `normalise`: what
    is to be done with its pixels. `lengths`: the tensor that cuts it into pieces, as it tells how many of its entries
    belong to each; the client hands out a list of them, or of pixels one tensor in which each piece ends in zeros.
    """

    name: Name
    dtype: Name
    dims: Annotated[tuple[Letter | Count, ...], Meta(max_length=MAX_DIMENSIONS)]
    optional: bool
    normalise: Normalise | None
    lengths: Name | None


@dataclass(frozen=True)
class Totals:
    """What a whole epoch of the plan holds, all ranks together."""

    steps: StepCount
    samples: Count
    fillers: Count
    dropped: Count
    quarantined: Count


@dataclass(frozen=True)
class Hello:
    """First frame of every stream: who speaks, of what, from where."""

    kind: ClassVar[str] = "hello"
    protocol: Count
    server: Name
    dataset: Name
    layout: Name
    fingerprint: Name
    components: NamedTexts
    assembly: Name
    cursor: Cursor
    rank: Rank
    world_size: WorldSize
    micro_batch_size: RowCount
    micros_per_step: RowCount
    steps_per_epoch: StepCount
    schema: Annotated[tuple[SchemaEntry, ...], Meta(max_length=MAX_TENSORS)]


@dataclass(frozen=True)
class BatchHeader:
    """A micro-batch. Nothing in it depends on the stream, the host or the clock.

    `units`: what the towers are given (crops, images, tiles). `lengths`: what the letters of the schema stand for.
    """

    kind: ClassVar[str] = "batch"
    fingerprint: Name
    epoch: Epoch
    step: Count
    micro: Count
    rank: Rank
    world_size: WorldSize
    tensors: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    rows: Annotated[tuple[RowInfo, ...], Meta(max_length=MAX_BATCH_ROWS)]
    attended_tokens: Count
    supervised_tokens: Count
    step_supervised_tokens: Count
    vision_tokens: Count
    units: Count
    lengths: NamedCounts

    @property
    def cursor(self) -> Cursor:
        """The place of this micro-batch."""
        return Cursor(self.epoch, self.step, self.micro)


@dataclass(frozen=True)
class Heartbeat:
    """The stream is alive and has nothing to say yet."""

    kind: ClassVar[str] = "heartbeat"


@dataclass(frozen=True)
class Stats:
    """How the server spends its time on this stream: seconds by stage and sizes of queues, by name."""

    kind: ClassVar[str] = "stats"
    values: NamedNumbers


@dataclass(frozen=True)
class End:
    """The stream delivered all it was asked for; `cursor` is what comes next, `final` that an epoch ended there."""

    kind: ClassVar[str] = "end"
    cursor: Cursor
    final: bool
    totals: Totals


@dataclass(frozen=True)
class ErrorInfo:
    """The stream cannot go on. `retryable` says whether asking again may help."""

    kind: ClassVar[str] = "error"
    code: Name
    message: Message
    retryable: bool


Header = Hello | BatchHeader | Heartbeat | Stats | End | ErrorInfo


def header_to_map(header: Header) -> dict[str, Any]:
    """The map that goes on the wire, keys in the order of the class."""
    if isinstance(header, BatchHeader):  # one per frame: `asdict` would copy every number of it deeply
        tensors, rows = [vars(spec) for spec in header.tensors], [vars(row) for row in header.rows]
        return {"kind": header.kind, **vars(header), "tensors": tensors, "rows": rows, "lengths": dict(header.lengths)}
    return {"kind": header.kind, **asdict(header)}
