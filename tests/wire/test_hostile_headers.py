"""Headers that lie: hostile values in every field, and headers that are small on the wire and huge in memory."""

from __future__ import annotations

import copy
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import xxhash

from owl_stream.errors import FrameError
from owl_stream.wire import (
    MAX_HEADER_BYTES,
    BatchHeader,
    FrameParser,
    RowInfo,
    SchemaEntry,
    check_schema,
    check_tensors,
    lay_out,
    pack_frame,
    tensor_views,
)
from tests.wire.test_frames import BATCH, PAYLOAD, TABLE, feed, raw_frame, refuse

GOLDEN = {
    "hello": "96bb7aa744b12d51",
    "batch": "849db22c6bde34ec",
    "heartbeat": "37b473a5a5472ed7",
    "stats": "326b394c4c70859a",
    "end": "803ae11a55afd208",
    "error": "7a5136df27b25b05",
}
"""xxh3-64 of the frames of `TABLE` as version 1 has always written them."""

VALUES: list[Any] = [
    None, True, False, -1, 1, 2**53 + 1, 2**63, 2**64 - 1, 0.0, 1.0, float("inf"), float("-inf"), float("nan"), "",
    "x" * 70_000, "\ud7ff\U0001f600", b"", b"\xff", [], [None], [[]], [-1], [1.0], [2**63, 0], [2**53, 0], [0] * 9,
    [2**32, 2**32, 0], ["a"], ["a", "b"], ["a", 1], {}, {"a": 1}, {"a": "b"}, {"a": None}, {"a": {"a": {}}},
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1), [{}] * 70_000, {str(i): "" for i in range(300)},
]  # fmt: skip

HEADERS = {header.kind: (header, payload) for header, payload in TABLE}


def header_map(kind: str) -> dict[str, Any]:
    """The map of a kind's header in `TABLE`."""
    raw: dict[str, Any] = msgpack.unpackb(pack_frame(*HEADERS[kind]))[1]
    return raw


