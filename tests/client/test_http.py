"""The client against a real HTTP server on a real socket, well-behaved and not."""

from __future__ import annotations

import http.client
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from owl_client import OwlStreamDataset, Timeouts
from owl_client.body import WINDOW_BYTES, fast_body
from owl_client.connection import HttpTransport, Token
from owl_stream.errors import (
    ConfigError,
    OwlStreamError,
    PeerGoneError,
    ProtocolVersionError,
    ReadError,
    RequestError,
    ServerBusyError,
    ServerError,
    StateMismatchError,
    UnknownDatasetError,
)
from tests.client.conftest import client_threads
from tests.client.peers import (
    NO_WAIT,
    Misdeed,
    SocketServer,
    close_after,
    finish_after,
    memory_dataset,
    reset_after,
    serving,
    slice_bytes,
)
from tests.client.world import World, keys_of
from tests.support.patience import PATIENCE_S

WORLD = World(steps=4)
UNDISTURBED = keys_of(memory_dataset(WORLD))
DESCRIPTION: tuple[int, dict[str, str], bytes] = (200, {}, json.dumps(WORLD.description_json()).encode())


@pytest.fixture
def server() -> Iterator[SocketServer]:
    """A real server of the world."""
    with serving(WORLD) as running:
        yield running


def dataset_of(url: str | list[str], **options: Any) -> OwlStreamDataset:
    """A dataset over HTTP without waits between tries."""
    return OwlStreamDataset(url, backoff=NO_WAIT, **options)


def test_an_epoch_over_http_is_the_plan(server: SocketServer) -> None:
    """The stream over a socket yields what memory does; the request says all that the server needs."""
    assert keys_of(dataset_of(server.url)) == UNDISTURBED
    assert server.queries == [
        {
            "protocol": ["1"],
            "rank": ["0"],
            "world_size": ["1"],
            "micro_batch_size": ["4"],
            "epoch": ["0"],
            "step": ["0"],
            "micro": ["0"],
            "epochs": ["1"],
            "stride": ["1"],
            "fingerprint": [WORLD.fingerprint],
        }
    ]
    assert server.headers_seen[-1]["Accept-Encoding"] == "identity"
    assert "Authorization" not in server.headers_seen[-1]


def hold(sock: socket.socket, frames: list[bytes]) -> None:
    """Send the head of a frame, then nothing, without closing: what a half-open connection looks like."""
    sock.sendall(b"%x\r\n%s\r\n" % (20, frames[0][:20]))
    sock.settimeout(PATIENCE_S)
    assert sock.recv(1) == b"", "the client must close a silent connection"


MISDEEDS: dict[str, list[Misdeed]] = {
    "fault_5_half_open": [hold],
    "fault_8_reset": [reset_after(n) for n in (0, 900, 2500)],
    "fault_9_one_byte_slices": [slice_bytes],
    "fault_11_clean_end_without_end_frame": [finish_after(n) for n in (0, 1, 4, 6)],
    "fault_1_killed_mid_frame": [close_after(n) for n in (1, 700, 2100, 4000)],
    "fault_22_ten_kills_in_a_row": [close_after(300)] * 10,
}


@pytest.mark.parametrize("misdeeds", MISDEEDS.values(), ids=MISDEEDS)
def test_faults_5_8_9_11_22_on_a_socket_change_nothing(server: SocketServer, misdeeds: list[Misdeed]) -> None:
    """Whatever the connection suffers, everything is yielded once, in order, to the bit."""
    server.misdeeds = list(misdeeds)
    dataset = dataset_of(server.url, timeouts=Timeouts(read_s=0.3 if misdeeds == [hold] else PATIENCE_S))
    assert keys_of(dataset) == UNDISTURBED
    assert dataset.stats().reconnects >= len(misdeeds) - (misdeeds == [slice_bytes])
    assert server.misdeeds == []


