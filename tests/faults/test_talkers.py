"""The talkers of the soak do what their names say: to a client they are servers that go on talking."""

from __future__ import annotations

import pytest

from owl_stream.wire import BatchHeader, FrameParser, Hello
from tests.faults.harms import END_OF_HEAD
from tests.faults.proxy import FaultProxy
from tests.faults.talkers import TALKERS
from tests.support.http import connect
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"
WORDS = 3


def said(talker: FaultProxy, path: str) -> bytes:
    """An answer up to some words behind where the talker has begun to say nothing."""
    with connect(talker.url) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        heard, words = b"", 0
        while words < WORDS and (part := sock.recv(1 << 16)):
            words += bool(talker.struck)
            heard += part
    assert words == WORDS
    return heard


def frames_in(body: bytes) -> list[object]:
    """The headers of all frames that are whole in a chunked body that may break off."""
    data, parser, found = bytearray(), FrameParser(), list[object]()
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        if not size.isalnum() or not int(size, 16):
            break
        data += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    while data:
        space = parser.buffer()
        part = bytes(data[: space.nbytes])
        space[: len(part)] = part
        del data[: len(part)]
        frame = parser.advance(len(part))
        if frame is not None:
            found.append(frame.header)
    return found


@pytest.mark.parametrize("kind", TALKERS)
def test_a_talker_talks_and_gives_no_batch(steady: ServerProcess, kind: str) -> None:
    """What it says first is right, then come words without end and never a batch."""
    path, harm = TALKERS[kind]
    asked = path if path.endswith("train") else STREAM
    with FaultProxy(steady.url, lambda _: harm()) as talker:
        heard = said(talker, asked)
    head, _, body = heard.partition(END_OF_HEAD)
    assert b"HTTP/1.1 ".startswith(head[:9]) or head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 100"))
    if head.startswith(b"HTTP/1.1 200"):
        headers = frames_in(body)
        assert isinstance(headers[0], Hello)
        assert not any(isinstance(header, BatchHeader) for header in headers)
