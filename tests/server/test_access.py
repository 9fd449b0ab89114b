"""Who may read: tokens, the login's cookie, what is open to everyone, and secrets that never come out again."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from owl_client import OwlStreamDataset
from owl_stream.cli.peer import Peer
from owl_stream.config import load_config
from owl_stream.errors import ConfigError, RequestError, ServerError
from owl_stream.server.access import Tokens, check_exposure, read_tokens
from owl_stream.server.sessions import LIFETIME_S, begin_session, open_session
from tests.support.datasets import small_dataset, write_config
from tests.support.http import connect, get, read_to_end
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

ALICE, BOB = "alice-0123456789abcdef", "bob-fedcba9876543210"
DATA = [
    "/v1/datasets",
    "/v1/datasets/train",
    "/v1/datasets/train/stream",
    "/v1/datasets/nope",
    "/openapi.json",
]
OPEN = ["/health", "/livez", "/readyz"]


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that asks for tokens: Alice's is in a file, Bob's in the environment."""
    directory = tmp_path_factory.mktemp("guarded")
    config = small_dataset(directory, server={"access": {"tokens_file": "tokens"}, "request_timeout_s": 1.0})
    (directory / "tokens").write_text(f"# who may read\nalice: {ALICE}\n")
    environment = {"OWL_SERVER__ACCESS__TOKENS__BOB": BOB}
    with ServerProcess(config, env=environment, arguments=("--log-level", "debug")) as server:
        yield server
        assert server.stop() == 0


WRONG: dict[str, list[bytes]] = {
    "missing": [],
    "empty": [b""],
    "no_scheme": [ALICE.encode()],
    "another_scheme": [b"Basic " + ALICE.encode()],
    "wrong": [b"Bearer wrong-0123456789abcdef"],
    "a_prefix": [b"Bearer " + ALICE[:-1].encode()],
    "longer": [b"Bearer " + ALICE.encode() + b"x"],
    "non_ascii": [b"Bearer \xff\xfe\xc3\xa4" + ALICE.encode()],
    "twice": [b"Bearer " + ALICE.encode(), b"Bearer " + BOB.encode()],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_fault_80_who_shows_no_token_of_ours_gets_401(guarded: ServerProcess, headers: list[bytes]) -> None:
    """Missing, wrong, cut short, doubled or not even text: the same answer, and nothing of it is repeated."""
    head = b"".join(b"Authorization: " + value + b"\r\n" for value in headers)
    with connect(guarded.url) as sock:
        sock.sendall(b"GET /v1/datasets/train HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n")
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nwww-authenticate: bearer\r\n" in answer.lower()
    assert b'"code":"unauthorized"' in answer
    assert b"0123456789abcdef" not in answer


@pytest.mark.parametrize("path", [*DATA, "/metrics", "/", "/nowhere", "/health/", "//health", "/health/../metrics"])
def test_everything_that_is_not_listed_as_open_asks_for_a_token(guarded: ServerProcess, path: str) -> None:
    """Routes that exist, routes that do not, and paths that look like an open one."""
    assert get(guarded.url + path).status == 401


@pytest.mark.parametrize("token", [ALICE, BOB])
def test_a_token_opens_everything(guarded: ServerProcess, token: str) -> None:
    """From a file or from the environment, for any scheme spelling."""
    for path in ("/v1/datasets", "/v1/datasets/train/stream", "/metrics", "/openapi.json"):
        assert get(guarded.url + path, bearer(token)).status == 200
    assert get(guarded.url + "/v1/datasets", {"authorization": f"bEARER {token}"}).status == 200


def test_health_is_open_to_everyone(guarded: ServerProcess) -> None:
    """Orchestrators carry no token, nor a wrong one."""
    for path in OPEN:
        assert get(guarded.url + path).status == 200
        assert get(guarded.url + path, bearer("wrong-0123456789abcdef")).status == 200


@pytest.mark.parametrize(("declared", "sent", "answer"), [(70_000, 70_000, b"HTTP/1.1 413 "), (1000, 10, b"")])
def test_a_body_that_does_not_arrive_leaves_no_traceback_in_the_log(
    guarded: ServerProcess, declared: int, sent: int, answer: bytes
) -> None:
    """Anyone may write to the login: too much of it, or less than was announced."""
    with connect(guarded.url) as sock:
        sock.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % declared)
        with contextlib.suppress(ConnectionError):
            sock.sendall(bytes(sent))
            sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).startswith(answer)
    assert get(guarded.url + "/health").status == 200
    assert "Traceback" not in guarded.log.read_text()


