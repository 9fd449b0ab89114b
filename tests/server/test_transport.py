"""The HTTP layer copies what it is handed: a slab may be written again as soon as `send` returns."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvicorn

from owl_stream.server.direct import DirectSocket
from owl_stream.server.protocol import limited_protocol
from owl_stream.server.writer import CHUNK_BYTES

CHUNKS = 64


async def scribbling_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send every chunk from the same memory, which is overwritten as soon as it has been taken."""
    assert scope["type"] == "http"
    memory = bytearray(CHUNK_BYTES)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(CHUNKS):
        memory[:] = bytes([number]) * CHUNK_BYTES
        await send({"type": "http.response.body", "body": memoryview(memory), "more_body": True})
        memory[:] = b"\xff" * CHUNK_BYTES
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def test_the_transport_copies_what_it_is_handed() -> None:
    """A reader that is slower than the sender, on the event loop that serves, still reads what was sent."""

    async def run() -> bytes:
        settings = uvicorn.Config(
            scribbling_app, loop="uvloop", http=limited_protocol(10.0), lifespan="off", log_level="error"
        )
        server = uvicorn.Server(settings)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            serving = asyncio.create_task(server._serve([sock]))
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = await reader.read()
            writer.close()
            server.should_exit = True
            await serving
        return received

    factory = uvicorn.Config(scribbling_app, loop="uvloop").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        received = runner.run(run())
    body = received.split(b"\r\n\r\n", 1)[1]
    size = b"%x\r\n" % CHUNK_BYTES
    expected = b"".join(size + bytes([number]) * CHUNK_BYTES + b"\r\n" for number in range(CHUNKS))
    assert body == expected + b"0\r\n\r\n"


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
