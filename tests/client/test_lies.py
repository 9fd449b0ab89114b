"""Servers that lie, in descriptions, answers and frames: a typed error, and the next server is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash

from owl_client import Batch, BatchMeta, OwlStreamDataset
from owl_client.answers import error_from_answer, error_from_frame
from owl_client.buffers import ReceiveMemory
from owl_client.description import read_description
from owl_client.identity import resolve_share
from owl_client.transport import Share, StreamRequest
from owl_stream.errors import ConfigError, FrameError, OwlStreamError, RequestError, ServerBusyError, ServerError
from owl_stream.wire import (
    MAX_SLABS,
    BatchHeader,
    Cursor,
    ErrorInfo,
    Hello,
    MemoryPlace,
    SchemaEntry,
    lay_out,
    pack_frame,
    parse_frames,
)
from tests.client.peers import NO_WAIT, MemoryTransport, SocketServer, memory_dataset, serving
from tests.client.world import PIXELS, World, keys_of
from tests.wire.test_frames import raw_frame
from tests.wire.test_hostile_headers import VALUES, changed, line, places

WORLD = World()
RAGGED = World(layout="owl3-241101")
UNDISTURBED = keys_of(memory_dataset(WORLD))

JSON_VALUES = [
    "null", "true", "-1", "0.5", "1.0", "1e3", "1e999", "Infinity", "-Infinity", "NaN", "9" * 5000,
    "1000000000000001", "9007199254740993", "1099511627777", "65537",
    '""', '"x"', '"' + "x" * 5000 + '"', '"\\ud800"', "[]", "{}", "[" * 50_000,
    '{"a": 1}', '{"a": {"b": "c"}}', '[["a", "b"]]', json.dumps({str(i): "" for i in range(300)}), "", "\x00",
]  # fmt: skip


def description_with(key: str, value: str) -> bytes:
    """A valid description in which `key` has that JSON."""
    rest = {name: each for name, each in WORLD.description_json().items() if name != key}
    return f'{json.dumps(rest)[:-1]}, "{key}": {value}}}'.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("key", [key for key in WORLD.description_json() if key not in {"samples", "quarantined"}])
def test_fault_134_no_value_in_a_description_does_more_than_a_server_error(key: str) -> None:
    """Every field in turn has every hostile value: refused with the field's name, or within bounds."""
    for value in JSON_VALUES:
        try:
            description = read_description("http://a", description_with(key, value))
        except ServerError as exc:
            assert str(exc).startswith("http://a: expected the description")  # noqa: PT017 # or there is no error
            continue
        assert 1 <= description.global_batch_size <= 1 << 16
        assert 0 <= description.steps_per_epoch <= 1 << 40
        assert type(description.global_batch_size) is type(description.steps_per_epoch) is int
        assert max(map(len, (description.name, description.layout, description.assembly))) <= 4096
        assert all(type(text) is str for pair in description.components.items() for text in pair)


LIES = {
    "infinity": description_with("global_batch_size", "Infinity"),
    "too_large_to_count_to": description_with("global_batch_size", "1000000000000001"),
    "odd": description_with("global_batch_size", "4.5"),
    "epoch_without_end": description_with("steps_per_epoch", "1e999"),
    "text_that_cannot_be_sent": description_with("fingerprint", '"\\ud800"'),
    "deep": description_with("components", "[" * 100_000),
    "other_dataset": description_with("name", '"other"'),
    "cut": description_with("name", '"train"')[:-20],
}


@pytest.mark.parametrize("body", LIES.values(), ids=LIES)
def test_fault_134_after_a_description_that_lies_the_next_server_is_asked(body: bytes) -> None:
    """Over real sockets: the first server lies, the second gives the whole epoch; alone, the first is refused."""
    with serving(WORLD) as liar, serving(WORLD) as server:
        liar.answers = [(200, {}, body)] * 2
        assert keys_of(OwlStreamDataset([liar.url, server.url], backoff=NO_WAIT)) == UNDISTURBED
        with pytest.raises(ServerError, match=liar.url):
            len(OwlStreamDataset(liar.url, backoff=NO_WAIT))


