"""Headers that lie: hostile values in every field, and headers that are small on the wire and huge in memory."""

from __future__ import annotations

import copy
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import xxhash

from owl_stream.errors import FrameError
from owl_stream.wire import (
    MAX_HEADER_BYTES,
    BatchHeader,
    FrameParser,
    Normalise,
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
    "hello": "28bb9edacd1984e7",
    "batch": "fcce5518682b70e7",
    "heartbeat": "37b473a5a5472ed7",
    "stats": "326b394c4c70859a",
    "end": "803ae11a55afd208",
    "error": "7a5136df27b25b05",
}
"""xxh3-64 of the frames of `TABLE` as version 1 writes them: `hello` and `batch` since they say lengths (issue 16)."""

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
            assert refused or type(value) is not float or {"values", "mean", "std"} & {*path}, (path, value)


@pytest.mark.parametrize("kind", HEADERS)
def test_every_key_of_a_header_is_needed(kind: str) -> None:
    """A key that is missing is refused by name, in nested maps too; one more than there should be is passed over."""
    raw, payload = header_map(kind), HEADERS[kind][1]
    for path in places(raw):
        if not isinstance(path[-1], str) or (path[0] in {"components", "values", "lengths"} and len(path) > 1):
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
ENTRY = {"name": "", "dtype": "", "dims": [], "optional": False, "normalise": None, "lengths": None}
PIXEL_ENTRY = {**ENTRY, "normalise": {"mean": [0] * 4, "std": [0] * 4, "axis": 0, "repeat": 1, "flatten": False}}
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
    "tiny_entries_with_pixels": filled("hello", "schema", msgpack.packb(PIXEL_ENTRY)),
    "tiny_lengths": filled("batch", "lengths", b"\xa1a\x00", b"\xdf"),
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


PIXELS = Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), axis=1, repeat=1, flatten=False)


def line(name: str, dtype: str, *dims: str | int, **others: Any) -> SchemaEntry:
    """A line of a schema: of a tensor that is always there as it is, unless `others` say more."""
    return SchemaEntry(name, dtype, dims, **{"optional": False, "normalise": None, "lengths": None, **others})


SCHEMA = (
    line("input_ids", "int64", "B", "L"),
    line("labels", "int64", "B", "L"),
    line("media_offset", "int64", "B", "L", 2),
    line("pixel_values", "uint8", "C", 3, 4, 4, optional=True, normalise=PIXELS),
)
Tensors = list[tuple[str, str, tuple[int, ...]]]
RIGHT: Tensors = [
    ("input_ids", "int64", (2, 5)),
    ("labels", "int64", (2, 5)),
    ("media_offset", "int64", (2, 5, 2)),
    ("pixel_values", "uint8", (1, 3, 4, 4)),
]
LENGTHS = {"B": 2, "L": 5, "C": 1}


def batch_of(tensors: Tensors, **lengths: int) -> BatchHeader:
    """A batch of two rows, five tokens and one crop with those tensors, unless `lengths` say otherwise."""
    return BatchHeader(**{**vars(BATCH), "tensors": lay_out(tensors)[0], "lengths": {**LENGTHS, **lengths}})


def test_tensors_that_the_schema_promised_are_taken() -> None:
    """In any order; letters have the size of this batch, and one that no tensor needs is passed over."""
    check_schema(SCHEMA)
    check_tensors(batch_of(RIGHT), SCHEMA)
    check_tensors(batch_of(RIGHT[::-1], V=7), SCHEMA)


WRONG = {
    "missing": (RIGHT[:3], "'pixel_values': expected uint8 .* got none"),
    "unknown": ([*RIGHT, ("gift", "uint8", (1,))], "'gift': expected only"),
    "dtype": ([("input_ids", "int32", (2, 5)), *RIGHT[1:]], r"'input_ids': expected int64 .* got int32 \[2, 5\]"),
    "rows": (
        [("input_ids", "int64", (3, 5)), *RIGHT[1:]],
        r"'input_ids': expected int64 \[2, 5\].* got int64 \[3, 5\]",
    ),
    "other_length": (
        [*RIGHT[:2], ("media_offset", "int64", (2, 6, 2)), RIGHT[3]],
        r"'media_offset': expected int64 \[2, 5, 2\].* got int64 \[2, 6, 2\]",
    ),
    "number": ([*RIGHT[:2], ("media_offset", "int64", (2, 5, 3)), RIGHT[3]], r"'media_offset': .* got int64 \[2, 5, 3"),
    "crops": (
        [*RIGHT[:3], ("pixel_values", "uint8", (2, 3, 4, 4))],
        r"'pixel_values': expected uint8 \[1, 3, 4, 4\], uint8 \['C', 3, 4, 4\] in hello, got uint8 \[2",
    ),
    "fewer_dimensions": ([*RIGHT[:3], ("pixel_values", "uint8", (48,))], r"'pixel_values': .* got uint8 \[48\]"),
    "no_dimensions": ([("input_ids", "int64", ()), *RIGHT[1:]], r"'input_ids': .* got int64 \[\]"),
}


