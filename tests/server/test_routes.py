"""Routes: what they answer, and which nonsense they refuse before anything is spent."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from owl_stream import __version__
from owl_stream.wire import parse_frames
from tests.support.datasets import small_dataset
from tests.support.http import connect, get, read_to_end
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"


def test_health_says_version_and_datasets(server: ServerProcess) -> None:
    """Orchestrators read status, version, uptime and the datasets' state."""
    health = get(server.url + "/health")
    assert health.status == 200
    assert (health.json["status"], health.json["version"]) == ("ok", __version__)
    assert health.json["datasets"]["train"]["samples"] == 40
    assert [get(server.url + path).status for path in ("/livez", "/readyz")] == [200, 200]


def test_metrics_parse_and_count(server: ServerProcess) -> None:
    """The exposition passes the Prometheus client's own parser, and a batch that is sent is counted."""

    def batches() -> float:
        text = get(server.url + "/metrics").body.decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return families["owl_stream_batches"].samples[0].value

    before = batches()
    steps = get(server.url + "/v1/datasets/train").json["steps_per_epoch"]
    get(server.url + STREAM)
    assert batches() == before + steps


def test_a_dataset_describes_itself(server: ServerProcess) -> None:
    """Fingerprint, sizes, schema, and with a world size the micro-batches of a step and the heaviest of them."""
    plain = get(server.url + "/v1/datasets/train").json
    assert plain["samples"] == 40
    assert plain["totals"]["steps"] == plain["steps_per_epoch"] == 11
    dealt = get(server.url + "/v1/datasets/train?world_size=2&micro_batch_size=1").json
    assert dealt["micros_per_step"] == 2
    assert dealt["heaviest"]["units"] >= 2
    assert plain["fingerprint"] == dealt["fingerprint"]


def test_the_plan_names_every_sample_once(server: ServerProcess) -> None:
    """Over an epoch the plan route lists each sample of the manifest exactly once."""
    plan = get(server.url + "/v1/datasets/train/plan?epoch=2&count=100").json
    keys = [row["key"] for step in plan["steps"] for row in step["rows"]]
    assert sorted(keys) == [f"{number:06d}" for number in range(40)]


def test_a_batch_is_the_same_bytes_as_in_the_stream(server: ServerProcess) -> None:
    """One frame fetched alone lies byte for byte in the stream."""
    stream = get(server.url + STREAM + "?rank=1&world_size=2&micro_batch_size=1")
    for place in ("0/0/0", "0/4/1", "0/10/0"):
        url = f"{server.url}/v1/datasets/train/batches/{place}?rank=1&world_size=2&micro_batch_size=1"
        alone = get(url).body
        assert len(alone) > 100
        assert alone in stream.body


def test_streams_forbid_transformation_and_buffering(server: ServerProcess) -> None:
    """Proxies are told to keep their hands off."""
    headers = get(server.url + STREAM).headers
    assert headers["content-type"] == "application/x-msgpack"
    assert "no-transform" in headers["cache-control"]
    assert headers["x-accel-buffering"] == "no"


REFUSED = {
    "fault_20_negative": ("step=-1", 422, "greater than or equal to 0"),
    "fault_20_past_the_end": ("step=12", 422, "0 to 11"),
    "fault_20_micro_past_the_end": ("micro=1", 422, "micro"),
    "fault_20_not_a_number": ("epoch=two", 422, "'two'"),
    "fault_20_huge": ("epoch=99999999999999999999", 422, "epoch"),
    "fault_86_rank": ("rank=2&world_size=2", 422, "0 to 1"),
    "fault_86_world_size": ("world_size=3", 422, "1, 2, 4"),
    "fault_86_micro_batch_size": ("micro_batch_size=3", 422, "1, 2, 4"),
    "fault_23_version": ("protocol=2", 426, "expected protocol 1, got 2"),
    "fault_18_fingerprint": ("fingerprint=00ff", 409, "expected fingerprint 00ff"),
    "stride_over_epochs": ("stride=2&epochs=2", 422, "one at a time"),
}


