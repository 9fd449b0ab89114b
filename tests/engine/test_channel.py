"""Messages to a worker that does not read: a full socket delays them, a deadline ends them, and nothing is torn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from owl_stream.engine.channel import receive_blocking, send
from owl_stream.engine.handle import WorkerHandle


def _fill(sock: socket.socket) -> int:
    """Write until the kernel takes no more; returns how many bytes that were."""
    filled = 0
    while True:
        try:
            filled += sock.send(bytes(1 << 16))
        except BlockingIOError:
            return filled


def _drain(sock: socket.socket, nbytes: int) -> None:
    while nbytes:
        nbytes -= len(sock.recv(min(nbytes, 1 << 16)))


def test_a_descriptor_waits_for_room_in_a_full_socket() -> None:
    """It arrives once, with its message, when the other end reads again."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            filled, memory = _fill(ours), os.memfd_create("sent")
            sending = asyncio.create_task(send(ours, {"a": "message"}, memory))
            await asyncio.sleep(0.1)
            assert not sending.done()
            await asyncio.to_thread(_drain, theirs, filled)
            message, fd = await asyncio.to_thread(receive_blocking, theirs)
            await sending
            assert message == {"a": "message"}
            assert fd is not None
            assert os.path.samestat(os.fstat(fd), os.fstat(memory))
            os.close(fd)
            os.close(memory)

    asyncio.run(run())


def test_a_message_that_a_worker_does_not_read_has_a_deadline() -> None:
    """A stopped worker is broken from then on: half a message is in its socket."""
    large: Any = SimpleNamespace(frames="large", assembler_factory=bytes(8 << 20))

    async def run() -> None:
        worker = WorkerHandle(0.5)
        try:
            worker.process.send_signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                await worker.open(large)
            assert worker.broken
            with pytest.raises(EOFError):
                await worker.open(large)
        finally:
            await worker.kill()

    asyncio.run(run())