def test_the_longest_epoch_that_may_be_has_a_length() -> None:
    """`len` is an index: what a description may say at most still is one."""
    description = replace(WORLD.description(), global_batch_size=1 << 16, steps_per_epoch=1 << 40)
    dataset = memory_dataset(WORLD, micro_batch_size=1)
    dataset._settings.transport.describe = lambda url, name, interrupt: description  # type: ignore[method-assign]
    assert len(dataset) == 1 << 56


def test_divisors_of_any_number_are_told_at_once() -> None:
    """What a message lists is found in the square root's time, in order and whole."""
    with pytest.raises(RequestError, match=r"valid: 1, 2, 3, 4, 6, 9, 12, 18, 36$"):
        resolve_share(0, 7, None, 36)
    with pytest.raises(RequestError, match=r"valid: 1, 101, .*, 10000000001$"):
        resolve_share(0, 2, None, 10**10 + 1)


def framed(raw: object, payload: bytes = b"") -> bytes:
    """A whole frame around any header, its digest right: only what it says is wrong."""
    body = raw_frame(raw, len(payload)) + payload
    return body + b"\xcf" + xxhash.xxh3_64_intdigest(body).to_bytes(8, "big")


@pytest.mark.parametrize("world", [WORLD, RAGGED], ids=["240728", "241101"])
@pytest.mark.parametrize("seed", range(4))
def test_fault_134_no_value_in_a_stream_does_more_than_an_error_of_ours(world: World, seed: int) -> None:
    """Hostile values in every place of `hello`, a batch, statistics and `end`: what comes of it is right or typed.

    What `hello` says is to be made of pixels and flat tensors has no second witness: there the text is right.
    """
    rng, right = random.Random(seed), list(memory_dataset(world))
    frames = list(parse_frames(b"".join(memory_frames(world))))
    for at in (0, 2, 3, 4, len(frames) - 1):
        raw = msgpack.unpackb(pack_frame(frames[at].header, frames[at].payload))[1]
        for path in places(raw):
            lie = framed(changed(raw, path, rng.choice(VALUES)), bytes(frames[at].payload))
            dataset = memory_dataset(world, lambda all_, at=at, lie=lie: [*all_[:at], lie, *all_[at + 1 :]])  # type: ignore[misc]
            try:
                got = list(dataset)
            except OwlStreamError:
                continue
            assert text_of(got) == text_of(right), (at, path)
            assert keys_of(got) == keys_of(right) or {"normalise", "lengths"} & {*path[2:]}, (at, path)


def text_of(batches: list[Batch]) -> list[tuple[int, int, int, str]]:
    """`keys_of` the batches without what belongs to media."""
    names = ("input_ids", "attention_mask", "labels")
    return keys_of(Batch({name: batch[name] for name in names}, batch.meta) for batch in batches)


def memory_frames(world: World) -> list[bytes]:
    """What a server sends of an epoch to one rank alone."""
    return world.frames(StreamRequest("train", world.fingerprint, Cursor(0, 0, 0), Share(0, 1, world.rows)))


Forge = Callable[[BatchHeader, dict[str, np.ndarray[Any, Any]]], tuple[BatchHeader, dict[str, np.ndarray[Any, Any]]]]


def forged(forge: Forge) -> Callable[[list[bytes]], list[bytes]]:
    """The stream in which the first batch has other tensors, in a frame that is well-formed."""

    def fault(frames: list[bytes]) -> list[bytes]:
        (frame,) = parse_frames(frames[3])
        assert isinstance(frame.header, BatchHeader)
        arrays = {spec.name: array_of(frame.payload, spec) for spec in frame.header.tensors}
        header, arrays = forge(frame.header, arrays)
        specs, nbytes = lay_out([(name, str(array.dtype), array.shape) for name, array in arrays.items()])
        payload = bytearray(nbytes)
        for spec in specs:
            payload[spec.offset : spec.offset + spec.nbytes] = arrays[spec.name].tobytes()
        return [*frames[:3], pack_frame(replace(header, tensors=specs), payload), *frames[4:]]

    return fault


