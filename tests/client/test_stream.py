"""One logical stream through an in-memory transport: whatever arrives, what is yielded is the undisturbed sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest

from owl_client import link
from owl_client.failover import Failover
from owl_client.order import Order
from owl_client.stream import EpochStream
from owl_client.transport import Share, StreamRequest
from owl_stream.errors import (
    ContractError,
    DataChangedError,
    FrameError,
    OwlStreamError,
    PeerGoneError,
    ProtocolVersionError,
    ReadError,
    RequestError,
    ServerBusyError,
    ServerError,
    StateMismatchError,
    WorkerError,
)
from owl_stream.wire import Cursor, ErrorInfo, Heartbeat, pack_frame
from tests.client.peers import NO_WAIT, Fault, MemoryTransport, cut_at
from tests.client.world import World

WORLD = World()
SHARE = Share(0, 1, 4)
START = Cursor(0, 0, 0)
REQUEST = StreamRequest("train", WORLD.fingerprint, START, SHARE)
FRAMES = WORLD.frames(REQUEST)
FIRST_BATCH = 3
"""Frames before the first batch: hello, heartbeat, stats."""

Read = list[tuple[Cursor, bytes]]


def read_all(
    transport: MemoryTransport, urls: tuple[str, ...] = ("http://a",), share: Share = SHARE, start: Cursor = START
) -> Read:
    """All batches of an epoch: where they stand, and their payload."""
    order = Order(WORLD.description(), share, start)
    stream = EpochStream(transport, Failover(urls, 60.0, NO_WAIT), order)
    got: Read = []
    try:
        while (received := stream.next()) is not None:
            frame, _ = received
            got.append((frame.header.cursor, bytes(frame.payload)))  # type: ignore[union-attr]
    finally:
        stream.close()
    assert transport.closed <= len(transport.opened)
    return got


def with_faults(*faults: Fault | OwlStreamError) -> MemoryTransport:
    """One server, disturbed."""
    return MemoryTransport({"http://a": WORLD}, list(faults))


UNDISTURBED = read_all(with_faults())


def test_an_undisturbed_stream_is_the_plan() -> None:
    """Every micro-batch of the epoch comes once, in order, over one connection that is then closed."""
    transport = with_faults()
    got = read_all(transport)
    assert [cursor for cursor, _ in got] == [Cursor(0, step, 0) for step in range(WORLD.steps)]
    assert len(transport.opened) == transport.closed == 1


def test_fault_7_a_cut_anywhere_changes_nothing() -> None:
    """Cut at every seventh byte and around every border, the rest is fetched from there, and none ends an epoch."""
    borders = list(accumulate(len(frame) for frame in FRAMES))
    around = {border + shift for border in borders for shift in (-1, 0, 1)}
    for nbytes in sorted({*range(0, borders[-1], 7), *around} - {borders[-1], borders[-1] + 1}):
        transport = with_faults(cut_at(nbytes))
        assert read_all(transport) == UNDISTURBED, nbytes
        assert len(transport.opened) == 2, nbytes


def test_fault_11_a_clean_end_without_an_end_frame_is_never_the_end() -> None:
    """A stream that closes between any two frames, even before `end`, is asked for again."""
    for count in range(len(FRAMES)):
        transport = with_faults(lambda frames, count=count: frames[:count])  # type: ignore[misc]
        assert read_all(transport) == UNDISTURBED, count
        resumed_at = transport.opened[1][1].cursor
        assert resumed_at == Cursor(0, min(max(count - FIRST_BATCH, 0), WORLD.steps - 1), 0)


def test_fault_9_one_byte_slices_change_nothing() -> None:
    """Bytes may arrive one at a time."""
    transport = MemoryTransport({"http://a": WORLD}, piece=1)
    assert read_all(transport) == UNDISTURBED


@pytest.mark.parametrize(("lock_wait_s", "most"), [(60.0, link.READ_BYTES), (-1.0, link.LARGE_READ_BYTES)])
def test_reads_grow_while_the_trainer_keeps_the_lock(
    lock_wait_s: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload is digested in pieces that fit a cache; in one piece where each piece would wait for the lock."""
    monkeypatch.setattr(link, "LOCK_WAIT_S", lock_wait_s)
    world = World(side=1024)
    transport = MemoryTransport({"http://a": world}, piece=16 << 20)
    order = Order(world.description(), SHARE, START)
    stream = EpochStream(transport, Failover(("http://a",), 60.0, NO_WAIT), order)
    largest = max((frame.payload.nbytes for frame, _ in iter(stream.next, None)), default=0)
    assert largest > link.READ_BYTES
    assert transport.largest_read == min(most, largest)