@pytest.mark.parametrize(("tensors", "message"), WRONG.values(), ids=WRONG)
def test_fault_134_other_tensors_are_refused_by_name(tensors: Tensors, message: str) -> None:
    """The message has what `hello` says and what came."""
    with pytest.raises(FrameError, match=message):
        check_tensors(batch_of(tensors), SCHEMA)


@pytest.mark.parametrize("letter", LENGTHS)
def test_fault_134_a_batch_must_say_every_letter(letter: str) -> None:
    """A letter that `lengths` lacks is named."""
    lengths = {name: size for name, size in LENGTHS.items() if name != letter}
    with pytest.raises(FrameError, match=f"lengths: expected '?{letter}"):
        check_tensors(BatchHeader(**{**vars(batch_of(RIGHT)), "lengths": lengths}), SCHEMA)


def test_fault_134_the_letter_of_rows_is_their_number() -> None:
    """Also where all tensors agree with it."""
    three: Tensors = [(name, dtype, (3, *shape[1:])) for name, dtype, shape in RIGHT]
    with pytest.raises(FrameError, match="lengths: expected B = 2, as many as there are rows, got 3"):
        check_tensors(batch_of(three, B=3, C=3), SCHEMA)


TOWERS = (
    line("input_ids", "int64", "B", "L"),
    line("pixel_values", "uint8", "P", 3, 4, 4, optional=True, normalise=PIXELS),
    line("pixel_values_videos", "uint8", "V", 3, 2, 4, 4, optional=True, normalise=PIXELS),
)


@pytest.mark.parametrize("images", [0, 3])
@pytest.mark.parametrize("videos", [0, 5])
def test_a_tensor_may_be_left_out_where_its_letter_is_0_and_only_there(images: int, videos: int) -> None:
    """Two towers, each with pixels of its own: exactly the tensors that have any are there."""
    check_schema(TOWERS)
    every: dict[str, tuple[str, str, tuple[int, ...]]] = {
        "input_ids": ("input_ids", "int64", (2, 5)),
        "pixel_values": ("pixel_values", "uint8", (images, 3, 4, 4)),
        "pixel_values_videos": ("pixel_values_videos", "uint8", (videos, 3, 2, 4, 4)),
    }
    there = {"input_ids"} | {name for name, (_, _, shape) in every.items() if shape[0]}
    for names in ({"input_ids"}, {*every} - {"pixel_values"}, {*every} - {"pixel_values_videos"}, {*every}):
        header = batch_of([every[name] for name in every if name in names], P=images, V=videos)
        if names == there:
            check_tensors(header, TOWERS)
            continue
        name = min(there - names or names - there)
        with pytest.raises(FrameError, match=f"tensor '{name}': expected {'only' if name in names else 'uint8'}"):
            check_tensors(header, TOWERS)


def test_a_tensor_that_is_not_optional_is_there_without_elements() -> None:
    """A letter that is 0 leaves out nothing by itself."""
    schema = (line("input_ids", "int64", "B", "L"), line("starts", "int64", "N"))
    check_tensors(batch_of([RIGHT[0], ("starts", "int64", (0,))], N=0), schema)
    with pytest.raises(FrameError, match=r"'starts': expected int64 \[0\].* got none"):
        check_tensors(batch_of(RIGHT[:1], N=0), schema)


def pixels(**changes: Any) -> tuple[SchemaEntry, ...]:
    """A schema of pixels with three channels, whose `normalise` is changed."""
    return (line("x", "uint8", "C", 3, 4, 4, optional=True, normalise=replace(PIXELS, **changes)),)


def flat(*lengths: SchemaEntry, **changes: Any) -> tuple[SchemaEntry, ...]:
    """A schema of a tensor that another, named `n`, cuts into rows."""
    return (replace(line("x", "int64", "N", lengths="n"), **changes), *lengths)


ROWS_OF_X = line("n", "int64", "B")
GOOD = {
    "pixels_of_one_channel": (line("x", "uint8", "C", 1, 4, normalise=replace(PIXELS, mean=(0.5,), std=(0.5,))),),
    "channels_last": (line("x", "uint8", "C", "H", 3, normalise=replace(PIXELS, axis=2)),),
    "repeated_and_flat": pixels(repeat=16, flatten=True),
    "least_deviation": pixels(std=(2.0**-20, 1.0, 2.0**53)),
    "flat": flat(ROWS_OF_X),
    "lengths_first": flat(ROWS_OF_X)[::-1],
    "flat_of_more_dimensions": flat(ROWS_OF_X, dtype="float32", dims=("N", 3)),
    "two_cut_alike": (*flat(ROWS_OF_X), line("y", "int64", "N", lengths="n")),
    "pixels_cut_into_rows": (line("x", "uint8", "C", 3, normalise=PIXELS, lengths="n"), ROWS_OF_X),
    "pixels_cut_into_pictures": (line("x", "uint8", "C", 3, normalise=PIXELS, lengths="n"), line("n", "int64", "N")),
}


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD)
def test_a_schema_may_say_how_pixels_are_normalised_and_tensors_cut(schema: tuple[SchemaEntry, ...]) -> None:
    """Each of them a batch could follow."""
    check_schema(schema)