def array_of(payload: memoryview, spec: Any) -> np.ndarray[Any, Any]:
    """One tensor of a payload, as an array of its own."""
    part = payload[spec.offset : spec.offset + spec.nbytes]
    return np.frombuffer(part, spec.dtype).reshape(spec.shape).copy()


def lengths_of(*numbers: int, dtype: str = "int64") -> Forge:
    """Other lengths of the ragged rows."""
    return lambda header, arrays: (header, {**arrays, "media_offset_lengths": np.array(numbers, dtype)})


def with_length(header: BatchHeader, letter: str, size: int) -> BatchHeader:
    """The header in which a letter stands for another size."""
    return replace(header, lengths={**header.lengths, letter: size})


FORGERIES: dict[str, tuple[World, Forge, str]] = {
    "dtype": (WORLD, lambda h, a: (h, {**a, "input_ids": a["input_ids"].astype("float32")}), "'input_ids': expected"),
    "one_row_less": (WORLD, lambda h, a: (h, {**a, "labels": a["labels"][:3]}), "'labels': expected"),
    "longer": (WORLD, lambda h, a: (h, {**a, "labels": np.zeros((4, 9), "int64")}), "'labels': expected"),
    "none": (WORLD, lambda h, a: (h, {}), "'input_ids': expected .*got none"),
    "no_pixels": (WORLD, lambda h, a: (h, {n: x for n, x in a.items() if n != "pixel_values"}), "pixel_values.*none"),
    "pixels_beside_no_crops": (WORLD, lambda h, a: (with_length(h, "C", 0), a), "'pixel_values': expected only"),
    "more_crops": (WORLD, lambda h, a: (with_length(h, "C", 9), a), r"'pixel_values': expected uint8 \[9"),
    "another_letter_of_rows": (WORLD, lambda h, a: (with_length(h, "B", 3), a), "expected B = 4, .* got 3"),
    "no_letters": (WORLD, lambda h, a: (replace(h, lengths={}), a), "expected B = 4, .* got None"),
    "no_letter_of_crops": (WORLD, lambda h, a: (replace(h, lengths={"B": 4, "L": 3}), a), "expected 'C' for 'pixel_v"),
    "gift": (WORLD, lambda h, a: (h, {**a, "gift": np.zeros(3, "uint8")}), "'gift': expected only"),
    "no_lengths": (RAGGED, lambda h, a: (h, {n: x for n, x in a.items() if "lengths" not in n}), "lengths.*none"),
    "no_offsets": (RAGGED, lambda h, a: (h, {n: x for n, x in a.items() if n != "media_offset"}), "offset'.*none"),
    "negative_lengths": (
        RAGGED,
        lengths_of(-1, 2, 2, 0),
        "from 0 with the sum 3, got 4 from -1 with the sum 3",
    ),
    "overflowing_lengths": (RAGGED, lengths_of(*[2**62] * 4), f"lengths from 0 with the sum 3, .* {2**64}$"),
    "too_few_lengths": (RAGGED, lengths_of(1, 2), "'media_offset_lengths': expected"),
    "floating_lengths": (RAGGED, lengths_of(0, 1, 2, 0, dtype="float32"), "'media_offset_lengths': expected"),
    "more_labels_than_the_step": (WORLD, lambda h, a: (replace(h, step_supervised_tokens=1), a), "supervised"),
    "no_labels_in_the_step": (WORLD, lambda h, a: (replace(h, step_supervised_tokens=0), a), "supervised"),
}