def test_readers_without_a_token_of_ours_are_told_what_to_do(guarded: ServerProcess) -> None:
    """None and a wrong one have one answer, so the advice is for both; in a trainer and in a terminal."""
    advice = "a token that was sent is none of this server's"
    for token in (None, "wrong-0123456789abcdef"):
        with pytest.raises(ServerError, match=f"pass token= or set OWL_TOKEN; {advice}"):
            OwlStreamDataset(guarded.url, token=token).state_dict()
        with pytest.raises(RequestError, match=f"say --token or set OWL_TOKEN; {advice}"):
            Peer(guarded.url, token).choose(None)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_runs_scripts_of_other_hosts(guarded: ServerProcess, path: str) -> None:
    """The pages that FastAPI adds by itself would, beside a login's cookie."""
    assert get(guarded.url + path, bearer(ALICE)).status == 404


def test_metrics_may_be_opened(tmp_path: Path) -> None:
    """`metrics: open` opens that one path and no other."""
    access = {"tokens": {"alice": ALICE}, "metrics": "open"}
    with ServerProcess(small_dataset(tmp_path, server={"access": access, "workers": 0})) as server:
        assert get(server.url + "/metrics").status == 200
        assert get(server.url + "/v1/datasets").status == 401


def ask(server: ServerProcess, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
    """One request that follows no redirect."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined] # for the tests below
    connection.close()
    return answer


def log_in(server: ServerProcess, token: str, after: str = "/") -> http.client.HTTPResponse:
    """What the form sends."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(server, "POST", f"/login?next={quote(after, safe='')}", urlencode({"token": token}), **form)


def test_a_browser_is_sent_to_the_login_and_back(guarded: ServerProcess) -> None:
    """A page asks for a login; the token is taken once and a cookie that is not the token opens what it opened."""
    first = ask(guarded, "GET", "/inspect/train/0/0/0?world_size=2", Accept="text/html")
    assert (first.status, first.headers["Location"].split("?")[0]) == (303, "/login")
    form = ask(guarded, "GET", first.headers["Location"])
    assert b'name="token"' in form.body  # type: ignore[attr-defined]
    assert "default-src 'none'" in form.headers["Content-Security-Policy"]
    done = log_in(guarded, ALICE, "/inspect/train/0/0/0?world_size=2")
    assert (done.status, done.headers["Location"]) == (303, "/inspect/train/0/0/0?world_size=2")
    cookie = done.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert ALICE not in cookie
    assert get(guarded.url + "/v1/datasets", {"Cookie": cookie.split(";")[0]}).status == 200
    assert log_in(guarded, "wrong-0123456789abcdef").status == 401
    assert ask(guarded, "POST", "/login", "&".join("a=b" for _ in range(99))).status == 401


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nb", "/\tb"])
def test_a_login_leads_nowhere_else(guarded: ServerProcess, target: str) -> None:
    """`next` is a path of this server or it is ignored."""
    assert log_in(guarded, ALICE, target).headers["Location"] == "/"


def test_a_cookie_is_worth_nothing_once_it_is_changed_or_over() -> None:
    """Name, end and signature hold each other; a server with the same token takes it; time and removal end it."""
    tokens, now = Tokens({"alice": ALICE, "bob": BOB}), 1_000_000.0
    cookie = begin_session(tokens, "alice", now_s=now)
    assert open_session(Tokens({"alice": ALICE}), cookie, now_s=now + LIFETIME_S - 1) == "alice"
    name, ends, signature = cookie.split(":")
    forged = [
        f"bob:{ends}:{signature}",
        f"{name}:{int(ends) + 1}:{signature}",
        f"{name}:{ends}:",
        f"{name}:nan:x",
        "",
        "::",
    ]
    for value in (*forged, f"{name}:{ends}:\udcff", f"{name}:{ends}:{signature}0"):
        assert open_session(tokens, value, now_s=now) is None
    assert open_session(tokens, cookie, now_s=now + LIFETIME_S) is None
    assert open_session(Tokens({"bob": BOB}), cookie, now_s=now) is None
    assert open_session(Tokens({"alice": BOB}), cookie, now_s=now) is None


def test_fault_89_no_token_comes_out_again(guarded: ServerProcess) -> None:
    """Sent to every wrong place at log level debug, tokens are in no answer, metric, log line or repr."""
    answers = [get(guarded.url + path, headers).body for path in (*DATA, *OPEN) for headers in ({}, bearer(ALICE))]
    as_bob = {**bearer(BOB), "Owl-Client-Stats": f"wait_s={ALICE}", "X-Other": ALICE, "Cookie": f"a={ALICE}"}
    for path in (f"/v1/datasets/{ALICE}", f"/v1/datasets/train/stream?epoch={ALICE}", f"/{ALICE}", "/metrics"):
        answers += [get(guarded.url + path, as_bob).body, get(guarded.url + path, bearer(ALICE[:-1])).body]
    query = urlencode({"fingerprint": f"{ALICE}", "protocol": BOB})
    answers.append(get(f"{guarded.url}/v1/datasets/train/stream?{query}", as_bob).body)
    with connect(guarded.url) as sock:
        sock.sendall(b"GET / HTTP/9.9\r\nAuthorization: Bearer " + ALICE.encode() + b"\r\n\r\n")
        answers.append(read_to_end(sock))
    config = load_config(guarded.log.parent / "owl-stream.yaml", {"OWL_SERVER__ACCESS__TOKENS__BOB": BOB})
    texts = [repr(config), str(config.server), config.model_dump_json(), repr(read_tokens(config))]
    texts += [answer.decode("utf-8", "replace") for answer in answers] + [guarded.log.read_text()]
    for text in texts:
        assert ALICE not in text
        assert BOB not in text


def serve(config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`owl-stream serve` where it is expected to refuse."""
    command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(config), "--port", "0", *arguments]
    env = {"PYTHONPATH": str(ROOT), "PATH": "", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE_S, check=False)


def test_listening_for_a_network_needs_tokens_or_a_word(tmp_path: Path) -> None:
    """Beyond loopback the server refuses to start without tokens, unless somebody says that it is meant."""
    config = small_dataset(tmp_path, server={"workers": 0})
    refused = serve(config, "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "without tokens" in refused.stderr
    assert "--allow-anonymous" in refused.stderr
    with ServerProcess(config, arguments=("--host", "0.0.0.0", "--allow-anonymous")) as server:
        assert get(server.url + "/v1/datasets").status == 200
    environment = {"OWL_SERVER__ACCESS__TOKENS__ALICE": ALICE}
    with ServerProcess(config, env=environment, arguments=("--host", "0.0.0.0")) as server:
        assert get(server.url + "/v1/datasets").status == 401


def test_only_loopback_is_loopback(tmp_path: Path) -> None:
    """What an address resolved to decides, not how it was written."""
    config = load_config(write_config(tmp_path), {})
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        check_exposure("any", address, Tokens({}), config)
    for address in ("0.0.0.0", "::", "10.0.0.1", "169.254.1.1", "fe80::1%eth0", "::ffff:10.0.0.1"):
        with pytest.raises(ConfigError, match="without tokens"):
            check_exposure("any", address, Tokens({}), config)


BAD_FILES = {
    "empty": ("", "got none"),
    "no_colon": (ALICE, "line 1: expected `name: token`"),
    "short": ("alice: short", "at least 16 printable ASCII characters"),
    "spaces": (f"alice: {ALICE} {BOB}", "without spaces"),
    "not_ascii": ("alice: ä" + ALICE, "printable ASCII"),
    "bad_name": (f"a b: {ALICE}", "a name of letters"),
    "same_name": (f"a: {ALICE}\na: {BOB}", "line 2: this name or its token is given twice"),
    "same_token": (f"a: {ALICE}\nb: {ALICE}", "line 2: this name or its token is given twice"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_tokens_file_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong is named with its line, and no token is shown."""
    (tmp_path / "tokens").write_text(text)
    config = load_config(write_config(tmp_path, server={"access": {"tokens_file": "tokens"}}), {})
    with pytest.raises(ConfigError, match=message) as caught:
        read_tokens(config)
    assert ALICE not in str(caught.value)


def test_tokens_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """Quotes go, digits stay text, an empty variable is none, and a missing file is named."""
    (tmp_path / "tokens").write_text(
        f"# comment\n\nalice: '{ALICE}'\ndigits: 01234567890123456789\nyaml: [a:b#c]{{d}}*&!%@-0123\n"
    )
    config = load_config(
        write_config(tmp_path, server={"access": {"tokens_file": "tokens"}}), {"OWL_SERVER__ACCESS__TOKENS__NOBODY": ""}
    )
    tokens = read_tokens(config)
    assert tokens.names == ("alice", "digits", "yaml")
    assert tokens.name_of(b"01234567890123456789") == "digits"
    assert tokens.name_of(b"[a:b#c]{d}*&!%@-0123") == "yaml"
    (tmp_path / "tokens").unlink()
    with pytest.raises(ConfigError, match="tokens: cannot read the tokens"):
        read_tokens(config)


def test_a_configuration_error_shows_no_token(tmp_path: Path) -> None:
    """A tokens mapping of the wrong shape, and YAML that breaks beside a token, are named without it."""
    path = write_config(tmp_path, server={"access": {"tokens": ALICE}})
    for text in (path.read_text(), f"server: {{access: {{tokens: {{alice: {ALICE}: x"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert ALICE not in str(caught.value)
