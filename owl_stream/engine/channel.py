"""Messages between the server and one worker: length-prefixed pickles over a socketpair, with a slab's descriptor.

Both ends are this program on this machine, started by each other, so pickle is safe here. Pixels never pass through.
"""

from __future__ import annotations

import array
import asyncio
import os
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

from owl_stream.assemble import Assembled, SampleLimits
from owl_stream.errors import OwlStreamError

_LENGTH = struct.Struct("<Q")
_RETRY_S = 0.001

NO_MEMORY_EXIT = 77
"""Exit code of a worker whose sample took all the memory that one may: it is replaced, for libraries that were refused
memory are not to be trusted."""


@dataclass(frozen=True)
class Open:
    """To a worker: keep an assembler at hand under a `Dataset.frames`. `factory` is a pickled callable."""

    frames: str
    factory: bytes


@dataclass(frozen=True)
class Work:
    """To a worker: assemble `job` into slab `slab`. The slab's descriptor comes along the first time it is named.

    `forget` lists slabs that are gone: the worker unmaps them. `limits`: what each of the job's samples may take.
    """

    frames: str
    job: bytes
    slab: int
    slab_nbytes: int
    forget: tuple[int, ...]
    limits: SampleLimits


@dataclass(frozen=True)
class Done:
    """From a worker: the frame is in the slab, or why it is not."""

    assembled: Assembled | None
    error: OwlStreamError | None = None


async def send(sock: socket.socket, message: object, fd: int | None = None) -> None:
    """Send from the event loop."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    prefix = _LENGTH.pack(len(body))
    if fd is None:
        await asyncio.get_running_loop().sock_sendall(sock, prefix + body)
    else:
        while True:
            try:
                socket.send_fds(sock, [prefix], [fd])
                break
            except BlockingIOError:  # the job before this one is large, and the worker has not read it yet
                await asyncio.sleep(_RETRY_S)
        await asyncio.get_running_loop().sock_sendall(sock, body)


async def receive(sock: socket.socket) -> Any:
    """Receive on the event loop.

    Raises:
        EOFError: the worker is gone.
    """
    loop = asyncio.get_running_loop()

    async def exactly(nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        view = memoryview(data)
        while view.nbytes:
            taken = await loop.sock_recv_into(sock, view)
            if taken == 0:
                raise EOFError
            view = view[taken:]
        return data

    try:
        (length,) = _LENGTH.unpack(await exactly(_LENGTH.size))
        return pickle.loads(await exactly(length))
    except ConnectionError as exc:
        raise EOFError from exc


def send_blocking(sock: socket.socket, message: object) -> None:
    """Send from a worker."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    sock.sendall(_LENGTH.pack(len(body)) + body)


def receive_blocking(sock: socket.socket) -> tuple[Any, int | None]:
    """Receive in a worker: the message and the descriptor that came along, if any.

    Raises:
        EOFError: the server is gone.
    """
    fds = array.array("i")
    prefix, ancillary, _, _ = sock.recvmsg(_LENGTH.size, socket.CMSG_LEN(fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    fd = fds[0] if fds else None
    try:
        prefix += _receive_exactly(sock, _LENGTH.size - len(prefix))
        return pickle.loads(_receive_exactly(sock, _LENGTH.unpack(prefix)[0])), fd
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise


def _receive_exactly(sock: socket.socket, nbytes: int) -> bytes:
    parts = []
    while nbytes:
        part = sock.recv(min(nbytes, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)