@contextmanager
def two_servers(
    world: World, fault: Callable[[list[bytes]], list[bytes]]
) -> Iterator[tuple[SocketServer, SocketServer]]:
    """One whose every stream suffers from a fault, and a good one."""

    def misdeed(sock: Any, frames: list[bytes]) -> None:
        sock.sendall(b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in fault(frames)) + b"0\r\n\r\n")

    with ExitStack() as opened:
        liar, server = opened.enter_context(serving(world)), opened.enter_context(serving(world))
        liar.misdeeds = [misdeed] * 99
        yield liar, server


@pytest.mark.parametrize(("world", "forge", "message"), FORGERIES.values(), ids=FORGERIES)
def test_fault_134_tensors_are_held_against_what_hello_promised(world: World, forge: Forge, message: str) -> None:
    """Refused by name again and again; with a second server everything is yielded once, to the bit."""
    with pytest.raises(FrameError, match=message):
        next(iter(memory_dataset(world, *[forged(forge)] * 9)))
    with two_servers(world, forged(forge)) as (liar, server):
        dataset = OwlStreamDataset([liar.url, server.url], backoff=NO_WAIT)
        assert keys_of(dataset) == keys_of(memory_dataset(world))
        assert (dataset.stats().reconnects, len(server.queries)) == (1, 1)


def hello_of(**changes: Any) -> Callable[[list[bytes]], list[bytes]]:
    """The stream whose `hello` says something else."""

    def fault(frames: list[bytes]) -> list[bytes]:
        (frame,) = parse_frames(frames[0])
        assert isinstance(frame.header, Hello)
        return [pack_frame(replace(frame.header, **changes)), *frames[1:]]

    return fault


def schema_of(world: World, *entries: SchemaEntry) -> tuple[SchemaEntry, ...]:
    """A world's schema with some entries replaced, by name."""
    return tuple({entry.name: entry for entry in (*world.schema(), *entries)}.values())


HELLOS = {
    "layout": ({"layout": "owl3-241101"}, "expected layout 'owl3-240728', got 'owl3-241101'"),
    "nothing": ({"schema": ()}, "expected input_ids"),
    "twice": ({"schema": (*WORLD.schema(), WORLD.schema()[0])}, "twice"),
    "no_such_dtype": ({"schema": schema_of(WORLD, line("labels", "bool", "B", "L"))}, "dtype of uint8"),
    "floating_ids": ({"schema": schema_of(WORLD, line("input_ids", "float32", "B", "L"))}, "int64 in 2"),
    "optional_ids": ({"schema": schema_of(WORLD, line("input_ids", "int64", "B", "L", optional=True))}, "always there"),
    "ids_cut_into_rows": (
        {"schema": schema_of(WORLD, line("input_ids", "int64", "B", "L", lengths="n"), line("n", "int64", "B"))},
        "'input_ids': expected int64 in 2 dimensions, .* never cut",
    ),
    "flat_pixels": (
        {"schema": schema_of(WORLD, line("pixel_values", "uint8", "C", optional=True, normalise=PIXELS))},
        "'pixel_values': expected uint8 with 3 means",
    ),
    "lengths_of_nothing": (
        {"schema": (WORLD.schema()[0], line("media_offset", "int64", "N", lengths="media_offset_lengths"))},
        r"'media_offset': expected its lengths 'media_offset_lengths' as int64 \[B\], got none",
    ),
    "lengths_cut_by_themselves": (
        {"schema": schema_of(WORLD, line("media_offset", "int64", "B", lengths="media_offset"))},
        "'media_offset': expected its lengths .* cut by lengths of its own",
    ),
    "no_deviation": (
        {"schema": schema_of(WORLD, replace(WORLD.schema()[-1], normalise=replace(PIXELS, std=(0.5, 0.5, 0.0))))},
        "'pixel_values': expected deviations from",
    ),
    "steps": ({"steps_per_epoch": 1 << 40}, "hello of another stream"),
    "micros": ({"micros_per_step": 2}, "hello of another stream"),
}