def test_fault_24_flipped_bits_are_detected_and_the_batch_fetched_again() -> None:
    """A damaged bit never reaches the trainer, wherever it is."""
    data = b"".join(FRAMES)
    for bit in range(0, len(data) * 8, 97):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        transport = with_faults(lambda _, bad=bad: [bytes(bad)])  # type: ignore[misc]
        assert read_all(transport) == UNDISTURBED, bit
        assert len(transport.opened) == 2, bit


def test_fault_25_a_truncated_frame_is_fetched_again() -> None:
    """Half a frame is no frame, even when the frames after it are whole."""
    for i in range(len(FRAMES)):
        truncated = [*FRAMES[:i], FRAMES[i][:-5], *FRAMES[i + 1 :]]
        transport = with_faults(lambda _, t=truncated: t)  # type: ignore[misc]
        assert read_all(transport) == UNDISTURBED, i


def other(world: World, share: Share = SHARE, start: Cursor = START) -> list[bytes]:
    """The frames of another stream."""
    return world.frames(replace(REQUEST, share=share, cursor=start))


DISORDER: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "fault_26_reordered": lambda f: [*f[:3], f[4], f[3], *f[5:]],
    "fault_26_hello_late": lambda f: [f[3], f[0], *f[4:]],
    "fault_26_end_early": lambda f: [*f[:4], f[-1]],
    "fault_27_duplicated": lambda f: [*f[:4], f[3], *f[4:]],
    "fault_27_hello_twice": lambda f: [f[0], *f],
    "fault_26_one_left_out": lambda f: [*f[:3], *f[4:]],
    "fault_28_batch_of_another_rank": lambda f: [*f[:3], WORLD.batch_frame(START, Share(1, 2, 2)), *f[4:]],
    "fault_28_batch_of_another_world_size": lambda f: [*f[:3], WORLD.batch_frame(START, Share(0, 2, 2)), *f[4:]],
    "fault_28_batch_of_another_size": lambda f: [*f[:3], WORLD.batch_frame(START, Share(0, 1, 2)), *f[4:]],
    "fault_28_batch_of_other_data": lambda f: [*f[:3], World(seed=1).batch_frame(START, SHARE), *f[4:]],
    "fault_28_batch_of_another_epoch": lambda f: [*f[:3], WORLD.batch_frame(Cursor(1, 0, 0), SHARE), *f[4:]],
    "fault_28_whole_stream_of_another_rank": lambda _: other(WORLD, Share(1, 2, 2)),
    "fault_28_whole_stream_from_elsewhere": lambda _: other(WORLD, start=Cursor(0, 1, 0)),
    "fault_29_trailing_bytes": lambda f: [*f[:4], b"\x00" * 9, *f[4:]],
    "fault_29_trailing_text": lambda f: [*f[:4], b"<html>"],
    "nothing": lambda _: [],
    "only_heartbeats": lambda _: [pack_frame(Heartbeat())] * 3,
}


