"""Receive memory and devices: alignment, reuse only after the last reader, copies that are still under way."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch

from owl_client import OwlStreamDataset
from owl_client.buffers import CopyLedger, ReceiveMemory
from owl_client.device import HostPlacer, make_placer, parse_device, resolve_device
from owl_client.transport import Interrupt, StreamRequest
from owl_stream.errors import ConfigError
from owl_stream.wire import lay_out, tensor_views
from tests.client.peers import MemoryStream, MemoryTransport
from tests.client.world import PIXELS, World
from tests.support.patience import PATIENCE_S


@pytest.mark.parametrize("nbytes", [1, 64, 65536, 65537, 100_000, 1_000_000])
def test_memory_is_aligned_writable_and_exact(nbytes: int) -> None:
    """What `take` gives begins on 64 bytes and is as long as asked for."""
    memory = ReceiveMemory().take(nbytes)
    assert (memory.nbytes, memory.readonly, memory.itemsize) == (nbytes, False, 1)
    assert np.frombuffer(memory, np.uint8).ctypes.data % 64 == 0


def test_a_slab_comes_back_when_the_last_view_has_died() -> None:
    """Numpy views and tensors keep their slab lent, one by one; the last to die returns it."""
    pool = ReceiveMemory()
    specs, nbytes = lay_out([("a", "int64", (4,)), ("b", "uint8", (100_000,))])
    payload = pool.take(nbytes)
    address = np.frombuffer(payload, np.uint8).ctypes.data
    views = tensor_views(payload, specs)
    kept = torch.from_numpy(views["a"])[1:]
    del payload, views
    assert pool.idle_bytes == 0
    other = pool.take(nbytes)
    assert np.frombuffer(other, np.uint8).ctypes.data != address
    del kept
    assert np.frombuffer(pool.take(nbytes), np.uint8).ctypes.data == address


def test_idle_memory_is_bounded() -> None:
    """What nobody uses goes back to the system, oldest first."""
    pool = ReceiveMemory(max_idle_bytes=1 << 20)
    lent = [pool.take(1 << 18) for _ in range(20)]
    del lent
    assert 0 < pool.idle_bytes <= 1 << 20


def test_a_small_payload_does_not_take_a_huge_slab() -> None:
    """Text-only batches between image batches leave the large slabs alone."""
    pool = ReceiveMemory()
    pool.take(8 << 20)
    idle = pool.idle_bytes
    small = pool.take(1000)
    assert pool.idle_bytes == idle
    del small


def test_slabs_may_come_back_in_any_thread() -> None:
    """The last view may die anywhere, also during garbage collection."""
    pool = ReceiveMemory()
    cycle: list[Any] = [pool.take(70_000)]
    cycle.append(cycle)
    del cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    assert pool.idle_bytes > 0


class FakeEvent:
    """A copy that is done when the test says so."""

    def __init__(self) -> None:
        self.done = False

    def query(self) -> bool:
        """See `Event`."""
        return self.done

    def synchronize(self) -> None:
        """See `Event`."""
        self.done = True


def test_memory_stays_lent_while_its_copy_is_under_way() -> None:
    """The source of an asynchronous copy is let go of only when its event has happened, in order."""
    pool, ledger, events = ReceiveMemory(), CopyLedger(), [FakeEvent(), FakeEvent()]
    for event in events:
        ledger.keep(event, pool.take(70_000))
    assert (ledger.reap(), pool.idle_bytes) == (2, 0)
    events[1].done = True
    assert (ledger.reap(), pool.idle_bytes) == (2, 0)
    events[0].done = True
    assert ledger.reap() == 0
    assert pool.idle_bytes > 0


def test_draining_waits_for_all_copies() -> None:
    """When the thread ends, nothing is freed under a copy."""
    ledger, event = CopyLedger(), FakeEvent()
    ledger.keep(event, None)
    ledger.drain()
    assert event.done
    assert ledger.reap() == 0


def test_placing_raw_copies_nothing_and_placing_normalised_frees_the_payload() -> None:
    """Raw batches are views of the receive memory; with normalised pixels nothing holds on to it."""
    specs, nbytes = lay_out([("input_ids", "int64", (2, 3)), ("pixel_values", "uint8", (1, 3, 200, 200))])
    pool = ReceiveMemory()
    payload = pool.take(nbytes)
    payload[:] = bytes(nbytes)
    views = tensor_views(payload, specs)
    raw = HostPlacer(torch.device("cpu"), torch.uint8).place(views, {"pixel_values": PIXELS}).claim()
    assert {name: t.data_ptr() for name, t in raw.items()} == {name: v.ctypes.data for name, v in views.items()}
    del raw
    made = HostPlacer(torch.device("cpu"), torch.float32).place(views, {"pixel_values": PIXELS}).claim()
    del payload, views
    assert pool.idle_bytes > 0
    assert bool((made["pixel_values"] == -1.0).all())


def test_devices_without_asynchronous_copies_are_served_too() -> None:
    """Any torch device takes the plain path."""
    specs, nbytes = lay_out([("input_ids", "int64", (2, 3)), ("pixel_values", "uint8", (1, 3, 4, 4))])
    placer = make_placer(torch.device("meta"), torch.float16)
    with placer:
        views = tensor_views(ReceiveMemory().take(nbytes), specs)
        tensors = placer.place(views, {"pixel_values": PIXELS}).claim()
    assert {name: (t.device.type, t.dtype) for name, t in tensors.items()} == {
        "input_ids": ("meta", torch.int64),
        "pixel_values": ("meta", torch.float16),
    }


def test_cuda_is_resolved_to_the_callers_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has its own current device, so the caller's is settled before it starts."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device(parse_device("cuda")) == torch.device("cuda", 3)
    assert resolve_device(parse_device("cuda:1")) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="index below 4"):
        resolve_device(parse_device("cuda:4"))


class Held(MemoryTransport):
    """A server that holds back everything behind the first batch until it is released."""

    def __init__(self, world: World) -> None:
        super().__init__({"http://a": world})
        self.asked_for_more, self.released = threading.Event(), threading.Event()

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> MemoryStream:
        """See `Transport`."""
        frames = self._world(url).frames(request)
        return HeldStream(self, b"".join(frames[:4]), b"".join(frames[4:]))


class HeldStream(MemoryStream):
    """Its body."""

    def __init__(self, transport: Held, first: bytes, rest: bytes) -> None:
        super().__init__(first, transport)
        self._held, self._later = transport, rest

    def readinto(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        taken = super().readinto(buffer)
        if taken or not self._later:
            return taken
        self._held.asked_for_more.set()
        assert self._held.released.wait(PATIENCE_S)
        self._rest, self._later = memoryview(self._later), b""
        return super().readinto(buffer)


def test_a_batch_that_the_trainer_dropped_is_held_by_nobody_else() -> None:
    """While the thread waits for the next batch it does not keep the memory of the last one lent."""
    transport = Held(World(side=200))
    dataset = OwlStreamDataset("http://a", transport=transport, dtype=torch.uint8)
    iterator = iter(dataset)
    batch = next(iterator)
    assert transport.asked_for_more.wait(PATIENCE_S)
    memory = dataset._here()._memory
    assert memory is not None
    assert memory.idle_bytes == 0
    del batch
    assert memory.idle_bytes > 0
    transport.released.set()
    assert [batch.meta.step for batch in iterator] == [1, 2]
