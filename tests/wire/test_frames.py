"""Frames: one table of (header, payload) drives writing and reading, fed whole, byte by byte and damaged."""

from __future__ import annotations

import contextlib
import random
import struct

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import FrameError
from owl_stream.wire import (
    BatchHeader,
    Cursor,
    End,
    ErrorInfo,
    Frame,
    FrameParser,
    Header,
    Heartbeat,
    Hello,
    Limits,
    Normalise,
    PlacedFrame,
    RowInfo,
    SchemaEntry,
    Stats,
    Totals,
    lay_out,
    pack_frame,
    parse_frames,
    tensor_views,
)

SPECS, PAYLOAD_NBYTES = lay_out([("input_ids", "int64", (2, 3)), ("pixel_values", "uint8", (1, 3, 4, 4))])
PAYLOAD = bytes(range(PAYLOAD_NBYTES))
BATCH = BatchHeader(
    fingerprint="f" * 32,
    epoch=1,
    step=2,
    micro=0,
    rank=3,
    world_size=4,
    tensors=SPECS,
    rows=(
        RowInfo("train-0.tar", "000001", "ok", "", None),
        RowInfo("train-0.tar", "000002", "repeated", "no supervised token", ("train-1.tar", "000009")),
    ),
    attended_tokens=6,
    supervised_tokens=3,
    step_supervised_tokens=12,
    vision_tokens=4,
    units=1,
    lengths={"B": 2, "L": 3, "C": 1},
)
NORMALISE = Normalise(mean=(0.5, 0.25, 0.5), std=(0.5, 0.5, 0.25), axis=1, repeat=2, flatten=True)
HELLO = Hello(
    protocol=1,
    server="owl-stream/0",
    dataset="train",
    layout="owl3-240728",
    fingerprint="f" * 32,
    components={"manifest": "a", "seed": "0"},
    assembly="b",
    cursor=Cursor(1, 2, 0),
    rank=3,
    world_size=4,
    micro_batch_size=2,
    micros_per_step=1,
    steps_per_epoch=9,
    schema=(
        SchemaEntry("input_ids", "int64", ("B", "L"), False, None, None),
        SchemaEntry("starts", "int64", ("C",), False, None, "starts_lengths"),
        SchemaEntry("starts_lengths", "int64", ("B",), False, None, None),
        SchemaEntry("pixel_values", "uint8", ("C", 3, 4, 4), True, NORMALISE, None),
    ),
)
TABLE: list[tuple[Header, bytes]] = [
    (HELLO, b""),
    (BATCH, PAYLOAD),
    (Heartbeat(), b""),
    (Stats({"decode_s": 0.25, "queue": 3.0}), b""),
    (End(Cursor(2, 0, 0), True, Totals(9, 70, 2, 0, 1)), b""),
    (ErrorInfo("draining", "the server is stopping", True), b""),
]


def feed(data: bytes, piece: int, parser: FrameParser) -> list[Frame]:
    """Give a parser `data` in pieces of at most `piece` bytes; returns the frames that came out."""
    frames, rest = [], memoryview(data)
    while rest.nbytes:
        target = parser.buffer()
        taken = min(piece, target.nbytes, rest.nbytes)
        target[:taken] = rest[:taken]
        rest = rest[taken:]
        if (frame := parser.advance(taken)) is not None:
            frames.append(frame)
    return frames


@pytest.mark.parametrize(("header", "payload"), TABLE, ids=[header.kind for header, _ in TABLE])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_frame_is_read_as_it_was_written(header: Header, payload: bytes, piece: int) -> None:
    """Every kind survives the wire, in one-byte slices too (fault 9), and leaves the parser between frames."""
    parser = FrameParser()
    frames = feed(pack_frame(header, payload) * 2, piece, parser)
    assert [frame.header for frame in frames] == [header, header]
    assert [bytes(frame.payload) for frame in frames] == [payload, payload]
    parser.close()