@pytest.mark.parametrize(("changes", "message"), HELLOS.values(), ids=HELLOS)
def test_fault_134_what_hello_says_of_itself_is_checked(changes: dict[str, Any], message: str) -> None:
    """Before any batch; with a second server everything is yielded once, to the bit."""
    with pytest.raises(FrameError, match=message):
        next(iter(memory_dataset(WORLD, *[hello_of(**changes)] * 9)))
    assert keys_of(memory_dataset(WORLD, hello_of(**changes))) == UNDISTURBED


@pytest.mark.parametrize("key", ["code", "message", "retryable", "differences"])
def test_fault_134_no_answer_does_more_than_an_error_of_ours(key: str) -> None:
    """Every field of a refusal in turn is hostile, and the refusal itself."""
    for value in JSON_VALUES:
        for status, code in ((409, "fingerprint_mismatch"), (503, "busy")):
            rest = {"code": code, "message": "no", "retryable": True, "differences": {"seed": ["1", "2"]}}
            rest.pop(key)
            inner = f'{json.dumps(rest)[:-1]}, "{key}": {value}}}'
            for body in (f'{{"error": {inner}}}', f'{{"error": {value}}}', value):
                error = error_from_answer("http://a", status, "9" * 5000, body.encode())
                assert isinstance(error, OwlStreamError)
                assert len(str(error)) < 10_000
                assert str(error).startswith("http://a")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("9" * 5000, 86400.0),
        ("-1", 0.0),
        ("inf", 0.0),
        ("nan", 0.0),
        ("1e9", 0.0),
        ("\u0663", 0.0),
        ("", 0),
    ],
)
def test_fault_134_advice_to_wait_has_an_end(said: str, seconds: float) -> None:
    """`Retry-After` is digits, and at most a day."""
    error = error_from_answer("http://a", 503, said, b"")
    assert isinstance(error, ServerBusyError)
    assert error.retry_after_s == seconds


def test_an_error_frame_is_told_as_far_as_one_would_read() -> None:
    """A message of 64 KiB is cut."""
    assert len(str(error_from_frame("http://a", ErrorInfo("internal", "x" * 65_536, retryable=False)))) < 5000


def test_fault_134_a_place_in_memory_that_has_too_much_to_forget() -> None:
    """A reader has no more slabs open than that."""
    most = MemoryPlace(1, 64, 1, tuple(range(MAX_SLABS)))
    assert MemoryPlace.from_bytes(most.to_bytes()) == most
    with pytest.raises(FrameError, match="at most 256 slabs"):
        MemoryPlace.from_bytes(MemoryPlace(1, 64, 1, tuple(range(MAX_SLABS + 1))).to_bytes())


@pytest.mark.parametrize(("supervised", "step", "weight"), [(0, 0, 0.0), (0, 8, 0.0), (2, 8, 0.5)])
def test_a_batch_without_labels_weighs_nothing(supervised: int, step: int, weight: float) -> None:
    """Also in a step without any: no division by what a server says."""
    meta = BatchMeta(0, 0, 0, 0, 2, (), 3, supervised, step, 0, 0, 1, {})
    assert Batch({}, meta).meta.loss_weight == weight


class NoMemory(ReceiveMemory):
    """Receive memory of a machine that has none left."""

    def _new(self, capacity: int) -> np.ndarray[Any, Any]:
        raise RuntimeError("CUDA error: out of memory")


def test_fault_136_no_receive_memory_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once, by the bytes that were needed: no other server is asked, for it is none's fault."""
    monkeypatch.setattr("owl_client.session.ReceiveMemory", NoMemory)
    transport = MemoryTransport({"http://a": WORLD, "http://b": WORLD})
    dataset = OwlStreamDataset(["http://a", "http://b"], transport=transport, backoff=NO_WAIT)
    with pytest.raises(
        ConfigError, match=r"expected 65536 bytes, got none: CUDA error: out of memory; ask for a smaller"
    ):
        next(iter(dataset))
    assert [url for url, _ in transport.opened] == ["http://a"]