@pytest.mark.parametrize(("query", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_a_stream_that_cannot_be_is_refused_by_name(
    server: ServerProcess, query: str, status: int, message: str
) -> None:
    """Coordinates, versions and fingerprints that do not fit are answered with what would."""
    answer = get(f"{server.url}{STREAM}?{query}")
    assert answer.status == status
    assert message in answer.error["message"]
    assert answer.error["retryable"] is False


@pytest.mark.parametrize("place", ["0/11/0", "0/0/1", "-1/0/0", "0/x/0"])
def test_a_batch_that_cannot_be_is_refused(server: ServerProcess, place: str) -> None:
    """Fault 20 for single frames."""
    answer = get(f"{server.url}/v1/datasets/train/batches/{place}")
    assert answer.status == 422
    assert answer.error["code"] == "bad_request"


def test_fault_87_an_unknown_dataset_names_the_known(server: ServerProcess) -> None:
    """404 says which datasets there are, on every route."""
    for path in ("", "/stream", "/plan", "/quarantine", "/batches/0/0/0"):
        answer = get(f"{server.url}/v1/datasets/nope{path}")
        assert answer.status == 404
        assert "this server has: train" in answer.error["message"]


@pytest.mark.parametrize(
    "name", ["pipe:id", "file:%2F%2Fetc%2Fpasswd", "..%2F..%2Fetc%2Fpasswd", "%00", "%3Cscript%3E"]
)
def test_fault_88_names_reach_nothing_but_the_table_of_datasets(server: ServerProcess, name: str) -> None:
    """What a client can send is looked up, never opened or run."""
    for path in (f"/v1/datasets/{name}", f"/v1/datasets/{name}/stream"):
        answer = get(server.url + path)
        assert answer.status == 404
        assert b"root:" not in answer.body


def raw(server: ServerProcess, data: bytes) -> bytes:
    """What the server says to raw bytes, until it closes."""
    with connect(server.url) as sock:
        sock.sendall(data)
        return read_to_end(sock)


@pytest.mark.parametrize("host", [b"", b"a b", b"\xff\xfe", b"[::1", b"x" * 2000])
def test_fault_81_a_malformed_host_harms_nothing(server: ServerProcess, host: bytes) -> None:
    """Host decides nothing here: the answer is the usual one or 400, and the server goes on."""
    answer = raw(server, b"GET /livez HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] in (b"200", b"400")
    assert get(server.url + "/livez").status == 200


def test_fault_82_slow_heads_and_bodies_are_cut_off(server: ServerProcess) -> None:
    """A request that does not arrive within its deadline is answered with 408 and closed."""
    begun = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"
    for part in (b"", b"GET /livez HTT", b"GET /livez HTTP/1.1\r\nHost:", begun):
        assert b"408" in raw(server, part)


def test_fault_83_a_header_of_a_mebibyte_is_refused(server: ServerProcess) -> None:
    """431 or a closed connection, before a megabyte is kept."""
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * (1 << 20) + b"\r\n\r\n"
    with connect(server.url) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(head)
        assert read_to_end(sock)[:12] in (b"HTTP/1.1 431", b"")
    assert b"431" in raw(server, head[: 40 << 10] + b"\r\n\r\n")


def test_fault_84_a_body_that_is_too_large_is_refused(server: ServerProcess) -> None:
    """413 as soon as the limit is passed."""
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n"
    assert b"413" in raw(server, head + b"x" * (200 << 10))


def test_fault_85_too_many_streams_get_429_and_when_to_come_back(server: ServerProcess) -> None:
    """The fourth of three places is refused with Retry-After; a place that is left can be taken again."""
    request = f"GET {STREAM}?epochs=1000 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    open_ones = [connect(server.url) for _ in range(3)]
    try:
        for sock in open_ones:
            sock.sendall(request)
            assert b"200" in sock.recv(1 << 12)
        refused = get(server.url + STREAM)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.error["retryable"] is True
    finally:
        for sock in open_ones:
            sock.close()
    while get(server.url + "/health").json["streams"]:
        pass
    assert next(iter(parse_frames(get(server.url + STREAM).body))).header.kind == "hello"


def test_errors_tell_nothing_of_the_inside(server: ServerProcess) -> None:
    """Error bodies hold no path of the server and no traceback."""
    for path in ("/v1/datasets/x", STREAM + "?step=-1", "/v1/datasets/train/batches/9/9/9", "/nowhere"):
        body = get(server.url + path).body
        assert b"Traceback" not in body
        assert str(server.log.parent).encode() not in body


def test_fault_126_an_answer_about_the_plan_is_bounded(tmp_path: Path) -> None:
    """A hundred steps of a huge global batch are millions of rows: the largest count is named, and then it works."""
    config = small_dataset(tmp_path, server={"workers": 0}, global_batch_size=1 << 15, bucket_window=1)
    with ServerProcess(config) as server:
        refused = get(server.url + "/v1/datasets/train/plan?count=100")
        assert refused.status == 422
        assert "count 100: expected at most 3" in refused.error["message"]
        assert len(get(server.url + "/v1/datasets/train/plan?count=3").json["steps"]) == 2
