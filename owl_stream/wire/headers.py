"""What a frame can say: one frozen class per kind, and its map on the wire.

Reading is strict about what it needs and silent about keys it does not know, so that a newer peer may add some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, Literal, get_args

from owl_stream.errors import FrameError
from owl_stream.wire.cursor import Cursor
from owl_stream.wire.tensors import TensorSpec

Status = Literal["ok", "filler", "masked", "repeated"]
"""Of a row: as it should be / completes a last step / stands for a bad sample, labels -100 / given a second time."""

_STATUSES = frozenset(get_args(Status))
_TENSOR_VALUES = itemgetter("name", "dtype", "shape", "offset", "nbytes")
_ROW_VALUES = itemgetter("shard", "key", "status", "reason", "replaces")


@dataclass(frozen=True)
class RowInfo:
    """Where a row came from and why it is as it is.

    A repeated row that stands where a masked one would have, names that sample in `replaces` as (shard, key).
    """

    shard: str
    key: str
    status: Status
    reason: str = ""
    replaces: tuple[str, str] | None = None


@dataclass(frozen=True)
class SchemaEntry:
    """A tensor that batches of a stream may hold: its dimensions are numbers or letters (`["B", "L", 2]`)."""

    name: str
    dtype: str
    dims: tuple[str | int, ...]


@dataclass(frozen=True)
class Totals:
    """What a whole epoch of the plan holds, all ranks together."""

    steps: int
    samples: int
    fillers: int
    dropped: int
    quarantined: int


@dataclass(frozen=True)
class Hello:
    """First frame of every stream: who speaks, of what, from where."""

    kind: ClassVar[str] = "hello"
    protocol: int
    server: str
    dataset: str
    layout: str
    fingerprint: str
    components: Mapping[str, str]
    assembly: str
    cursor: Cursor
    rank: int
    world_size: int
    micro_batch_size: int
    micros_per_step: int
    steps_per_epoch: int
    schema: tuple[SchemaEntry, ...]


@dataclass(frozen=True)
class BatchHeader:
    """A micro-batch. Nothing in it depends on the stream, the host or the clock."""

    kind: ClassVar[str] = "batch"
    fingerprint: str
    epoch: int
    step: int
    micro: int
    rank: int
    world_size: int
    tensors: tuple[TensorSpec, ...]
    rows: tuple[RowInfo, ...]
    attended_tokens: int
    supervised_tokens: int
    step_supervised_tokens: int
    crops: int

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
    values: Mapping[str, float] = field(default_factory=dict)


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
    code: str
    message: str
    retryable: bool


Header = Hello | BatchHeader | Heartbeat | Stats | End | ErrorInfo


def header_to_map(header: Header) -> dict[str, Any]:
    """The map that goes on the wire, keys in the order of the class."""
    if isinstance(header, BatchHeader):  # one per frame: `asdict` would copy every number of it deeply
        tensors, rows = [vars(spec) for spec in header.tensors], [vars(row) for row in header.rows]
        return {"kind": header.kind, **vars(header), "tensors": tensors, "rows": rows}
    return {"kind": header.kind, **asdict(header)}


def header_from_map(raw: object) -> Header:
    """Read a header map.

    Raises:
        FrameError: an unknown kind, a missing key or a value of the wrong type, by name.
    """
    if not isinstance(raw, dict):
        raise FrameError(f"frame header: expected a map, got {type(raw).__name__}")
    fields = _Fields(raw, "frame header")
    kind = fields.text("kind")
    if kind not in _READERS:
        raise FrameError(f"frame header: expected a kind of {', '.join(_READERS)}, got {kind!r}")
    header: Header = _READERS[kind](_Fields(raw, f"{kind} frame"))
    return header


class _Fields:
    """Typed access to a map that came from outside."""

    def __init__(self, raw: object, place: str) -> None:
        if not isinstance(raw, dict):
            raise FrameError(f"{place}: expected a map, got {type(raw).__name__}")
        self._raw, self._place = raw, place

    def _get(self, key: str, kind: type, word: str) -> Any:
        value = self._raw.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FrameError(f"{self._place}: expected {word} at {key!r}, got {value!r:.80}")
        return value

    def text(self, key: str) -> str:
        value = self._raw.get(key)
        return value if type(value) is str else str(self._get(key, str, "text"))

    def flag(self, key: str) -> bool:
        value: bool = self._get(key, bool, "a boolean")
        return value

    def count(self, key: str) -> int:
        value = self._raw.get(key)
        if type(value) is int and value >= 0:
            return value
        number: int = self._get(key, int, "a whole number")
        if number < 0:
            raise FrameError(f"{self._place}: expected a number from 0 at {key!r}, got {number}")
        return number

    def counts(self, key: str) -> tuple[int, ...]:
        values: list[Any] = self._get(key, list, "a list of whole numbers")
        if all(type(value) is int and value >= 0 for value in values):
            return tuple(values)
        return tuple(_Fields({key: value}, self._place).count(key) for value in values)

    def cursor(self, key: str) -> Cursor:
        values = self.counts(key)
        if len(values) != 3:
            raise FrameError(f"{self._place}: expected [epoch, step, micro] at {key!r}, got {list(values)}")
        return Cursor(*values)

    def texts(self, key: str) -> dict[str, str]:
        inner = _Fields(self._raw.get(key), f"{self._place}, {key}")
        return {name: inner.text(name) for name in inner._raw}

    def numbers(self, key: str) -> dict[str, float]:
        inner = _Fields(self._raw.get(key), f"{self._place}, {key}")
        return {name: float(inner._get(name, (int, float), "a number")) for name in inner._raw}  # type: ignore[arg-type] # isinstance takes a tuple

    def items(self, key: str) -> Sequence[Any]:
        values: Sequence[Any] = self._get(key, list, "a list of maps")
        return values

    def inner(self, value: object, key: str, at: int) -> _Fields:
        return _Fields(value, f"{self._place}, {key}[{at}]")

    def maps(self, key: str) -> list[_Fields]:
        return [self.inner(value, key, at) for at, value in enumerate(self.items(key))]

    def raw(self, key: str) -> object:
        return self._raw.get(key)


def _read_hello(fields: _Fields) -> Hello:
    return Hello(
        protocol=fields.count("protocol"),
        server=fields.text("server"),
        dataset=fields.text("dataset"),
        layout=fields.text("layout"),
        fingerprint=fields.text("fingerprint"),
        components=fields.texts("components"),
        assembly=fields.text("assembly"),
        cursor=fields.cursor("cursor"),
        rank=fields.count("rank"),
        world_size=fields.count("world_size"),
        micro_batch_size=fields.count("micro_batch_size"),
        micros_per_step=fields.count("micros_per_step"),
        steps_per_epoch=fields.count("steps_per_epoch"),
        schema=tuple(_read_schema(entry) for entry in fields.maps("schema")),
    )


def _read_schema(fields: _Fields) -> SchemaEntry:
    dims = fields.raw("dims")
    if not isinstance(dims, list) or not all(isinstance(dim, str | int) for dim in dims):
        raise FrameError(f"schema: expected letters and numbers at 'dims', got {dims!r:.80}")
    return SchemaEntry(fields.text("name"), fields.text("dtype"), tuple(dims))


def _read_batch(fields: _Fields) -> BatchHeader:
    return BatchHeader(
        fingerprint=fields.text("fingerprint"),
        epoch=fields.count("epoch"),
        step=fields.count("step"),
        micro=fields.count("micro"),
        rank=fields.count("rank"),
        world_size=fields.count("world_size"),
        tensors=_read_tensors(fields),
        rows=_read_rows(fields),
        attended_tokens=fields.count("attended_tokens"),
        supervised_tokens=fields.count("supervised_tokens"),
        step_supervised_tokens=fields.count("step_supervised_tokens"),
        crops=fields.count("crops"),
    )


def _read_tensors(fields: _Fields) -> tuple[TensorSpec, ...]:
    """All tensors of a batch: as most are, in one go, for a frame has several and a trainer waits; else one by one."""
    raw = fields.items("tensors")
    try:
        names, dtypes, shapes, offsets, sizes = zip(*map(_TENSOR_VALUES, raw), strict=True)
    except (KeyError, TypeError, ValueError):  # one lacks a key or is no map, or there is none
        pass
    else:
        numbers = (*offsets, *sizes, *chain.from_iterable(shapes)) if _all_are(list, shapes) else (-1,)
        if _all_are(str, names + dtypes) and _all_are(int, numbers) and min(numbers) >= 0:
            return tuple(map(TensorSpec, names, dtypes, map(tuple, shapes), offsets, sizes))
    return tuple(_read_tensor(fields.inner(each, "tensors", at)) for at, each in enumerate(raw))


def _read_rows(fields: _Fields) -> tuple[RowInfo, ...]:
    """All rows of a batch, in the same way."""
    raw = fields.items("rows")
    try:
        shards, keys, statuses, reasons, replaces = zip(*map(_ROW_VALUES, raw), strict=True)
    except (KeyError, TypeError, ValueError):
        pass
    else:
        texts = shards + keys + statuses + reasons
        if _all_are(str, texts) and _all_are(type(None), replaces) and _STATUSES.issuperset(statuses):
            return tuple(map(RowInfo, shards, keys, statuses, reasons))
    return tuple(_read_row(fields.inner(each, "rows", at)) for at, each in enumerate(raw))


def _all_are(kind: type, values: Iterable[object]) -> bool:
    return set(map(type, values)) <= {kind}


def _read_tensor(fields: _Fields) -> TensorSpec:
    return TensorSpec(
        fields.text("name"),
        fields.text("dtype"),
        fields.counts("shape"),
        fields.count("offset"),
        fields.count("nbytes"),
    )


def _read_row(fields: _Fields) -> RowInfo:
    status = fields.text("status")
    if status not in _STATUSES:
        raise FrameError(f"batch frame: expected a row status of {', '.join(get_args(Status))}, got {status!r}")
    replaces = fields.raw("replaces")
    if replaces is not None and not (
        isinstance(replaces, list) and len(replaces) == 2 and all(isinstance(part, str) for part in replaces)
    ):
        raise FrameError(f"batch frame: expected [shard, key] or nil at 'replaces', got {replaces!r:.80}")
    return RowInfo(
        fields.text("shard"),
        fields.text("key"),
        status,  # type: ignore[arg-type] # checked against the literal's own values above
        fields.text("reason"),
        (replaces[0], replaces[1]) if isinstance(replaces, list) else None,
    )


def _read_end(fields: _Fields) -> End:
    totals = _Fields(fields.raw("totals"), "end frame, totals")
    return End(
        cursor=fields.cursor("cursor"),
        final=fields.flag("final"),
        totals=Totals(*(totals.count(name) for name in Totals.__dataclass_fields__)),
    )


_READERS: dict[str, Any] = {
    "hello": _read_hello,
    "batch": _read_batch,
    "heartbeat": lambda fields: Heartbeat(),
    "stats": lambda fields: Stats(fields.numbers("values")),
    "end": _read_end,
    "error": lambda fields: ErrorInfo(fields.text("code"), fields.text("message"), fields.flag("retryable")),
}