def test_a_frame_is_the_documented_msgpack_array() -> None:
    """A stock Unpacker reads [header bytes, header map, payload, digest]."""
    data = pack_frame(BATCH, PAYLOAD)
    header_bytes, header, payload, digest = msgpack.unpackb(data)
    assert data[:2] == b"\x94\xce"
    assert struct.unpack(">I", data[2:6]) == (header_bytes,)
    assert header["kind"] == "batch"
    assert payload == PAYLOAD
    assert digest == xxhash.xxh3_64_intdigest(data[:-9])


def test_placing_a_frame_gives_the_same_bytes_as_packing_it() -> None:
    """Shared memory and bytes hold identical frames, whatever lay in the memory before."""
    buffer = memoryview(bytearray(b"\xaa" * 4096))
    placed = PlacedFrame(buffer, 2048, PAYLOAD_NBYTES, BATCH)
    for start in range(0, PAYLOAD_NBYTES, 100):  # written piece by piece, digested as it comes
        piece = PAYLOAD[start : start + 100]
        buffer[2048 + start : 2048 + start + len(piece)] = piece
        placed.advance(start + len(piece))
    assert bytes(buffer[placed.finish()]) == pack_frame(BATCH, PAYLOAD)


@pytest.mark.parametrize("payload_start", [100, 4000])
def test_placing_a_frame_without_room_is_refused(payload_start: int) -> None:
    """Neither the header nor the digest may run out of the buffer."""
    with pytest.raises(FrameError, match="smaller micro-batch"):
        PlacedFrame(memoryview(bytearray(4096)), payload_start, PAYLOAD_NBYTES, BATCH)


def test_tensors_are_views_into_the_payload() -> None:
    """Reading tensors copies nothing."""
    payload = bytearray(PAYLOAD)
    views = tensor_views(memoryview(payload), SPECS)
    payload[0] = 99
    assert views["input_ids"][0, 0] & 0xFF == 99
    assert views["pixel_values"].shape == (1, 3, 4, 4)
    assert views["pixel_values"].dtype == np.uint8


def test_fault_24_every_flipped_bit_is_detected() -> None:
    """No single bit of a stream of frames can change without an error or a missing frame."""
    data = pack_frame(HELLO) + pack_frame(BATCH, PAYLOAD)
    whole = list(parse_frames(data))
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        got: list[Frame] = []
        with pytest.raises(FrameError):
            got.extend(parse_frames(bytes(bad)))
        assert [frame.header for frame in got] == [frame.header for frame in whole][: len(got)]


def test_fault_25_every_truncation_is_detected() -> None:
    """A stream cut anywhere inside a frame says so when it is closed."""
    data = pack_frame(BATCH, PAYLOAD)
    for length in range(1, len(data)):
        with pytest.raises(FrameError, match="ended inside a frame"):
            list(parse_frames(data[:length]))


def test_fault_29_trailing_bytes_are_detected() -> None:
    """Bytes behind a frame that begin no frame are an error, not silence."""
    with pytest.raises(FrameError):
        list(parse_frames(pack_frame(Heartbeat()) + b"\x00" * 64))


class RefusedError(AssertionError):
    """The parser asked for memory that it must not ask for."""


def refuse(nbytes: int) -> memoryview:
    """An allocator that must not be called."""
    raise RefusedError(nbytes)