def test_fault_15_first_url_dead_second_alive(server: SocketServer) -> None:
    """An address where nobody listens is passed over, for the description and for the stream."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert keys_of(dataset_of([dead, server.url])) == UNDISTURBED


def test_fault_15_failover_in_mid_epoch(server: SocketServer) -> None:
    """The second server continues where the first one died."""
    with serving(WORLD) as first:
        first.misdeeds = [close_after(2500)]
        dataset = dataset_of([first.url, server.url])
        assert keys_of(dataset) == UNDISTURBED
    assert len(server.queries) == 1
    assert int(server.queries[0]["step"][0]) > 0


def error_body(code: str, retryable: bool = False, **more: object) -> bytes:
    """A JSON error as the server writes it."""
    return json.dumps({"error": {"code": code, "message": "because", "retryable": retryable, **more}}).encode()


ANSWERS: dict[str, tuple[int, bytes, type[OwlStreamError], str]] = {
    "401": (401, error_body("unauthorized"), ServerError, "because; pass token="),
    "404": (404, error_body("unknown_dataset"), UnknownDatasetError, "because"),
    "409": (409, error_body("fingerprint_mismatch", differences={"seed": ["1", "2"]}), StateMismatchError, "because"),
    "422": (422, error_body("bad_request"), RequestError, "because"),
    "fault_23_426": (426, error_body("protocol_version"), ProtocolVersionError, "because"),
    "429": (429, error_body("busy", True), ServerBusyError, "because"),
    "503": (503, error_body("indexing", True), ServerBusyError, "because"),
    "500_read": (500, error_body("read", True), ReadError, "because"),
    "500_bare": (500, b"oops", ServerError, "status 500 without an explanation; is it an owl-stream server"),
    "502_of_a_proxy": (502, b"<html>", ServerBusyError, "status 502"),
    "302": (302, b"", ServerError, "status 302"),
    "not_an_object": (418, b'{"error": 7}', ServerError, "status 418"),
    "unknown_code": (500, error_body("novelty", True), ServerBusyError, "because"),
    "deep": (500, b"[" * 60_000, ServerError, "status 500"),
    "html_for_description": (200, b"<html>", ServerError, "expected the description"),
    "other_json": (200, b'{"name": 1}', ServerError, "expected the description"),
    "negative": (
        200,
        json.dumps({**WORLD.description_json(), "steps_per_epoch": -1}).encode(),
        ServerError,
        ">= 0 - at",
    ),
}


@pytest.mark.parametrize(("status", "body", "kind", "message"), ANSWERS.values(), ids=ANSWERS)
def test_every_answer_has_its_typed_error(
    server: SocketServer, status: int, body: bytes, kind: type[OwlStreamError], message: str
) -> None:
    """What the server says becomes the matching exception, with its address in front."""
    server.answers = [(status, {"Retry-After": "7"}, body)]
    with pytest.raises(kind, match=message) as caught:
        HttpTransport().describe(server.url, "train")
    assert str(caught.value).startswith(server.url)
    if isinstance(caught.value, StateMismatchError):
        assert caught.value.differences == {"seed": ("1", "2")}
    if isinstance(caught.value, ServerBusyError):
        assert caught.value.retry_after_s == 7.0


def test_a_stream_of_another_media_type_is_refused(server: SocketServer) -> None:
    """A page of some proxy is not mistaken for frames."""
    server.answers = [DESCRIPTION, (200, {"Content-Type": "text/html"}, b"<html>hello</html>")]
    with pytest.raises(ServerError, match=r"expected application/x-msgpack.*text/html"):
        next(iter(dataset_of(server.url)))


def test_a_busy_server_is_waited_for(server: SocketServer) -> None:
    """429 and 503, while describing and while opening, pass by waiting."""
    busy = (503, {"Retry-After": "0"}, error_body("indexing", True))
    server.answers = [busy, busy, DESCRIPTION, busy, (429, {}, error_body("busy", True))]
    assert keys_of(dataset_of(server.url)) == UNDISTURBED


def test_the_token_is_sent_and_never_shown(server: SocketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token given, or that of OWL_TOKEN, goes to the server and into no text, even when the server repeats it."""
    monkeypatch.setenv("OWL_TOKEN", "s3cret")
    server.answers = [(403, {}, error_body("forbidden").replace(b"because", b"no s3cret here"))]
    dataset = dataset_of(server.url)
    with pytest.raises(ServerError, match=r"no \*\*\* here") as caught:
        len(dataset)
    assert server.headers_seen[-1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in f"{caught.value!r} {dataset!r} {dataset._settings!r}"
    assert pickle.loads(pickle.dumps(dataset))._settings.transport == HttpTransport(Token("s3cret"))


@pytest.mark.parametrize("url", ["http://user:pw@host:1", "http://h?token=pw", "http://h:99999", "http://", "http://ü"])
def test_addresses_that_cannot_be_are_refused_without_repeating_secrets(url: str) -> None:
    """Secrets in an address would end in every log: they are refused, unshown."""
    with pytest.raises(ConfigError) as caught:
        OwlStreamDataset(url)
    assert "pw" not in str(caught.value)


def test_closing_wakes_a_reader_that_waits_for_the_network(server: SocketServer) -> None:
    """A thread inside `recv` ends at once when its iterator is closed, and the server sees the connection go."""
    waiting = threading.Event()

    def wait_for_the_end(sock: socket.socket, frames: list[bytes]) -> None:
        sock.sendall(b"%x\r\n%s\r\n" % (len(frames[0]), frames[0]))
        waiting.set()
        sock.settimeout(PATIENCE_S)
        assert sock.recv(1) == b""

    server.misdeeds = [wait_for_the_end]
    dataset = dataset_of(server.url)
    with ThreadPoolExecutor(1) as trainer:
        batch = trainer.submit(next, iter(dataset))
        assert waiting.wait(PATIENCE_S)
        dataset.close()
        with pytest.raises(RequestError, match="the dataset was closed"):
            batch.result(PATIENCE_S)
    assert client_threads() == []
    assert keys_of(dataset) == UNDISTURBED


def test_a_connection_that_is_silent_past_its_deadline_says_so(server: SocketServer) -> None:
    """Fault 5: a server that accepts and never answers is gone, not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PeerGoneError, match=f"{url}: silent past its deadline"):
            HttpTransport(timeouts=Timeouts(read_s=0.1)).describe(url, "train")


def test_tls_towards_a_server_that_speaks_none_names_the_mistake(server: SocketServer) -> None:
    """`https://` instead of `http://`."""
    with pytest.raises(PeerGoneError, match=r"TLS is not spoken there: is its address http://"):
        HttpTransport().describe(server.url.replace("http://", "https://"), "train")


def test_importing_the_client_imports_nothing_of_the_servers() -> None:
    """`import owl_client` stays light: no FastAPI, no webdataset, no pydantic, no tokenizers."""
    code = (
        "import sys, owl_client; "
        "print(sorted({'fastapi', 'webdataset', 'pydantic', 'tokenizers', 'PIL', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"[]"


@pytest.mark.skipif(not hasattr(socket, "TCP_WINDOW_CLAMP"), reason="windows are bounded on Linux")
@pytest.mark.parametrize(("client", "bounded"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_a_server_on_the_same_machine_sends_a_little_ahead(client: str, bounded: bool) -> None:
    """Where both ends have one address the receive window is bounded; across a distance the kernel chooses it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), source_address=(client, 0)) as sock,
        listener.accept()[0] as peer,
    ):
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            body, got = fast_body(response, sock, 5.0), memoryview(bytearray(4))
            assert body.readinto(got) == 4
            assert bytes(got) == b"abcd"
        assert (sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP) == WINDOW_BYTES) is bounded
