"""What has been sent is nobody's any more: a slab may be written again as soon as `Writer.body` returns."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvicorn

from owl_stream.engine import Coordinate
from owl_stream.server.direct import DirectSocket
from owl_stream.server.framing import CloseDelimited
from owl_stream.server.protocol import limited_protocol
from owl_stream.server.streams import StreamRecord
from owl_stream.server.writer import CHUNK_BYTES, DIRECT, Writer
from tests.support.patience import PATIENCE_S

CHUNKS = 64


async def scribbling_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send every chunk from the same memory, which is overwritten as soon as it has been taken."""
    assert scope["type"] == "http"
    memory = bytearray(CHUNK_BYTES)
    scope["extensions"].pop(DIRECT)
    with Writer(scope, send, StreamRecord(1, "train", Coordinate(0, 0, 0, 0, 1, 1)), PATIENCE_S, None) as write:
        await write.begin(200, [])
        for number in range(CHUNKS):
            memory[:] = bytes([number]) * CHUNK_BYTES
            await write.body(memoryview(memory))
            memory[:] = b"\xff" * CHUNK_BYTES
        await write.end()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_fault_125_what_was_sent_may_be_overwritten(version: str) -> None:
    """A reader slower than the sender still reads what was sent: with chunks, and without them over HTTP/1.0."""

    async def run() -> bytes:
        settings = uvicorn.Config(
            CloseDelimited(scribbling_app),
            loop="uvloop",
            http=limited_protocol(10.0),
            lifespan="off",
            log_level="error",
        )
        server = uvicorn.Server(settings)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            serving = asyncio.create_task(server._serve([sock]))
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(f"GET / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            received = await reader.read()
            writer.close()
            server.should_exit = True
            await serving
        return received

    factory = uvicorn.Config(scribbling_app, loop="uvloop").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        received = runner.run(run())
    body = received.split(b"\r\n\r\n", 1)[1]
    chunks = [bytes([number]) * CHUNK_BYTES for number in range(CHUNKS)]
    size = b"%x\r\n" % CHUNK_BYTES
    chunked = b"".join(size + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    assert body == (b"".join(chunks) if version == "1.0" else chunked)


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="congestion control is chosen on Linux")
@pytest.mark.parametrize(("client", "at_home"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_frames_are_not_paced_where_both_ends_have_one_address(client: str, at_home: bool) -> None:
    """There the direct socket chooses Reno, whatever the system's default is; across a distance it chooses nothing."""

    async def run() -> bytes:
        chosen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with DirectSocket(writer.transport):
                chosen.set_result(congestion_control(writer.get_extra_info("socket")))
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(host, port, local_addr=(client, 0))
            found = await chosen
            writer.close()
        return found

    factory = uvicorn.Config(scribbling_app, loop="uvloop").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(run())
    with socket.socket() as fresh:
        assert found == (b"reno" if at_home else congestion_control(fresh))


def congestion_control(sock: socket.socket) -> bytes:
    """The name of what paces a socket."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
