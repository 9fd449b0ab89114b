"""`owl-stream doctor`: planted faults, each named with its remedy, and a healthy server of which nothing is said."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import pytest
import torch
import trustme

from owl_client import OwlStreamDataset
from owl_client.connection import Tls, Token
from owl_client.doctor import Case, Finding, examine, reach
from owl_stream import __version__
from tests.cli.command import run
from tests.faults.harms import Pieces
from tests.faults.proxy import FaultProxy
from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess

TOKEN = "a-token-of-the-trainer"
OPEN = {"workers": 1}
CLOSED = {"workers": 1, "access": {"tokens": {"trainer": TOKEN}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A healthy one."""
    with ServerProcess(small_dataset(tmp_path_factory.mktemp("doctor"), server=OPEN)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that asks for a token."""
    with ServerProcess(small_dataset(tmp_path_factory.mktemp("guarded"), server=CLOSED)) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"OWL_TOKEN", "RANK", "WORLD_SIZE"}:
            monkeypatch.delenv(name)


def findings(url: str, **case: object) -> dict[str, Finding]:
    """What is found, by check; a fault where there are several of one name."""
    settings = {"seconds": 0.3, "dataset": "train", **case}
    found: dict[str, Finding] = {}
    for finding in examine(Case(url, **settings)):  # type: ignore[arg-type] # as given
        if finding.check not in found or finding.verdict == "fault":
            found[finding.check] = finding
    return found


def only_fault(found: dict[str, Finding], check: str, said: str, remedy: str) -> None:
    """One fault, which says so and names such a remedy."""
    assert [each.check for each in found.values() if each.verdict == "fault"] == [check], found
    assert re.search(said, found[check].said), found[check]
    assert re.search(remedy, found[check].remedy), found[check]


def test_nothing_is_said_against_a_healthy_server(server: ServerProcess) -> None:
    """Every check is made, and each is content."""
    found = findings(server.url)
    assert {each.verdict for name, each in found.items() if name != "shm"} == {"ok"}, found
    wanted = {"reach", "clock", "version", "health", "dataset", "share", "memory", "speed"}
    assert found.keys() - {"shm"} == wanted
    assert "1 rank x 1 micro-batch of 4 rows" in found["share"].said


def test_a_wrong_port_is_named(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the right one, where a server listens on the usual port of that host."""
    with socket.socket() as bound:  # bound, so that nobody else listens there
        bound.bind(("127.0.0.1", 0))
        wrong = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr(reach, "DEFAULT_PORT", bound.getsockname()[1])
        only_fault(findings(wrong), "reach", "nothing listens at 127.0.0.1:", "start the server there")
        monkeypatch.setattr(reach, "DEFAULT_PORT", int(server.url.rpartition(":")[2]))
        only_fault(findings(wrong), "reach", "nothing listens", f"listens at {server.url}")


def test_a_name_that_nobody_knows_is_named() -> None:
    """`.invalid` is nobody's (RFC 6761)."""
    only_fault(findings("http://loader.invalid:8000"), "name", "loader.invalid cannot be looked up", "DNS")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_for_loopback_is_named(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Reading works all the same; where no_proxy leaves the host out, all is well."""
    monkeypatch.setenv(variable, "http://proxy.invalid:3128")
    found = findings(server.url)
    only_fault(found, "proxy", f"{variable.lower()} is set, and 127.0.0.1 is this machine", "no_proxy=localhost")
    assert found["speed"].verdict == "ok"
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert findings(server.url)["proxy"].verdict == "ok"


@pytest.fixture(scope="module")
def tls_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[ServerProcess, Path]]]:
    """Servers with TLS by how their certificate is, each with its authority's file."""
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    running: dict[str, tuple[ServerProcess, Path]] = {}
    try:
        for name, identity, ends in (
            ("good", "127.0.0.1", None),
            ("expired", "127.0.0.1", yesterday),
            ("of another host", "loader.example", None),
        ):
            directory, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
            authority.cert_pem.write_to_path(directory / "ca.pem")
            issued = authority.issue_cert(identity, not_after=ends)
            issued.private_key_pem.write_to_path(directory / "key.pem")
            issued.cert_chain_pems[0].write_to_path(directory / "server.pem")
            files = {"certificate": str(directory / "server.pem"), "key": str(directory / "key.pem")}
            server = ServerProcess(small_dataset(directory / "data", server={**OPEN, "tls": files}))
            running[name] = (server.start(), directory / "ca.pem")
        yield running
    finally:
        for server, _ in running.values():
            server.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("certificate", "trusted", "said", "remedy"),
    [
        ("expired", True, "certificate has expired", "renew"),
        ("of another host", True, "IP address mismatch", "a name that the certificate has"),
        ("good", False, "unable to get local issuer|self.signed", "--ca FILE"),
    ],
)
def test_a_certificate_that_is_refused_is_named(
    tls_servers: dict[str, tuple[ServerProcess, Path]], certificate: str, trusted: bool, said: str, remedy: str
) -> None:
    """Why, and what to do: renew it, use its name, or trust its authority."""
    server, ca = tls_servers[certificate]
    only_fault(findings(server.url, tls=Tls(ca if trusted else None)), "tls", said, remedy)


def test_tls_that_is_trusted_is_read(tls_servers: dict[str, tuple[ServerProcess, Path]]) -> None:
    """And where both share a machine, one may want to know that memory is not shared."""
    server, ca = tls_servers["good"]
    found = findings(server.url, tls=Tls(ca))
    assert {each.verdict for name, each in found.items() if name not in {"shm", "memory"}} == {"ok"}
    assert (found["tls"].verdict, found["memory"].verdict) == ("ok", "note")


def test_http_where_https_is_spoken_and_the_other_way_round(
    server: ServerProcess, tls_servers: dict[str, tuple[ServerProcess, Path]]
) -> None:
    """The address that is right."""
    secure = tls_servers["good"][0].url
    only_fault(findings(secure.replace("https", "http")), "tls", "speaks TLS", re.escape(secure))
    only_fault(findings(server.url.replace("http", "https")), "tls", "does not speak TLS", re.escape(server.url))


def test_a_checkpoint_of_other_data_is_named_by_what_differs(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """By component; a checkpoint of these data tells where it goes on."""
    with ServerProcess(small_dataset(tmp_path_factory.mktemp("other"), server=OPEN, seed=7)) as other:
        theirs = OwlStreamDataset(other.url).state_dict()
    torch.save({"model": {"w": torch.zeros(3)}, "data": theirs}, tmp_path / "other.pt")
    only_fault(
        findings(server.url, state=tmp_path / "other.pt"), "state", r"with other data: seed: expected 7, got", ""
    )
    ours = {**OwlStreamDataset(server.url).state_dict(), "step": 3}
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": {"OwlStream": ours}}))
    found = findings(server.url, state=checkpoint)
    assert found["state"].verdict == "ok"
    assert "epoch 0, step 3" in found["state"].said
    assert found["speed"].verdict == "ok"


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04", b'{"data": {"version": 1}}', None])
def test_a_checkpoint_without_a_state_is_named(server: ServerProcess, tmp_path: Path, content: bytes | None) -> None:
    """Empty, of something else, damaged, or not there."""
    for name in ("checkpoint.json", "checkpoint.pt"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        only_fault(findings(server.url, state=tmp_path / name), "state", name, "resume from")


def changed(change: Callable[[bytes], bytes]) -> Callable[[Pieces, Callable[[], None]], Pieces]:
    """A harm to what passes through, piece by piece."""

    async def harm(pieces: Pieces, struck: Callable[[], None]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            yield change(piece)

    return harm


def an_hour(hours: int) -> Callable[[bytes], bytes]:
    """Move the date in the head of an answer."""

    def move(piece: bytes) -> bytes:
        def moved(found: re.Match[bytes]) -> bytes:
            then = parsedate_to_datetime(found[1].decode()) + datetime.timedelta(hours=hours)
            return b"date: " + format_datetime(then, usegmt=True).encode() + b"\r\n"

        return re.sub(rb"(?i)date: ([^\r]+)\r\n", moved, piece)

    return move


@pytest.mark.parametrize(("hours", "said"), [(1, "behind"), (-1, "ahead of")])
def test_clocks_that_are_apart_are_named(server: ServerProcess, hours: int, said: str) -> None:
    """By an hour, either way."""
    with FaultProxy(server.url, lambda path: changed(an_hour(hours))) as proxy:
        found = findings(proxy.url, seconds=0.0)
    only_fault(found, "clock", rf"clock is 3[56]\d\d s {said} the server's", "NTP")


def test_an_old_server_is_named(server: ServerProcess) -> None:
    """By both versions."""
    old = "0.0.9".ljust(len(__version__), "0").encode()

    def harm(path: str) -> Callable[[Pieces, Callable[[], None]], Pieces] | None:
        swap = changed(lambda piece: piece.replace(b'"version":"' + __version__.encode(), b'"version":"' + old))
        return swap if path == "/health" else None

    with FaultProxy(server.url, harm) as proxy:
        only_fault(findings(proxy.url, seconds=0.0), "version", "older than this client's", "the same version")


def test_another_protocol_is_named(server: ServerProcess) -> None:
    """As the server itself refuses it."""

    def refuse(path: str) -> Callable[[Pieces, Callable[[], None]], Pieces] | None:
        body = json.dumps({"error": {"code": "protocol_version", "message": "expected protocol 9", "retryable": False}})
        answer = f"HTTP/1.1 426 Upgrade Required\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

        async def harm(pieces: Pieces, struck: Callable[[], None]) -> AsyncIterator[bytes]:
            yield answer

        return harm if "/stream" in path else None

    with FaultProxy(server.url, refuse) as proxy:
        only_fault(findings(proxy.url), "batches", "expected protocol 9", "the same owl-stream on both sides")


def test_blocked_shared_memory_is_named(tmp_path: Path, server: ServerProcess) -> None:
    """By a setting of the server, and by something that stands between the two."""
    settings = {**OPEN, "shared_memory": False}
    with ServerProcess(small_dataset(tmp_path / "data", server=settings)) as blocked:
        only_fault(
            findings(blocked.url), "memory", "through a socket and not from shared memory", "shared_memory: true"
        )
    with FaultProxy(server.url) as proxy:
        only_fault(findings(proxy.url), "memory", "through a socket", "nothing stand between")


def slow(nbytes_per_s: int) -> Callable[[Pieces, Callable[[], None]], Pieces]:
    """A link that carries so much."""

    async def harm(pieces: Pieces, struck: Callable[[], None]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            await asyncio.sleep(len(piece) / nbytes_per_s)
            yield piece

    return harm


@pytest.mark.parametrize("nbytes_per_s", [400_000, 40_000])
def test_a_slow_link_is_named(server: ServerProcess, nbytes_per_s: int) -> None:
    """Also where not one batch comes in the time."""
    with FaultProxy(server.url, lambda path: slow(nbytes_per_s) if "/stream" in path else None) as proxy:
        found = findings(proxy.url, seconds=7.0)
    assert found["memory"].verdict == "fault", "the proxy stands between"
    del found["memory"]
    only_fault(found, "speed", r"^0\.\d MB/s.*the link is the slower side", "a faster network")


def test_too_slow_a_server_is_named(server: ServerProcess) -> None:
    """By what is needed and what came."""
    only_fault(findings(server.url, needs=1e6, seconds=6.5), "speed", "1e[+]06 samples/s are needed", "cores|network")
    assert "more than the 0.1 samples/s" in findings(server.url, needs=0.1)["speed"].said


def test_tokens_that_are_wrong_or_not_there_are_named(guarded: ServerProcess, server: ServerProcess) -> None:
    """Neither is ever printed."""
    only_fault(findings(guarded.url, token=Token("another")), "token", "none of this server's", "OWL_TOKEN")
    only_fault(findings(guarded.url), "token", "asks for a token", "set OWL_TOKEN")
    found = findings(guarded.url, token=Token(TOKEN))
    assert {each.verdict for name, each in found.items() if name != "shm"} == {"ok"}
    assert found["version"].said.endswith(__version__)
    assert "asks for none" in findings(server.url, token=Token(TOKEN))["token"].said


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ({"world_size": 3}, "world_size 3 does not divide the global batch of 4; valid: 1, 2, 4"),
        ({"world_size": 2, "micro_batch_size": 3}, "micro_batch_size 3 does not divide the 2 rows"),
        ({"world_size": 0}, "expected"),
        ({"micro_batch_size": 0}, "micro_batch_size 0"),
    ],
)
def test_a_share_that_cannot_be_is_named(server: ServerProcess, share: dict[str, int], said: str) -> None:
    """With the numbers that can."""
    only_fault(findings(server.url, **share), "share", said, "micro_batch_size")


def test_the_launchers_world_size_is_taken(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's, as the trainer would."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 ranks (by WORLD_SIZE) x 1 micro-batch of 2 rows" in findings(server.url)["share"].said


def test_datasets_that_are_not_there_are_named(server: ServerProcess) -> None:
    """With those that are; the only one needs no name."""
    only_fault(findings(server.url, dataset="val"), "dataset", "no dataset 'val'; there is: train", "choose")
    assert findings(server.url, dataset=None)["dataset"].verdict == "ok"


@pytest.mark.parametrize(
    ("answer", "check", "said"),
    [
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi",
            "server",
            "no owl-stream server",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "server", "/health answers 404"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "reach", "gives no answer"),
        (b"", "reach", "gives no answer"),
    ],
)
def test_something_else_that_answers_is_named(answer: bytes, check: str, said: str) -> None:
    """A web server, another service, one that hangs up."""

    async def harm(pieces: Pieces, struck: Callable[[], None]) -> AsyncIterator[bytes]:
        if answer:
            yield answer

    with socket.create_server(("127.0.0.1", 0)) as upstream:
        nobody = f"http://127.0.0.1:{upstream.getsockname()[1]}"
        with FaultProxy(nobody, lambda path: harm) as proxy:
            only_fault(findings(proxy.url), check, said, "check host and port")


def test_the_command_prints_findings_and_ends_with_what_there_is_to_mend(server: ServerProcess) -> None:
    """Both ways to call it; a secret is in neither; the exit code says whether anything is to be mended."""

    def told_by(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'client'}")

    for program in (["-m", "owl_stream.cli", "doctor"], ["-m", "owl_client.doctor"]):
        well = told_by(*program, server.url, "--seconds", "0.2")
        assert (well.returncode, well.stdout.splitlines()[-1]) == (0, "nothing to mend"), well.stdout + well.stderr
        ill = told_by(*program, server.url, "-w", "3", "--token", "sekrit", "--seconds", "0")
        assert ill.returncode == 1
        assert "FAULT  share    world_size 3 does not divide" in ill.stdout
        assert ill.stdout.splitlines()[-1] == "one thing to mend"
        assert "sekrit" not in ill.stdout + ill.stderr
        told = json.loads(told_by(*program, server.url, "--seconds", "0", "--json").stdout)
        assert {finding["verdict"] for finding in told["findings"] if finding["check"] != "shm"} == {"ok"}
        wrong = told_by(*program, "loader:8000")
        assert (wrong.returncode, "expected http://host:port" in wrong.stderr) == (2, True)
