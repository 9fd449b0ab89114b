"""What a server says reaches a trainer's terminal and log as words, and does nothing there."""

from __future__ import annotations

import json
import logging
import socket
import threading
import traceback
from contextlib import suppress

import pytest

from owl_client import Backoff, OwlStreamDataset
from owl_stream.errors import OwlStreamError
from owl_stream.wire import ErrorInfo, pack_frame
from tests.client.peers import SocketServer, chunk, serving
from tests.client.world import World
from tests.support.hostile import HOSTILE, assert_inert

WORLD = World()
NO_WAIT = Backoff(first_s=0.0, most_s=0.0)


def refusal(status: int, code: str, *, retryable: bool) -> tuple[int, dict[str, str], bytes]:
    """An HTTP answer whose every word is hostile."""
    error = {"code": code, "message": HOSTILE, "retryable": retryable, "differences": {HOSTILE: [HOSTILE, HOSTILE]}}
    return status, {}, json.dumps({"error": error}).encode()


def all_words(error: BaseException | None) -> str:
    """The messages of an error of ours and of those of ours that it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return "\n".join(str(each) for each in chain if isinstance(each, OwlStreamError))


@pytest.mark.parametrize("code", ["bad_request", "unknown_dataset", "fingerprint_mismatch", "data_changed", HOSTILE])
def test_fault_137_an_error_quotes_a_server_inertly(code: str) -> None:
    """By an answer, by a frame, by a description that is none: the message is one line, and holds the words."""
    with serving(WORLD) as server:
        server.answers = [refusal(422, code, retryable=False)]
        assert r"\x1b]0;owned\x07" in refused(server)
        server.answers = [(200, {}, json.dumps({"name": HOSTILE, "layout": HOSTILE}).encode())]
        refused(server)
        server.misdeeds = [lambda sock, frames: sock.sendall(chunk(pack_frame(ErrorInfo(code, HOSTILE, False))))] * 9
        assert r"\x1b]0;owned\x07" in refused(server)


def refused(server: SocketServer) -> str:
    """What the client says about it, held to the promise."""
    with pytest.raises(OwlStreamError) as caught, OwlStreamDataset(server.url, backoff=NO_WAIT) as dataset:
        list(dataset)
    words = assert_inert(all_words(caught.value))
    assert len(str(caught.value).splitlines()) == 1
    return words


@pytest.mark.parametrize("head", [b"HTTP/9\x1b[31m 200 OK", b"HTTP/1.1 \x1b[31m\x07 OK", b"\x1b[2J\x9b"])
def test_fault_137_a_traceback_quotes_a_server_inertly(head: bytes) -> None:
    """What `http.client` raises about a head that is none is part of the traceback that a trainer sees."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as sock:
                        sock.recv(1 << 16)
                        sock.sendall(head + b"\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(OwlStreamError) as caught, OwlStreamDataset(url, give_up_after_s=0, backoff=NO_WAIT) as data:
            list(data)
        listening.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert_inert("".join(traceback.format_exception(caught.value)))


def test_fault_137_a_warning_quotes_a_server_inertly(caplog: pytest.LogCaptureFixture) -> None:
    """A server that is passed over, and one whose assembly is not that of a state, as any handler gets them."""
    with serving(WORLD) as refusing, serving(WORLD) as serving_well, caplog.at_level(logging.WARNING, "owl_client"):
        refusing.answers = [refusal(422, "bad_request", retryable=False)] * 9
        with OwlStreamDataset([refusing.url, serving_well.url], backoff=NO_WAIT) as dataset:
            state = dataset.state_dict()
            assert len(list(dataset)) == WORLD.steps
    with serving(World(assembly=HOSTILE)) as other, OwlStreamDataset(other.url, backoff=NO_WAIT) as dataset:
        dataset.load_state_dict(state)
        next(iter(dataset))
    told = [record.getMessage() for record in caplog.records if record.name == "owl_client"]
    assert any(message.startswith("passed over") for message in told)
    assert any("pixels may differ" in message for message in told)
    for message in told:
        assert_inert(message)
        assert len(message.splitlines()) == 1
