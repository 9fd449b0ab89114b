"""What a server tells those who show no token, and whom it believes about a request."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import yaml

from owl_stream.config import ServerConfig, make_config
from owl_stream.errors import ConfigError
from owl_stream.server.proxies import Proxies
from tests.support.datasets import small_dataset
from tests.support.http import connect, get, read_to_end
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess
from tests.support.tars import write_shard

TOKEN, OURS = "trainer-0123456789abcdef", "unmistakable"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
STRANGERS = {
    "nothing": {},
    "wrong": {"Authorization": "Bearer wrong-0123456789abcdef"},
    "basic": {"Authorization": f"Basic {TOKEN}"},
    "cookie": {"Cookie": "owl_stream_session=trainer:9999999999:00"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
ROUTES = (
    *("/health", "/livez", "/readyz", "/login", "/login?next=/x", "/logout", "/metrics", "/openapi.json", "/"),
    *("/v1/datasets", f"/v1/datasets/{OURS}x", "/health?x=1", "/health/", "/nowhere", "/static/dashboard.js"),
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a token, a dataset that it serves and one that it cannot open; a proxy at 127.0.0.2 is declared."""
    directory = tmp_path_factory.mktemp("guarded")
    server = {
        "workers": 0,
        "access": {"tokens": {"trainer": TOKEN}},
        "trusted_proxies": ["127.0.0.2", "10.0.0.0/8"],
    }
    config = small_dataset(directory, server=server)
    write_shard(directory / f"{OURS}-bad.tar", [("bad", {"json": b"no"})])
    whole = yaml.safe_load(config.read_text())
    good = whole["datasets"]["train"]
    whole["datasets"] = {OURS: good, f"{OURS}-bad": {**good, "shards": [f"{OURS}-bad.tar"]}}
    config.write_text(yaml.safe_dump(whole))
    with ServerProcess(config) as process:
        yield process
        assert process.stop() == 0


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
def test_fault_140_a_stranger_learns_how_a_server_is_and_nothing_of_what_is_in_it(
    guarded: ServerProcess, headers: dict[str, str]
) -> None:
    """A word and the status code that goes with it, and no name, size, fingerprint, path or error."""
    health = get(guarded.url + "/health", headers)
    assert (health.status, health.json) == (503, {"status": "degraded"})
    ready = get(guarded.url + "/readyz", headers)
    assert (ready.status, ready.json) == (503, {"status": "failed"})
    assert get(guarded.url + "/livez", headers).json == {"status": "ok"}


def test_fault_140_who_brings_a_token_hears_all_of_it(guarded: ServerProcess) -> None:
    """In a header, or as the cookie that a login left."""
    login = _ask(guarded, "POST", "/login", urlencode({"token": TOKEN}).encode())
    cookie = {"Cookie": login.headers["Set-Cookie"].split(";")[0]}
    for headers in (BEARER, cookie):
        health = get(guarded.url + "/health", headers)
        assert health.status == 503
        assert health.json["datasets"][OURS]["samples"] == 40
        assert "1 x json_malformed" in health.json["datasets"][f"{OURS}-bad"]["error"]


@pytest.mark.parametrize("method", METHODS)
def test_fault_140_no_answer_to_a_stranger_names_what_is_served(guarded: ServerProcess, method: str) -> None:
    """Whatever the method and the path: refusals, redirects, forms and errors."""
    known = str(Path(guarded.log).parent)
    for path in ROUTES:
        for accept in ("*/*", "text/html"):
            answer = _ask(guarded, method, path, headers={"Accept": accept})
            said = (answer.body + str(answer.headers).encode()).decode()  # type: ignore[attr-defined]
            asked = path.partition("?")[0].rpartition("/")[2]
            assert OURS not in said.replace(asked or "-", ""), path
            assert known not in said, path
            assert "fingerprint" not in said, path


def test_fault_140_a_server_without_tokens_has_no_strangers(tmp_path: Path) -> None:
    """Everyone hears everything there; a token that nobody asked for changes nothing."""
    with ServerProcess(small_dataset(tmp_path, server={"workers": 0})) as server:
        for headers in STRANGERS.values():
            assert get(server.url + "/health", headers).json["datasets"]["train"]["samples"] == 40


