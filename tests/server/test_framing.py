"""HEAD where GET works, and answers that HTTP/1.0 can read.

Fault 116 of docs/faults.md.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from owl_stream.wire import parse_frames
from tests.support.server import ServerProcess

ROUTES = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/login",
    "/inspect/train/0/0/0",
    "/v1/datasets",
    "/v1/datasets/train",
    "/v1/datasets/train?world_size=3",
    "/v1/datasets/none",
    "/v1/datasets/train/plan?step=1",
    "/v1/datasets/train/plan?step=99999",
    "/v1/datasets/train/quarantine",
    "/v1/datasets/train/batches/0/0/0",
    "/v1/datasets/train/batches/0/99999/0",
    "/v1/datasets/train/looks/0/0/0",
    "/v1/datasets/train/looks/0/99999/0",
    "/v1/datasets/train/stream",
    "/v1/datasets/train/stream?rank=7",
    "/v1/datasets/train/stream?fingerprint=other",
    "/no/such/page",
]


def ask(server: ServerProcess, method: str, target: str, version: str = "1.1") -> tuple[int, dict[str, str], bytes]:
    """(status, headers, what follows them until the server closes), by hand: no client's parser in between."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=30) as sock:
        head = f"{method} {target} HTTP/{version}\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        raw = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    head_bytes, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head_bytes.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


@pytest.mark.parametrize("target", ROUTES)
def test_head_is_answered_as_get_without_a_body(server: ServerProcess, target: str) -> None:
    """The same status and headers; only lengths of bodies that a HEAD need not make may be missing."""
    status, headers, body = ask(server, "GET", target)
    head_status, head_headers, head_body = ask(server, "HEAD", target)
    assert body or status in (303, 307)
    assert (head_status, head_body) == (status, b"")
    volatile = {"date", "content-length", "transfer-encoding", "owl-stream-id", "etag"}
    assert {k: v for k, v in head_headers.items() if k not in volatile} == {
        k: v for k, v in headers.items() if k not in volatile
    }
    if "content-length" in head_headers and "/metrics" not in target and "/health" not in target:
        assert head_headers["content-length"] == headers["content-length"]


@pytest.mark.parametrize("target", ["stream", "batches/0/1/0", "looks/0/1/0"])
def test_a_head_assembles_nothing(server: ServerProcess, target: str) -> None:
    """No stream begins and no frame is made."""

    def made() -> list[bytes]:
        _, _, metrics = ask(server, "GET", "/metrics", "1.0")
        names = (b"owl_stream_assembled_frames_total", b"owl_stream_streams_total", b"owl_stream_frames_total")
        return [line for line in metrics.splitlines() if line.startswith(names)]

    before = made()
    assert before
    assert ask(server, "HEAD", f"/v1/datasets/train/{target}")[0] == 200
    assert made() == before


@pytest.mark.parametrize("target", ROUTES)
def test_an_answer_to_http_1_0_is_not_chunked(server: ServerProcess, target: str) -> None:
    """It has a length, or ends where the connection does; the body is the one that HTTP/1.1 carries."""
    status, headers, body = ask(server, "GET", target, "1.0")
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    if "content-length" in headers:
        assert len(body) == int(headers["content-length"])
    assert status == ask(server, "GET", target)[0]


def test_a_stream_over_http_1_0_is_whole_frames_to_the_end(server: ServerProcess) -> None:
    """The bytes parse as they are, from `hello` to `end`."""
    _, headers, body = ask(server, "GET", "/v1/datasets/train/stream", "1.0")
    kinds = [type(frame.header).__name__ for frame in parse_frames(body)]
    assert (kinds[0], kinds[-1]) == ("Hello", "End")
    assert kinds.count("BatchHeader") > 1
    assert headers["content-type"] == "application/x-msgpack"
