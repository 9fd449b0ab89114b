"""Metrics: valid, named by the rules, complete, true to what was sent, and what the dashboard and the docs speak of."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from owl_client import OwlStreamDataset
from owl_stream.server.reports import read_report
from owl_stream.server.waiting import HALF_LIFE_S, Waiting
from owl_stream.wire import BatchHeader, parse_frames
from tests.support.datasets import mixed_samples, small_dataset
from tests.support.http import connect, get
from tests.support.images import suspicious_jpeg
from tests.support.reading import reading
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import write_shard

STREAM = "/v1/datasets/train/stream"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "owl-stream.json"
HOSTILE = "nan inf -1 1e300 x"


def families(server: ServerProcess) -> dict[str, Metric]:
    """The metrics by family name, through the Prometheus client's own parser."""
    text = get(server.url + "/metrics").body.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(server: ServerProcess, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    family = families(server)[re.sub("_(total|count)$", "", name)]
    return sum(each.value for each in family.samples if each.name == name and labels.items() <= each.labels.items())


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own, with a sample whose JPEG ends too soon, after one epoch has been read."""
    directory = tmp_path_factory.mktemp("counted")
    config = small_dataset(directory, server={"workers": 1, "log_format": "json"})
    samples = mixed_samples(4, 100)
    samples[0][1]["jpg"] = samples[0][1]["jpg"][:-150] + b"\xff\xd9"  # the end marker hides the cut from indexing
    write_shard(directory / "train-00002.tar", samples)
    with ServerProcess(config, arguments=("--log-level", "info")) as server:
        server.epoch = get(server.url + STREAM).body  # type: ignore[attr-defined] # for the tests below
        yield server


def epoch_of(server: ServerProcess) -> list[BatchHeader]:
    """Headers of the epoch that was read."""
    frames = parse_frames(server.epoch)  # type: ignore[attr-defined]
    return [frame.header for frame in frames if isinstance(frame.header, BatchHeader)]


def test_the_counters_say_what_was_sent(counted: ServerProcess) -> None:
    """Batches, bytes, rows by status, units, tokens, checked rows and skipped samples, against the frames."""
    headers = epoch_of(counted)
    statuses = Counter(row.status for header in headers for row in header.rows)
    assert statuses["masked"] + statuses["repeated"] >= 1
    for status in ("ok", "filler", "masked", "repeated"):
        assert value(counted, "owl_stream_rows_total", dataset="train", status=status) == statuses[status]
    assert value(counted, "owl_stream_batches_total", dataset="train") == len(headers)
    assert value(counted, "owl_stream_units_total", dataset="train") == sum(header.units for header in headers)
    assert value(counted, "owl_stream_tokens_total", kind="attended") == sum(h.attended_tokens for h in headers)
    cells = sum(t.shape[0] * t.shape[1] for h in headers for t in h.tensors if t.name == "input_ids")
    assert value(counted, "owl_stream_tokens_total") == cells
    rows = sum(len(header.rows) for header in headers)
    images, texts = (value(counted, "owl_stream_checked_rows_total", kind=kind) for kind in ("media", "text"))
    assert images + texts == rows
    assert 0 < images < statuses["ok"]
    assert value(counted, "owl_stream_skipped_samples_total", dataset="train") == 1
    assert value(counted, "owl_stream_contract_violations_total") == 0
    assert 0 < value(counted, "owl_stream_sent_bytes_total") < len(counted.epoch)  # type: ignore[attr-defined]
    assert value(counted, "owl_stream_assembly_seconds_count") == len(headers)


def test_rows_that_workers_tokenise_are_counted(counted: ServerProcess, tmp_path: Path) -> None:
    """None where indexing has kept them, all where it was told not to."""
    assert value(counted, "owl_stream_tokenised_rows_total", dataset="train") == 0
    with ServerProcess(small_dataset(tmp_path, server={"workers": 1}, keep_rows=False)) as server:
        get(server.url + STREAM)
        rows = value(server, "owl_stream_rows_total", status="ok")
        assert value(server, "owl_stream_tokenised_rows_total", dataset="train") == rows == 40


def test_suspicious_pictures_are_counted(counted: ServerProcess, tmp_path: Path) -> None:
    """None among good ones and masked ones; one for each time that it is sent."""
    assert value(counted, "owl_stream_suspicious_images_total", dataset="train") == 0
    config = small_dataset(tmp_path, server={"workers": 1})
    samples = mixed_samples(4, 100)
    pictures = [files for _, files in samples if "jpg" in files]
    for files in pictures:
        files["jpg"] = suspicious_jpeg(files["jpg"])
    write_shard(tmp_path / "train-00002.tar", samples)
    with ServerProcess(config) as server:
        get(server.url + STREAM)
        assert value(server, "owl_stream_rows_total", status="masked") == 0
        assert value(server, "owl_stream_suspicious_images_total", dataset="train") == len(pictures) > 0


def test_every_stage_has_its_seconds(counted: ServerProcess) -> None:
    """Work in the workers, waiting for one, and sending."""
    for stage in ("read", "decode", "resize", "tokenise", "collate", "hash", "queue", "send"):
        assert value(counted, "owl_stream_stage_seconds_total", stage=stage) > 0


UNITS = ("seconds", "bytes", "ratio", "info", "total")


def test_names_follow_the_rules(counted: ServerProcess) -> None:
    """Prefix, base units, `_total` on counters alone, a sentence of help, and no two families of one name."""
    text = get(counted.url + "/metrics").body.decode()
    names = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    assert len({name for name, _ in names}) == len(names) >= 30
    for name, kind in names:
        assert re.fullmatch(r"owl_stream(_[a-z0-9]+)+", name)
        assert (kind == "counter") == name.endswith("_total")
        assert not re.search(r"_(ms|milliseconds|minutes|mb|kilobytes|megabytes|percent|count|sum|bucket)(_|$)", name)
        if kind == "histogram":
            assert name.endswith(UNITS)
    for family in families(counted).values():
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z_]+", label) for label in sample.labels)
            assert sample.value >= 0


def exposed(server: ServerProcess) -> set[str]:
    """Every name that a query may use."""
    return {sample.name for family in families(server).values() for sample in family.samples} | {
        name + ("_total" if family.type == "counter" else "") for name, family in families(server).items()
    }


def queries(node: Any) -> Iterator[str]:
    """Every PromQL expression of a dashboard, wherever it stands."""
    if isinstance(node, dict):
        yield from (text for key, text in node.items() if key in ("expr", "definition") and isinstance(text, str))
        yield from (query for child in node.values() for query in queries(child))
    elif isinstance(node, list):
        yield from (query for child in node for query in queries(child))


def test_every_query_of_the_dashboard_names_a_metric_that_exists(counted: ServerProcess) -> None:
    """And every label that it groups or filters by is one of that metric's."""
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = list(queries(dashboard))
    assert len(expressions) >= 20
    known = exposed(counted)
    for expression in expressions:
        names = re.findall(r"\bowl_stream_\w+", expression)
        assert names, expression
        assert set(names) <= known, expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")


def test_the_documentation_lists_every_metric_and_no_other(counted: ServerProcess) -> None:
    """The table of docs/operations.md and the exposition name the same families."""
    documented = set(re.findall(r"^\| `(owl_stream_\w+)", (ROOT / "docs" / "operations.md").read_text(), re.M))
    text = get(counted.url + "/metrics").body.decode()
    assert documented == set(re.findall(r"^# TYPE (\S+)", text, re.M))


def test_waiting_says_who_is_slower() -> None:
    """Of late, the wait under way included: what was long ago fades."""
    now = 0.0
    waiting = Waiting(lambda: now)
    assert waiting.slower == "even"
    with waiting.on("assembly"):
        now += 5.0
        assert (waiting.slower, waiting.seconds("assembly")) == ("server", 5.0)
    now += 10 * HALF_LIFE_S
    with waiting.on("reader"):
        now += 0.1
    assert waiting.slower == "trainer"
    assert (waiting.seconds("assembly"), waiting.seconds("reader")) == (5.0, pytest.approx(0.1))


def test_a_stream_whose_reader_stops_says_so(counted: ServerProcess) -> None:
    """A reader that takes nothing makes `trainer` the slower side, by stream and in the sum."""
    with connect(counted.url) as sock:
        sock.sendall(f"GET {STREAM}?epochs=100000&rank=1&world_size=2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"owl-stream-id: " in sock.recv(1 << 10).lower()
        while value(counted, "owl_stream_streams_by_slower_side", slower="trainer") != 1:
            pass
        assert value(counted, "owl_stream_stream_info", dataset="train", rank="1", slower="trainer") == 1
    while value(counted, "owl_stream_streams_open"):
        pass
    assert value(counted, "owl_stream_streams_ended_total", reason="gone") == 1
    assert value(counted, "owl_stream_stream_wait_seconds_total", waited_for="reader") > 0


def test_what_a_trainer_waited_arrives_with_its_next_request(counted: ServerProcess) -> None:
    """`dataset.stats()` of the first epoch is in the metrics once the second has begun, and is not told twice."""
    with OwlStreamDataset(counted.url) as dataset:
        for _ in dataset:
            pass
        first = dataset.stats()
        assert min(first.wait_s, first.receive_s, first.verify_s, first.copy_s) > 0
        before = value(counted, "owl_stream_client_seconds_total", activity="wait")
        for _ in range(2):
            for _ in dataset:
                pass
        last = dataset.stats()
    told = value(counted, "owl_stream_client_seconds_total", activity="wait") - before
    assert first.wait_s - 0.01 <= told <= last.wait_s + 0.01
    assert value(counted, "owl_stream_client_seconds_total", activity="verify") > 0


def test_a_report_that_is_nonsense_counts_for_nothing() -> None:
    """What is no sensible number of seconds, too much or too long is left out; the rest is taken."""
    assert read_report("wait_s=1.5&receive_s=2&other=3") == {"wait_s": 1.5, "receive_s": 2.0}
    for number in HOSTILE.split():
        assert read_report(f"wait_s={number}") == {}
    assert read_report("wait_s=1&" + "x" * 1000) == read_report("&".join(f"a{n}=1" for n in range(99))) == {}


def test_logs_are_lines_of_json_with_the_streams_id(counted: ServerProcess) -> None:
    """Every line parses, and what is said of a stream carries the id that its answer's head had."""
    answer = get(counted.url + STREAM)
    identity = answer.headers["owl-stream-id"]
    while len([line for line in counted.log.read_text().splitlines() if identity in line]) < 2:
        pass
    lines = [json.loads(line) for line in counted.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    first, last = [line["message"] for line in lines if line.get("stream") == identity]
    assert first.startswith("of train for rank 0 of 1 begins")
    assert last.endswith(f"{len(epoch_of(counted))} batches, {len(answer.body)} bytes: completed")


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Something that takes OpenTelemetry's traces over HTTP and keeps them."""
    received: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server calls
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_traces_go_where_the_environment_says(tmp_path: Path) -> None:
    """A span of the stream and one of each frame, sent at the latest when the server stops."""
    with collector() as (url, received):
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        with ServerProcess(small_dataset(tmp_path, server={"workers": 0}), env=environment) as server:
            identity = get(server.url + STREAM).headers["owl-stream-id"]
            assert server.stop() == 0
    assert {path for path, _ in received} == {"/v1/traces"}
    sent = b"".join(body for _, body in received)
    assert sent.count(b"owl_stream.frame") == 11
    assert sent.count(b"owl_stream.stream") == 1
    assert identity.encode() in sent


def test_without_an_endpoint_no_tracing_is_loaded(tmp_path: Path) -> None:
    """Neither the SDK nor the exporter is imported by a server that traces nothing."""
    code = (
        "import sys\nfrom owl_stream.config import load_config\nfrom owl_stream.server import create_app\n"
        "create_app(load_config(sys.argv[1]))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    config = small_dataset(tmp_path, server={"workers": 0})
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_bottleneck_is_named_while_streams_wait_for_the_server(counted: ServerProcess) -> None:
    """A reader that takes all there is waits for assembly: one stage is named; with no reader none is."""
    with reading(counted):
        while value(counted, "owl_stream_bottleneck") != 1:
            pass
    while value(counted, "owl_stream_streams_open"):
        pass
    assert value(counted, "owl_stream_bottleneck") == 0


def test_the_pixel_cache_counts_what_it_found(tmp_path: Path) -> None:
    """A second server over the same directory decodes nothing: every row with images is a hit, the bytes are equal."""
    config = small_dataset(tmp_path, server={"workers": 2, "cache": {"dir": "crops"}})
    epochs = []
    for expected in ({"hit": 0, "miss": 30}, {"hit": 30, "miss": 0}):
        with ServerProcess(config) as server:
            epochs.append(get(server.url + STREAM).body)
            found = {
                outcome: value(server, "owl_stream_cache_lookups_total", dataset="train", outcome=outcome)
                for outcome in expected
            }
            assert found == expected
            assert value(server, "owl_stream_stage_seconds_total", stage="cache") > 0
            assert server.stop() == 0
    frames = [[frame for frame in parse_frames(epoch) if isinstance(frame.header, BatchHeader)] for epoch in epochs]
    assert frames[0] == frames[1]