def _ask(
    server: ServerProcess,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    source: str = "127.0.0.1",
) -> http.client.HTTPResponse:
    """One request from an address of this machine; follows no redirect."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, PATIENCE_S, source_address=(source, 0))
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined] # for the tests above
    connection.close()
    return answer


def _cookie(server: ServerProcess, source: str, headers: dict[str, str]) -> str:
    form = urlencode({"token": TOKEN}).encode()
    return _ask(server, "POST", "/login", form, headers, source).headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("source", "headers", "secure"),
    [
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}, False),
        ("127.0.0.1", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.2"}, False),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.2;proto=https"}, False),
        ("127.0.0.2", {"X-Forwarded-Proto": "https"}, True),
        ("127.0.0.2", {"X-Forwarded-Proto": "http, HTTPS"}, True),
        ("127.0.0.2", {"X-Forwarded-Proto": "https, http"}, False),
        ("127.0.0.2", {"X-Forwarded-Proto": "http"}, False),
        ("127.0.0.2", {"X-Forwarded-For": "10.0.0.1"}, False),
        ("127.0.0.2", {"Forwarded": "proto=https"}, False),
        ("127.0.0.2", {}, False),
    ],
)
def test_fault_142_only_a_declared_proxy_says_that_a_browser_came_over_tls(
    guarded: ServerProcess, source: str, headers: dict[str, str], secure: bool
) -> None:
    """Its connection counts, not what a request says of it; the login's cookie and redirects follow."""
    assert ("Secure" in _cookie(guarded, source, headers)) == secure
    moved = _ask(guarded, "GET", "/v1/datasets/", headers={**BEARER, **headers}, source=source)
    assert moved.headers["Location"].startswith("https://" if secure else "http://")


def test_fault_142_without_a_declared_proxy_nobody_is_believed(tmp_path: Path) -> None:
    """Not this machine's own address either, which the HTTP server would believe by itself."""
    access = {"access": {"tokens": {"trainer": TOKEN}}, "workers": 0}
    environment = {"FORWARDED_ALLOW_IPS": "*"}
    with ServerProcess(small_dataset(tmp_path, server=access), env=environment) as server:
        assert "Secure" not in _cookie(server, "127.0.0.1", {"X-Forwarded-Proto": "https"})


@pytest.mark.parametrize("value", [b"", b",", b"\xff\xfe", b"https\x01", b"gopher", b"," * 9000, b"ht tps", b"wss"])
@pytest.mark.parametrize("name", [b"X-Forwarded-Proto", b"X-Forwarded-For", b"X-Forwarded-Host", b"Forwarded"])
def test_fault_142_hostile_values_change_nothing(guarded: ServerProcess, name: bytes, value: bytes) -> None:
    """Of a declared proxy: the scheme stays, and nothing breaks."""
    with connect(guarded.url, source="127.0.0.2") as sock:
        request = (
            b"GET /v1/datasets/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s: %s\r\n\r\n"
        )
        sock.sendall(request % (TOKEN.encode(), name, value))
        answer = read_to_end(sock)
    if not answer.startswith(b"HTTP/1.1 400 "):  # a control character is no header at all
        assert b"\r\nlocation: http://x/v1/datasets\r\n" in answer.lower()
    assert "Traceback" not in guarded.log.read_text()


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (("10.1.2.3", 1), True),
        (("::ffff:10.1.2.3", 1), True),
        (("fd00::1%eth0", 1), True),
        (("11.0.0.1", 1), False),
        (("::ffff:11.0.0.1", 1), False),
        (("::1", 1), False),
        (("", 0), False),
        (("a socket", 0), False),
        (None, False),
    ],
)
def test_fault_142_addresses_are_compared_as_addresses(client: tuple[str, int] | None, trusted: bool) -> None:
    """An IPv4 address as itself, also where the server listens on `::`; what is none belongs to no network."""
    declared = ServerConfig.model_validate({"trusted_proxies": ["10.9.9.9/8", "fd00::/8"]}).trusted_proxies
    schemes = []

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        schemes.append(scope["scheme"])

    scope = {"type": "http", "scheme": "http", "client": client, "headers": [(b"x-forwarded-proto", b"https")]}
    running = Proxies(app, declared)(scope, None, None)  # type: ignore[arg-type] # neither is called
    with pytest.raises(StopIteration):
        running.__await__().__next__()
    assert schemes == ["https" if trusted else "http"]


@pytest.mark.parametrize("value", ["*", ["*"], ["proxy.example"], [10], ["10.0.0.0/99"], "10.0.0.1", [""]])
def test_fault_142_what_is_no_address_is_no_proxy(tmp_path: Path, value: object) -> None:
    """Refused by name when the configuration is read; names can be made to resolve to anything."""
    raw = {"server": {"trusted_proxies": value}, "datasets": {"train": {"shards": ["a.tar"], "tokenizer": "t"}}}
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        make_config(raw, origin="test", base=tmp_path, environ={})