def raw_frame(header: object, payload_nbytes: int = 0) -> bytes:
    """The beginning of a frame around any header, well-formed up to the payload."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack(">BBI", 0x94, 0xCE, len(packed)) + packed + struct.pack(">BI", 0xC6, payload_nbytes)


def batch_map(**changes: object) -> dict[str, object]:
    """The map of a valid batch header with one tensor of 64 bytes, changed."""
    tensor = {"name": "x", "dtype": "uint8", "shape": [64], "offset": 0, "nbytes": 64}
    raw: dict[str, object] = msgpack.unpackb(pack_frame(BATCH, PAYLOAD))[1]
    tensor_changes = {k.removeprefix("t_"): v for k, v in changes.items() if k.startswith("t_")}
    others = {k: v for k, v in changes.items() if not k.startswith("t_")}
    return {**raw, "tensors": [{**tensor, **tensor_changes}], **others}


ROW = {"shard": "", "key": "", "status": "ok", "reason": "", "replaces": None}

HOSTILE = {
    "fault_30_header_length_2_32_minus_1": (struct.pack(">BBI", 0x94, 0xCE, 2**32 - 1), "the limit is"),
    "fault_30_payload_length_2_32_minus_1": (raw_frame(batch_map(), 2**32 - 1), "the limit is"),
    "fault_31_nesting_2000": (raw_frame(b"\x91" * 2000 + b"\xc0"), "msgpack"),
    "fault_31_nesting_100000_under_an_unknown_key": (
        raw_frame(b"\x82\xa4kind\xa9heartbeat\xa1x" + b"\x91" * 100_000 + b"\xc0"),
        "msgpack: .*recursion",
    ),
    "fault_32_non_string_keys": (raw_frame({1: 2}), "msgpack: .*key"),
    "fault_33_unknown_ext_type": (raw_frame(msgpack.ExtType(5, b"")), "msgpack: .*got 'ext'"),
    "fault_34_shape_does_not_match_bytes": (raw_frame(batch_map(t_shape=[65]), 64), "needs 65 bytes"),
    "fault_35_shape_overflow": (raw_frame(batch_map(t_shape=[2**40, 2**40]), 64), "elements"),
    "fault_35_negative_shape": (raw_frame(batch_map(t_shape=[-1, -64]), 64), ">= 0"),
    "fault_36_unknown_dtype": (raw_frame(batch_map(t_dtype="complex512"), 64), "expected a dtype of"),
    "tensor_past_the_payload": (raw_frame(batch_map(), 63), "ends at byte 64"),
    "unaligned_tensor": (raw_frame(batch_map(t_offset=8), 100), "offset"),
    "unknown_kind": (raw_frame({"kind": "gift"}), "expected a kind"),
    "missing_key": (raw_frame({k: v for k, v in batch_map().items() if k != "rows"}, 64), "'rows'"),
    "wrong_type": (raw_frame(batch_map(step="two"), 64), "'step'"),
    "boolean_for_number": (raw_frame(batch_map(step=True), 64), "'step'"),
    "unknown_status": (
        raw_frame(batch_map(rows=[{"shard": "", "key": "", "status": "x", "reason": ""}]), 64),
        "status",
    ),
    "payload_on_heartbeat": (raw_frame({"kind": "heartbeat"}, 64), "no payload"),
    "not_a_frame": (b"HTTP/1", "94 ce"),
    "not_a_map": (raw_frame([1, 2]), "xpected .map., got .array."),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_before_memory_is_allocated(data: bytes, message: str) -> None:
    """Faults 30 to 36 and their kin are typed errors, and the payload's memory is never asked for."""
    with pytest.raises(FrameError, match=message):
        feed(data, 1 << 20, FrameParser(allocate=refuse))


def test_a_frame_over_the_limit_names_the_remedy() -> None:
    """A frame larger than the reader takes says what to change."""
    with pytest.raises(FrameError, match="smaller micro_batch_size"):
        feed(pack_frame(BATCH, PAYLOAD), 99, FrameParser(Limits(max_frame_bytes=200), refuse))


@given(st.binary(max_size=400))
def test_random_bytes_never_do_more_than_raise_a_frame_error(data: bytes) -> None:
    """Whatever comes in, the parser answers with frames or a FrameError."""
    with contextlib.suppress(FrameError):
        list(parse_frames(data))


@given(st.integers(0, 2**64 - 1))
def test_random_damage_never_yields_a_changed_batch(seed: int) -> None:
    """Random edits of a batch frame either leave it as it was or raise."""
    rng, data = random.Random(seed), bytearray(pack_frame(BATCH, PAYLOAD))
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        frames = list(parse_frames(bytes(data)))
    except FrameError:
        return
    assert [(frame.header, bytes(frame.payload)) for frame in frames] == [(BATCH, PAYLOAD)]