def places(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a map, nested ones too."""
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced."""
    copied = copy.deepcopy(raw)
    at = copied
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copied


@pytest.mark.parametrize(("header", "payload"), TABLE, ids=[header.kind for header, _ in TABLE])
def test_frames_are_the_bytes_they_have_always_been(header: Any, payload: bytes) -> None:
    """How headers are read has no say in how they are written."""
    assert xxhash.xxh3_64_hexdigest(pack_frame(header, payload)) == GOLDEN[header.kind]


@pytest.mark.parametrize("kind", HEADERS)
def test_fault_134_no_value_anywhere_does_more_than_a_frame_error(kind: str) -> None:
    """Every value of every kind in turn is replaced by every hostile one: a frame error, or a header within bounds."""
    raw, payload = header_map(kind), HEADERS[kind][1]
    for path in places(raw):
        for value in VALUES:
            parser = FrameParser(allocate=lambda nbytes: memoryview(bytearray(nbytes)))
            data = raw_frame(changed(raw, path, value), len(payload)) + payload
            refused = ""
            try:
                feed(data, 1 << 20, parser)
            except FrameError as exc:
                refused = str(exc)
            assert len(refused) < 2000
            assert refused or type(value) is not float or path[0] == "values", (path, value)


@pytest.mark.parametrize("kind", HEADERS)
def test_every_key_of_a_header_is_needed(kind: str) -> None:
    """A key that is missing is refused by name, in nested maps too; one more than there should be is passed over."""
    raw, payload = header_map(kind), HEADERS[kind][1]
    for path in places(raw):
        if not isinstance(path[-1], str) or (path[0] in {"components", "values"} and len(path) > 1):
            continue
        without = copy.deepcopy(raw)
        at = without
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        with pytest.raises(FrameError, match=path[-1]):
            feed(raw_frame(without, len(payload)), 1 << 20, FrameParser(allocate=refuse))
    feed(raw_frame({**raw, "novelty": [{"a": [1.5, None]}]}, len(payload)), 1 << 20, FrameParser())


def filled(kind: str, key: str, unit: bytes, head: bytes = b"\xdd") -> bytes:
    """A header of 8 MiB: that of `TABLE` with `key` holding as many `unit`s as fit, an array unless `head` says map."""
    raw = {name: value for name, value in header_map(kind).items() if name != key}
    whole = b"".join(msgpack.packb(part) for pair in raw.items() for part in pair) + msgpack.packb(key)
    count = (MAX_HEADER_BYTES - len(whole) - 10) // len(unit)
    return b"\xdf" + struct.pack(">I", len(raw) + 1) + whole + head + struct.pack(">I", count) + unit * count


def text_of(nbytes: int) -> str:
    """One character that needs four bytes makes all others need as many in memory."""
    return "\U0001f600" + "a" * (nbytes - 4)


ROW = {"shard": "", "key": "", "status": "ok", "reason": "", "replaces": ["ab", "cd"]}
ENTRY = {"name": "", "dtype": "", "dims": []}
TENSOR = {"name": "", "dtype": "", "shape": [], "offset": 0, "nbytes": 0}

HUGE = {
    "empty_arrays": filled("batch", "novelty", b"\x90"),
    "empty_maps": filled("batch", "novelty", b"\x80"),
    "nils": filled("batch", "novelty", b"\xc0"),
    "pairs": filled("heartbeat", "novelty", b"\xa1a\x90", b"\xdf"),
    "empty_arrays_for_rows": filled("batch", "rows", b"\x90"),
    "tiny_rows": filled("batch", "rows", msgpack.packb(ROW)),
    "as_many_rows_as_may_be": msgpack.packb({**header_map("batch"), "rows": [ROW] * (1 << 16)}),
    "tiny_tensors": filled("batch", "tensors", msgpack.packb(TENSOR)),
    "tiny_entries": filled("hello", "schema", msgpack.packb(ENTRY)),
    "tiny_components": filled("hello", "components", b"\xa1a\xa0", b"\xdf"),
    "tiny_statistics": filled("stats", "values", b"\xa1a\x00", b"\xdf"),
    "cursor": filled("end", "cursor", b"\x00"),
    "nested": filled("batch", "novelty", b"\x91"),
    "one_text": msgpack.packb({**header_map("hello"), "server": text_of(MAX_HEADER_BYTES - 1000)}),
    "one_kind": msgpack.packb({"kind": text_of(MAX_HEADER_BYTES - 1000)}),
    "one_key": msgpack.packb({text_of(MAX_HEADER_BYTES - 1000): 1, "kind": "heartbeat"}),
}
MOST_BYTES = 64 << 20


@pytest.mark.parametrize("packed", HUGE.values(), ids=HUGE)
def test_fault_135_a_header_costs_memory_in_proportion_to_its_bytes(packed: bytes) -> None:
    """8 MiB that a generic decoder makes half a gigabyte of."""
    assert len(packed) <= MAX_HEADER_BYTES
    data = raw_frame(packed, len(PAYLOAD))
    parser = FrameParser(allocate=lambda nbytes: memoryview(bytearray(nbytes)))
    tracemalloc.start()
    try:
        feed(data, 1 << 20, parser)
    except FrameError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_BYTES + MAX_HEADER_BYTES, peak  # the parser's own copy of the header comes on top


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6"])
@pytest.mark.parametrize(("kind", "key"), [("batch", "rows"), ("hello", "components"), ("batch", "novelty")])
def test_fault_135_a_length_that_lies_costs_nothing(head: bytes, kind: str, key: str) -> None:
    """An array, map, text or bytes of 2**32 - 1 in a few bytes."""
    raw = {name: value for name, value in header_map(kind).items() if name != key}
    whole = b"".join(msgpack.packb(part) for pair in raw.items() for part in pair) + msgpack.packb(key)
    packed = b"\xdf" + struct.pack(">I", len(raw) + 1) + whole + head + b"\xff" * 4
    tracemalloc.start()
    with pytest.raises(FrameError):
        feed(raw_frame(packed, 64), 1 << 20, FrameParser(allocate=refuse))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("shape", [(2**63, 0), (2**53, 0), (2**32, 0), (0, 2**20, 2**20), (2**31, 2, 0)])
def test_fault_134_shapes_that_numpy_cannot_say(shape: tuple[int, ...]) -> None:
    """An empty dimension does not excuse what stands beside it."""
    raw = {
        **header_map("batch"),
        "tensors": [{"name": "x", "dtype": "int64", "shape": shape, "offset": 0, "nbytes": 0}],
    }
    with pytest.raises(FrameError, match=r"x'|shape"):
        feed(raw_frame(raw, 64), 1 << 20, FrameParser(allocate=refuse))


def test_empty_tensors_of_an_empty_payload_have_views() -> None:
    """What the checks let through, numpy takes."""
    specs, nbytes = lay_out([("x", "int64", (2**31, 0)), ("y", "uint8", (0,)), ("z", "float16", (0, 3, 0))])
    assert nbytes == 0
    header = BatchHeader(**{**vars(BATCH), "tensors": specs})
    (frame,) = feed(pack_frame(header), 1 << 20, FrameParser())
    assert {name: view.shape for name, view in tensor_views(frame.payload, specs).items()} == {
        "x": (2**31, 0),
        "y": (0,),
        "z": (0, 3, 0),
    }


SCHEMA = (
    SchemaEntry("input_ids", "int64", ("B", "L")),
    SchemaEntry("labels", "int64", ("B", "L")),
    SchemaEntry("media_offset", "int64", ("B", "L", 2)),
    SchemaEntry("pixel_values", "uint8", ("C", 3, 4, 4)),
)
RIGHT = [
    ("input_ids", "int64", (2, 5)),
    ("labels", "int64", (2, 5)),
    ("media_offset", "int64", (2, 5, 2)),
    ("pixel_values", "uint8", (1, 3, 4, 4)),
]


def batch_of(tensors: list[tuple[str, str, tuple[int, ...]]]) -> BatchHeader:
    """A batch of two rows and one crop with those tensors."""
    return BatchHeader(**{**vars(BATCH), "tensors": lay_out(tensors)[0]})


def test_tensors_that_the_schema_promised_are_taken() -> None:
    """In any order; letters have the size of this batch."""
    check_schema(SCHEMA)
    check_tensors(batch_of(RIGHT), SCHEMA)
    check_tensors(batch_of(RIGHT[::-1]), SCHEMA)


WRONG = {
    "missing": (RIGHT[:3], "'pixel_values': expected uint8 .* got none"),
    "unknown": ([*RIGHT, ("gift", "uint8", (1,))], "'gift': expected only"),
    "dtype": ([("input_ids", "int32", (2, 5)), *RIGHT[1:]], r"'input_ids': expected int64 .* got int32 \[2, 5\]"),
    "rows": ([("input_ids", "int64", (3, 5)), *RIGHT[1:]], r"'input_ids': .*B = 2.* got int64 \[3, 5\]"),
    "other_length": ([*RIGHT[:2], ("media_offset", "int64", (2, 6, 2)), RIGHT[3]], r"'media_offset': .*L = 5.* 6"),
    "number": ([*RIGHT[:2], ("media_offset", "int64", (2, 5, 3)), RIGHT[3]], r"'media_offset': .* got int64 \[2, 5, 3"),
    "crops": ([*RIGHT[:3], ("pixel_values", "uint8", (2, 3, 4, 4))], r"'pixel_values': .*C = 1.* got uint8 \[2"),
    "fewer_dimensions": ([*RIGHT[:3], ("pixel_values", "uint8", (48,))], r"'pixel_values': .* got uint8 \[48\]"),
    "no_dimensions": ([("input_ids", "int64", ()), *RIGHT[1:]], r"'input_ids': .* got int64 \[\]"),
}


@pytest.mark.parametrize(("tensors", "message"), WRONG.values(), ids=WRONG)
def test_fault_134_other_tensors_are_refused_by_name(
    tensors: list[tuple[str, str, tuple[int, ...]]], message: str
) -> None:
    """The message has what `hello` says and what came."""
    with pytest.raises(FrameError, match=message):
        check_tensors(batch_of(tensors), SCHEMA)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ((SchemaEntry("x", "complex512", ("B",)),), "expected a dtype of uint8"),
        ((SCHEMA[0], SCHEMA[0]), "twice"),
    ],
)
def test_fault_134_a_schema_that_no_batch_could_follow(schema: tuple[SchemaEntry, ...], message: str) -> None:
    """It is refused before the first batch."""
    with pytest.raises(FrameError, match=message):
        check_schema(schema)


def test_rows_are_as_they_were_written() -> None:
    """Every status and `replaces`, as records that compare equal."""
    rows = tuple(RowInfo(f"s{i}", f"k{i}", "masked", "why", ("a", "b") if i % 2 else None) for i in range(300))
    header = BatchHeader(**{**vars(BATCH), "rows": rows})
    (frame,) = feed(pack_frame(header, PAYLOAD), 1 << 20, FrameParser())
    assert frame.header == header