NO_LENGTHS = r"'x': expected its lengths 'n' as int64 \[B\], got "
BAD = {
    "dtype": ((line("x", "complex512", "B"),), "'x': expected a dtype of uint8"),
    "twice": ((SCHEMA[0], SCHEMA[0]), "'input_ids': .* twice"),
    "pixels_that_are_not_raw": ((line("x", "float32", "C", 3, normalise=PIXELS),), "'x': expected uint8 .*float32"),
    "two_means": (pixels(mean=(0.5, 0.5)), "'x': expected uint8 with 2 means and 3 deviations for axis 1"),
    "four_deviations": (pixels(std=(0.5,) * 4), "'x': expected uint8 with 3 means and 4 deviations for axis 1"),
    "one_of_each": (pixels(mean=(0.5,), std=(0.5,)), r"'x': expected .* 1 means .* got uint8 \['C', 3, 4, 4\]"),
    "channels_elsewhere": (pixels(axis=2), "'x': expected .* for axis 2"),
    "no_such_axis": (pixels(axis=4), "'x': expected .* for axis 4"),
    "far_off_axis": (pixels(axis=2**53), "'x': expected .* for axis 9007199254740992"),
    "negative_axis": (pixels(axis=-3), "'x': expected .* for axis -3"),
    "first_axis": ((line("x", "uint8", 3, normalise=replace(PIXELS, axis=0)),), "'x': expected .* for axis 0"),
    "any_number_of_channels": ((line("x", "uint8", "C", "D", normalise=PIXELS),), "'x': expected .* for axis 1"),
    "no_dimensions": ((line("x", "uint8", normalise=PIXELS),), "'x': expected .* for axis 1"),
    "deviation_of_0": (pixels(std=(0.5, 0.0, 0.5)), "'x': expected deviations from .* got 0.0"),
    "deviation_of_minus_0": (pixels(std=(0.5, -0.0, 0.5)), "'x': expected deviations from .* got -0.0"),
    "negative_deviation": (pixels(std=(0.5, 0.5, -0.5)), "'x': expected deviations from .* got -0.5"),
    "deviation_that_float32_takes_for_0": (pixels(std=(0.5, 0.5, 1e-300)), "'x': expected deviations .* got 1e-300"),
    "no_lengths": (flat(), NO_LENGTHS + "none"),
    "lengths_of_another_type": (flat(line("n", "int32", "B")), NO_LENGTHS + "int32"),
    "lengths_of_something_else": (flat(line("n", "int64", "N")), NO_LENGTHS + r"int64 \['N'\]"),
    "lengths_of_two_dimensions": (flat(line("n", "int64", "B", 2)), NO_LENGTHS + r"int64 \['B', 2\]"),
    "so_many_lengths": (flat(line("n", "int64", 2)), NO_LENGTHS + r"int64 \[2\]"),
    "nothing_to_cut": (flat(ROWS_OF_X, dims=()), "'x': expected a dimension that its lengths cut"),
    "its_own_lengths": (
        (line("x", "int64", "B", lengths="x"),),
        r"'x': expected its lengths 'x' .* lengths of its own",
    ),
    "each_others_lengths": (
        (line("x", "int64", "B", lengths="n"), line("n", "int64", "B", lengths="x")),
        NO_LENGTHS + r"int64 \['B'\], cut by lengths of its own",
    ),
    "pixels_cut_by_pairs": (
        (line("x", "uint8", "C", 3, normalise=PIXELS, lengths="n"), line("n", "int64", "B", 2)),
        NO_LENGTHS + r"int64 \['B', 2\]",
    ),
}


@pytest.mark.parametrize(("schema", "message"), BAD.values(), ids=BAD)
def test_fault_134_a_schema_that_no_batch_could_follow(schema: tuple[SchemaEntry, ...], message: str) -> None:
    """It is refused before the first batch, and the tensor named."""
    with pytest.raises(FrameError, match=message):
        check_schema(schema)


def test_rows_are_as_they_were_written() -> None:
    """Every status and `replaces`, as records that compare equal."""
    rows = tuple(RowInfo(f"s{i}", f"k{i}", "masked", "why", ("a", "b") if i % 2 else None) for i in range(300))
    header = BatchHeader(**{**vars(BATCH), "rows": rows})
    (frame,) = feed(pack_frame(header, PAYLOAD), 1 << 20, FrameParser())
    assert frame.header == header
