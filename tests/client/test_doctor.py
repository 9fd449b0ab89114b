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
from owl_client.doctor.asking import Address
from owl_stream import __version__
from owl_stream.errors import ConfigError
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


@pytest.mark.parametrize(
    "name",
    [
        "trainer_state.json",
        "data.json",
        "custom_checkpoint_0.pkl",
        "mp_rank_00_model_states.pt",
        "global_step3/mp_rank_00_model_states.pt",
        "last.ckpt",
    ],
)
def test_the_directory_of_a_trainers_checkpoint_is_enough(server: ServerProcess, tmp_path: Path, name: str) -> None:
    """Wherever that trainer keeps the state, beside other files."""
    file, state = tmp_path / name, {**OwlStreamDataset(server.url).state_dict(), "step": 5}
    file.parent.mkdir(exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    if name.endswith(".json"):
        file.write_text(json.dumps({"deep": [{"er": state}]}))
    else:
        torch.save({"module": {"w": torch.zeros(2)}, "client_state": {"data": state}}, file)
    found = findings(server.url, state=tmp_path, seconds=0.0)
    assert (found["state"].verdict, "step 5" in found["state"].said) == ("ok", True), found["state"]


def test_a_directory_without_a_state_names_where_one_would_be(server: ServerProcess, tmp_path: Path) -> None:
    """As trainers call their files."""
    only_fault(
        findings(server.url, state=tmp_path), "state", "got none and none of trainer_state.json, data.json", "resume"
    )


def test_the_only_dataset_under_another_name_is_told(tmp_path: Path) -> None:
    """A trainer that says nothing asks for `train`."""
    config = small_dataset(tmp_path / "data", server=OPEN)
    config.write_text(config.read_text().replace("train:", "demo:"))
    with ServerProcess(config) as other:
        found = [each for each in examine(Case(other.url, seconds=0.0)) if each.check == "dataset"]
    assert [each.verdict for each in found] == ["note", "ok"]
    assert "dataset='demo'" in found[0].remedy


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


@pytest.mark.long
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
    assert "at least the 0.1 samples/s" in findings(server.url, needs=0.1)["speed"].said


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


def said_by(**answers: object) -> Callable[[str], Callable[[Pieces, Callable[[], None]], Pieces] | None]:
    """A server that answers a path (`health`, `datasets`, `described`) with some JSON; the others as they are."""
    paths = {"/health": "health", "/v1/datasets": "datasets", "/v1/datasets/train": "described"}

    def choose(path: str) -> Callable[[Pieces, Callable[[], None]], Pieces] | None:
        if (name := paths.get(path, "")) not in answers:
            return None
        status, body = answers[name]  # type: ignore[misc] # a status and what becomes JSON
        content = json.dumps(body)
        head = f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"

        async def harm(pieces: Pieces, struck: Callable[[], None]) -> AsyncIterator[bytes]:
            yield (head + content).encode()

        return harm

    return choose


@pytest.mark.parametrize(
    ("health", "check", "said"),
    [
        ({"status": "indexing", "datasets": {"a": {"progress": "half"}, "b": {"progress": [1]}}}, "health", "indexing"),
        ({"status": "degraded", "failures": {"engine": "gone"}}, "health", "cannot be assembled: engine: gone"),
        ({"status": "ok", "version": "0.\u00b2"}, "version", "older"),
        ({"status": "ok", "version": "9" * 5000}, "version", "older|newer"),
        ({"status": "ok", "version": None}, "version", "does not say its version"),
    ],
    ids=["progress", "degraded", "superscript", "long", "none"],
)
def test_whatever_a_server_says_of_itself_is_a_finding(
    server: ServerProcess, health: dict[str, object], check: str, said: str
) -> None:
    """Odd versions and odd progress end in no traceback."""
    with FaultProxy(server.url, said_by(health=(200, health))) as proxy:
        found = findings(proxy.url, seconds=0.0)
    assert re.search(said, found[check].said), found


def test_a_date_that_is_none_and_names_that_are_none(server: ServerProcess) -> None:
    """A year that no clock has; half of a surrogate pair."""

    def dated(piece: bytes) -> bytes:
        return re.sub(rb"(?i)date: [^\r]+", b"date: Mon, 01 Jan 99999999999999999999 00:00:00 GMT", piece)

    with FaultProxy(server.url, lambda path: changed(dated)) as proxy:
        assert findings(proxy.url, seconds=0.0)["clock"].verdict == "note"
    with FaultProxy(server.url, said_by(datasets=(200, {"datasets": {"\ud800": {}}}))) as proxy:
        assert findings(proxy.url, dataset=None, seconds=0.0)["dataset"].verdict == "fault"


def test_a_token_that_a_server_repeats_is_masked(server: ServerProcess) -> None:
    """In whatever it is said."""
    refusal = {"error": {"code": "x", "message": f"you sent Bearer {TOKEN}"}}
    with FaultProxy(server.url, said_by(described=(500, refusal))) as proxy:
        found = findings(proxy.url, token=Token(TOKEN))
    assert "you sent Bearer ***" in found["dataset"].said


@pytest.mark.parametrize(
    "numbers", [{"seconds": float("nan")}, {"seconds": -1.0}, {"needs": float("nan")}, {"needs": 0}]
)
def test_numbers_that_are_none_are_refused(numbers: dict[str, float]) -> None:
    """As wrong calls."""
    with pytest.raises(ConfigError, match="expected"):
        Case("http://loader:8000", **numbers)


def test_a_launcher_that_sets_half_is_named(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is missing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    only_fault(findings(server.url), "share", "RANK is missing", "set RANK and WORLD_SIZE")


def test_a_host_that_says_nothing_and_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of silence, told apart."""
    monkeypatch.setattr("owl_client.doctor.asking.ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        only_fault(findings(f"http://127.0.0.1:{silent.getsockname()[1]}"), "reach", "says nothing", "does it hang")
    only_fault(findings("http://255.255.255.255:8000"), "reach", "there is no way to 255.255.255.255:8000", "routes")


def test_a_proxy_for_another_loopback_address_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is named mends it."""
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,::1")
    (found,) = reach.proxies(Address.of("http://127.0.0.2:8000"))
    assert (found.verdict, "127.0.0.2" in found.remedy) == ("fault", True)
    for excepted in ("127.0.0.2", "127.0.0.2:8000"):
        monkeypatch.setenv("no_proxy", excepted)
        (found,) = reach.proxies(Address.of("http://127.0.0.2:8000"))
        assert found.verdict == "ok"


def pickled(content: bytes, path: Path) -> None:
    """A checkpoint in torch's zip form whose pickle is `content`."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", content, len(content))
    writer.write_end_of_file()


@pytest.mark.parametrize(
    "content", [b"\x80\x02h\x05.", b"\x80\x02s.", b"\x80\x02}q\x00(X", b"\x80\x02}}K\x01s.", b"abc"]
)
def test_damaged_checkpoints_are_named(server: ServerProcess, tmp_path: Path, content: bytes) -> None:
    """Whatever the reader stumbles over; nothing of it is run."""
    pickled(content, tmp_path / "damaged.pt")
    only_fault(findings(server.url, state=tmp_path / "damaged.pt"), "state", "damaged.pt: expected JSON", "resume")


def test_what_is_no_checkpoint_is_refused_at_once(server: ServerProcess, tmp_path: Path) -> None:
    """A pipe that nobody writes to, and a name that no file can have."""
    os.mkfifo(tmp_path / "pipe.json")
    only_fault(findings(server.url, state=tmp_path / "pipe.json"), "state", "got something else", "resume")
    only_fault(findings(server.url, state=Path("a" * 5000)), "state", "File name too long", "resume")


def test_of_several_states_that_of_the_dataset_is_read(server: ServerProcess, tmp_path: Path) -> None:
    """Beside another one's, an unreadable file, and older checkpoints."""
    ours = OwlStreamDataset(server.url).state_dict()
    other = {**ours, "dataset": "val", "fingerprint": "0" * 32}
    (tmp_path / "trainer_state.json").write_text(json.dumps({"eval": other, "train": {**ours, "step": 2}}))
    (tmp_path / "custom_checkpoint_0.pkl").write_bytes(b"junk")
    assert "step 2" in findings(server.url, state=tmp_path, seconds=0.0)["state"].said
    lightning = tmp_path / "lightning"
    lightning.mkdir()
    for step, name in ((1, "step=10.ckpt"), (9, "step=9.ckpt"), (7, "last.ckpt")):
        torch.save({"OwlStream": {**ours, "step": step}}, lightning / name)
    said = findings(server.url, state=lightning, seconds=0.0)["state"].said
    assert "last.ckpt: " in said
    assert "step 7" in said
    torch.save({"OwlStream": ours}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert findings(server.url, state=tmp_path / "old.pt", seconds=0.0)["state"].verdict == "ok"


def test_the_state_of_a_loaders_worker_is_held_against_the_data_too(server: ServerProcess, tmp_path: Path) -> None:
    """Of these data it is told apart; of others it is refused as any."""
    ours = {**OwlStreamDataset(server.url).state_dict(), "part": [0, 2, 0, 0, 0]}
    for fingerprint, verdict in ((ours["fingerprint"], "note"), ("0" * 32, "fault")):
        (tmp_path / "state.json").write_text(json.dumps({**ours, "fingerprint": fingerprint}))
        found = findings(server.url, state=tmp_path / "state.json")
        assert found["state"].verdict == verdict
        assert ("speed" in found) == (verdict == "note")


def test_where_torch_is_not_installed_the_command_says_what_is_needed(tmp_path: Path) -> None:
    """A server's image has no torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('No module', name='torch')")
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "client")))
    done = run("-m", "owl_stream.cli", "doctor", "http://127.0.0.1:1", PYTHONPATH=path)
    assert done.returncode == 2
    assert "no module torch; run it on the trainer's host, or install owl-stream[client]" in done.stderr
