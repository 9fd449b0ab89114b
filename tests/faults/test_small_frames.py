"""Small frames through the client, harmed at every byte, at every bit, and by every hostile header there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest

from owl_client import Batch
from owl_client.transport import Share
from owl_stream.errors import FrameError, ProtocolVersionError
from owl_stream.wire import Cursor, pack_frame
from tests.client.peers import MemoryTransport, cut_at, memory_dataset
from tests.client.world import World, keys_of
from tests.faults.small import SHARE, START, CountingMemory, TextWorld, read_all, request_of
from tests.wire.test_frames import HOSTILE

WORLD = TextWorld()
FRAMES = WORLD.frames(request_of(WORLD))
TINY = TextWorld(steps=1)
TINY_FRAMES = TINY.frames(request_of(TINY))


def test_the_reference_stream_is_of_twenty_small_batches() -> None:
    """`hello`, heartbeat, statistics, twenty batches of one text-only row, `end`; none has more than a kibibyte."""
    assert len(FRAMES) == 24
    assert max(len(frame) for frame in FRAMES) <= 1024


def test_fault_7_cut_at_every_byte_the_sequence_is_the_undisturbed_one() -> None:
    """At each of its bytes in turn the stream ends: all batches come once, in order, and no cut ends the epoch."""
    undisturbed = read_all(MemoryTransport({"http://a": WORLD}), WORLD)
    assert [cursor for cursor, _ in undisturbed] == [Cursor(0, step, 0) for step in range(20)]
    borders = [0, *accumulate(len(frame) for frame in FRAMES)]
    first_batch = len(FRAMES) - 1 - len(undisturbed)
    for at in range(borders[-1]):
        transport = MemoryTransport({"http://a": WORLD}, [cut_at(at)])
        assert read_all(transport, WORLD) == undisturbed, at
        whole = sum(border <= at for border in borders) - 1 - first_batch
        # Where only `end` is missing, the last batch is asked for again, so that the end is heard and not guessed.
        resumed = Cursor(0, min(max(whole, 0), 19), 0)
        assert [request.cursor for _, request in transport.opened] == [START, resumed], at


def test_fault_24_every_flipped_bit_of_a_frame_is_detected_and_mended() -> None:
    """Each bit of a batch's header, payload and digest in turn: never a wrong tensor, always fetched again."""
    undisturbed = read_all(MemoryTransport({"http://a": TINY}), TINY)
    before, frame, after = b"".join(TINY_FRAMES[:3]), TINY_FRAMES[3], b"".join(TINY_FRAMES[4:])
    for bit in range(len(frame) * 8):
        bad = bytearray(frame)
        bad[bit // 8] ^= 1 << bit % 8
        transport = MemoryTransport({"http://a": TINY}, [lambda _, bad=bad: [before, bytes(bad), after]])  # type: ignore[misc]
        assert read_all(transport, TINY) == undisturbed, bit
        assert len(transport.opened) == 2, bit


@pytest.mark.parametrize("frame", [0, 1, 2, 4], ids=["hello", "heartbeat", "stats", "end"])
def test_fault_24_flipped_bits_of_frames_without_payload(frame: int) -> None:
    """A flip in any other kind of frame is detected too: none opens, hides or ends a stream."""
    undisturbed = read_all(MemoryTransport({"http://a": TINY}), TINY)
    for bit in range(len(TINY_FRAMES[frame]) * 8):
        bad = bytearray(TINY_FRAMES[frame])
        bad[bit // 8] ^= 1 << bit % 8
        damaged = [*TINY_FRAMES[:frame], bytes(bad), *TINY_FRAMES[frame + 1 :]]
        transport = MemoryTransport({"http://a": TINY}, [lambda _, damaged=damaged: damaged])  # type: ignore[misc]
        assert read_all(transport, TINY) == undisturbed, bit
        assert len(transport.opened) == 2, bit


def test_fault_24_flips_never_reach_a_tensor_of_a_batch() -> None:
    """The same through the whole dataset, at every 211th bit of a stream with pixels."""
    world = World(steps=2)
    undisturbed = keys_of(memory_dataset(world))
    data = b"".join(world.frames(replace(request_of(world), share=Share(0, 1, world.rows))))
    for bit in range(0, len(data) * 8, 211):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        dataset = memory_dataset(world, lambda _, bad=bad: [bytes(bad)])  # type: ignore[misc]
        assert keys_of(dataset) == undisturbed, bit
        assert dataset.stats().reconnects == 1, bit


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_faults_30_to_36_through_the_client(data: bytes, message: str) -> None:
    """Faults 30 to 36 amid a stream: the hostile frame gets no memory, is not repaired, and all is fetched again."""
    undisturbed = read_all(MemoryTransport({"http://a": WORLD}), WORLD)
    hostile = [*FRAMES[:5], data + b"\x00" * 64, *FRAMES[5:]]
    transport, memory = MemoryTransport({"http://a": WORLD}, [lambda _: hostile]), CountingMemory()
    assert read_all(transport, WORLD, memory) == undisturbed
    assert [request.cursor for _, request in transport.opened] == [START, Cursor(0, 2, 0)]
    assert memory.asked == [len(payload) for _, payload in undisturbed]


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_faults_30_to_36_from_a_server_that_always_sends_them(data: bytes, message: str) -> None:
    """Faults 30 to 36 again and again are the server's: raised by name, with its address, having cost no memory."""
    transport = MemoryTransport({"http://a": WORLD}, [lambda frames: [frames[0], data + b"\x00" * 64]] * 99)
    memory = CountingMemory()
    with pytest.raises(FrameError, match=f"http://a: .*({message})"):
        read_all(transport, WORLD, memory)
    assert memory.asked == []
    assert len(transport.opened) < 10


def test_fault_37_an_unknown_protocol_version_is_refused_before_memory_is_taken() -> None:
    """A `hello` of version 2 is a version error at once, whatever follows it."""
    newer, memory = TextWorld(protocol=2), CountingMemory()
    transport = MemoryTransport({"http://a": newer})
    with pytest.raises(ProtocolVersionError, match="expected protocol version 1, got 2"):
        read_all(transport, newer, memory)
    assert memory.asked == []
    assert len(transport.opened) == 1


def test_fault_37_frames_of_another_form_are_refused_before_memory_is_taken() -> None:
    """A frame that begins otherwise than version 1's do is refused at its beginning."""
    frame = bytearray(FRAMES[3])
    frame[0] = 0x95
    transport, memory = (
        MemoryTransport({"http://a": WORLD}, [lambda frames: [frames[0], bytes(frame)]] * 99),
        CountingMemory(),
    )
    with pytest.raises(FrameError, match="94 ce, got 95 ce"):
        read_all(transport, WORLD, memory)
    assert memory.asked == []


def test_a_frame_is_the_same_for_whoever_asks() -> None:
    """What resuming rests on: a batch's bytes depend on its place alone."""
    assert WORLD.batch_frame(Cursor(0, 3, 0), SHARE) == FRAMES[6]
    assert pack_frame(WORLD.hello(request_of(WORLD))) == FRAMES[0]
    assert isinstance(next(iter(memory_dataset(WORLD))), Batch)