@pytest.mark.parametrize("change", DISORDER.values(), ids=DISORDER)
def test_disorder_is_detected_and_mended(change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Faults 26 to 29: frames out of place end the connection, never enter the sequence, and are fetched again."""
    transport = with_faults(change)
    assert read_all(transport) == UNDISTURBED
    assert len(transport.opened) == 2


def test_fault_23_a_server_of_another_version_is_a_version_error() -> None:
    """A newer hello names both versions and the remedy instead of being retried."""
    transport = MemoryTransport({"http://a": World(protocol=2)})
    with pytest.raises(ProtocolVersionError, match="expected protocol version 1, got 2"):
        read_all(transport)
    assert transport.closed == 1


def test_fault_18_another_fingerprint_in_hello_is_refused_by_name() -> None:
    """Data that changed under the same address raises, with the component that differs."""
    with pytest.raises(StateMismatchError, match="seed: expected 0, got 1") as caught:
        read_all(MemoryTransport({"http://a": World(seed=1)}))
    assert caught.value.differences == {"seed": ("0", "1")}


def test_fault_18_a_refusal_by_fingerprint_alone_is_named_by_component() -> None:
    """A server's 409 knows two digests; what they are made of the client asks for."""
    refusal = StateMismatchError("http://a: another fingerprint", {"fingerprint": ("f0", "f1")})
    with pytest.raises(StateMismatchError, match="http://a has other data: seed: expected 0, got 1") as caught:
        read_all(MemoryTransport({"http://a": World(seed=1)}, [refusal]))
    assert caught.value.differences == {"seed": ("0", "1")}
    assert read_all(MemoryTransport({"http://a": WORLD}, [refusal])) == UNDISTURBED  # replaced by the right one since


def test_another_assembly_is_refused_like_another_fingerprint() -> None:
    """Failing over to a server with other decoder versions would change pixels in mid-run."""
    with pytest.raises(StateMismatchError) as caught:
        read_all(MemoryTransport({"http://a": World(assembly="pillow-12")}))
    assert caught.value.differences == {"assembly": ("pillow-11", "pillow-12")}


def error_after(count: int, code: str, retryable: bool) -> Fault:
    """So many frames, then an `error` frame."""
    return lambda frames: [*frames[:count], pack_frame(ErrorInfo(code, "told so", retryable))]


@pytest.mark.parametrize("code", ["draining", "idle_timeout", "read", "worker", "something_new"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_retryable_error_frames_are_resumed(code: str, count: int) -> None:
    """A server that says goodbye is asked again, from where it stopped."""
    transport = with_faults(error_after(count, code, True))
    assert read_all(transport) == UNDISTURBED
    assert len(transport.opened) == 2


@pytest.mark.parametrize(
    ("code", "kind"), [("data_changed", DataChangedError), ("contract", ContractError), ("internal", ServerError)]
)
def test_final_error_frames_are_raised_after_what_came_before(code: str, kind: type[OwlStreamError]) -> None:
    """What will not pass by waiting is raised with its type and the server's address."""
    with pytest.raises(kind, match=r"http://a: told so"):
        read_all(with_faults(error_after(4, code, False)))


def test_data_changed_on_one_server_is_fetched_from_another() -> None:
    """A server whose shards were rewritten is passed over for one that still has them."""
    transport = MemoryTransport({"http://a": WORLD, "http://b": WORLD}, [error_after(4, "data_changed", False)])
    assert read_all(transport, ("http://a", "http://b")) == UNDISTURBED
    assert [url for url, _ in transport.opened] == ["http://a", "http://b"]


def test_fault_15_a_dead_first_url_is_passed_over() -> None:
    """The second address serves when nobody answers at the first."""
    transport = MemoryTransport({"http://b": WORLD})
    assert read_all(transport, ("http://a", "http://b")) == UNDISTURBED


def test_a_server_with_other_data_is_named_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Refusing one server is a warning as long as another serves, also in mid-epoch."""
    servers: dict[str, World | OwlStreamError] = {"http://a": WORLD, "http://b": World(seed=1), "http://c": WORLD}
    transport = MemoryTransport(servers, [cut_at(len(b"".join(FRAMES[:4])))])
    assert read_all(transport, ("http://a", "http://b", "http://c")) == UNDISTURBED
    assert [url for url, _ in transport.opened] == ["http://a", "http://b", "http://c"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "passed over http://b" in caplog.text


def test_when_all_servers_have_other_data_the_differences_are_named() -> None:
    """Nobody left to ask is a mismatch that lists every server."""
    transport = MemoryTransport({"http://a": World(seed=1), "http://b": World(seed=2)})
    with pytest.raises(StateMismatchError, match=r"all 2 servers refused: http://a.*http://b") as caught:
        read_all(transport, ("http://a", "http://b"))
    assert caught.value.differences == {"seed": ("0", "1")}


@pytest.mark.parametrize(
    "error",
    [PeerGoneError("x"), ServerBusyError("x", 0.0), ReadError("x"), WorkerError("x")],
    ids=lambda error: type(error).__name__,
)
def test_errors_before_the_stream_that_may_pass_are_waited_out(error: OwlStreamError) -> None:
    """Several refusals in a row do not matter while time is left."""
    assert read_all(with_faults(*[error] * 8)) == UNDISTURBED


def test_a_request_that_cannot_be_is_raised_at_once() -> None:
    """A wrong rank does not become right by trying again."""
    transport = with_faults(RequestError("rank"))
    with pytest.raises(RequestError):
        read_all(transport)
    assert len(transport.opened) == 1


def test_the_same_broken_frame_again_and_again_is_the_servers_fault() -> None:
    """A frame that is wrong in the same way every time is not noise: it is raised instead of tried until time is up."""
    transport = with_faults(*[DISORDER["fault_27_hello_twice"]] * 100)
    with pytest.raises(FrameError, match="no second hello"):
        read_all(transport)
    assert len(transport.opened) < 10


@pytest.mark.parametrize("rank", [0, 1])
def test_micro_batches_of_a_rank_are_in_order(rank: int) -> None:
    """A share with several micro-batches a step gets all of them, also when cut in the middle of a step."""
    share = Share(rank, 2, 1)
    whole = read_all(with_faults(), share=share)
    assert [cursor[1:] for cursor, _ in whole] == [(step, micro) for step in range(3) for micro in range(2)]
    cut = with_faults(lambda frames: frames[: FIRST_BATCH + 3])
    assert read_all(cut, share=share) == whole
    assert cut.opened[1][1].cursor == Cursor(0, 1, 1)
