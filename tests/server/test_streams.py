"""Streams of a real server: complete, identical from every server, bounded, and honest about their end."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from owl_stream.wire import BatchHeader, End, ErrorInfo, Frame, Hello, parse_frames
from tests.support.datasets import small_dataset
from tests.support.http import Answer, connect, get
from tests.support.layouts import every_layout
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

STREAM = "/v1/datasets/train/stream"


def frames_of(answer: Answer) -> list[Frame]:
    """The frames of a whole stream."""
    assert answer.status == 200, answer.body
    return list(parse_frames(answer.body))


def batches(frames: list[Frame]) -> list[BatchHeader]:
    """Headers of the batch frames."""
    return [frame.header for frame in frames if isinstance(frame.header, BatchHeader)]


@every_layout
def test_a_stream_is_hello_batches_end(server: ServerProcess) -> None:
    """It begins with who speaks, holds every step in order, and ends with the epoch's totals."""
    frames = frames_of(get(server.url + STREAM))
    hello, end = frames[0].header, frames[-1].header
    assert isinstance(hello, Hello)
    assert isinstance(end, End)
    assert [header.cursor for header in batches(frames)] == [(0, step, 0) for step in range(11)]
    assert (tuple(end.cursor), end.final, end.totals.samples, end.totals.fillers) == ((1, 0, 0), True, 40, 4)


@every_layout
@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 4), (1, 1), (2, 2), (2, 1), (4, 1)])
def test_every_deal_delivers_the_same_steps(server: ServerProcess, world_size: int, micro_batch_size: int) -> None:
    """Fault 19: each key exactly once, and the same set of keys per global step, for every world size."""
    planned = get(server.url + "/v1/datasets/train/plan?count=100").json["steps"]
    steps: list[list[str]] = [[] for _ in planned]
    for rank in range(world_size):
        query = f"?rank={rank}&world_size={world_size}&micro_batch_size={micro_batch_size}"
        for header in batches(frames_of(get(server.url + STREAM + query))):
            assert len(header.rows) == micro_batch_size
            steps[header.step] += [row.key for row in header.rows if row.status == "ok"]
    assert [sorted(keys) for keys in steps] == [sorted(row["key"] for row in step["rows"]) for step in planned]


@every_layout
def test_a_stream_goes_on_at_any_cursor(server: ServerProcess) -> None:
    """Resume: the batches from (0, 5, 1) on are the tail of the whole epoch's, byte for byte; then comes epoch 1."""
    whole = get(server.url + STREAM + "?micro_batch_size=2&epochs=2").body
    tail = get(server.url + STREAM + "?micro_batch_size=2&epochs=2&step=5&micro=1").body
    expected = [bytes(f.payload) for f in parse_frames(whole) if f.header.kind == "batch"][11:]
    assert [bytes(f.payload) for f in parse_frames(tail) if f.header.kind == "batch"] == expected
    at_end = frames_of(get(server.url + STREAM + "?step=11"))[0].header
    assert isinstance(at_end, Hello)
    assert tuple(at_end.cursor) == (1, 0, 0)


def test_strides_share_an_epoch(server: ServerProcess) -> None:
    """Three readers with stride 3 together receive every micro-batch once."""
    seen = []
    for start in range(3):
        query = f"?micro_batch_size=2&stride=3&step={start // 2}&micro={start % 2}"
        seen += [header.cursor for header in batches(frames_of(get(server.url + STREAM + query)))]
    assert sorted(seen) == [(0, step, micro) for step in range(11) for micro in range(2)]


@every_layout
def test_two_servers_send_identical_frames(server: ServerProcess, layout: str, tmp_path: Path) -> None:
    """Another process over a copy of the data elsewhere, with another engine, sends the same bytes."""
    with ServerProcess(small_dataset(tmp_path / "elsewhere", layout=layout, server={"workers": 0})) as other:
        for query in ("", "?rank=1&world_size=2&epochs=2"):
            ours, theirs = get(server.url + STREAM + query).body, get(other.url + STREAM + query).body
            kinds = ("hello", "batch", "end")
            assert [f for f in parse_frames(ours) if f.header.kind in kinds] == [
                f for f in parse_frames(theirs) if f.header.kind in kinds
            ]


def test_fault_2_sigterm_ends_streams_at_a_frames_edge_and_exits_0(tmp_path: Path) -> None:
    """On SIGTERM a stream's last frame is `error draining`, retryable, and the process exits 0."""
    with ServerProcess(small_dataset(tmp_path)) as server:
        with urllib.request.urlopen(server.url + STREAM + "?epochs=100000", timeout=PATIENCE_S) as stream:
            received = stream.read(1 << 16)
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            received += stream.read()
        assert server.stop() == 0
    last = list(parse_frames(received))[-1].header
    assert isinstance(last, ErrorInfo)
    assert (last.code, last.retryable) == ("draining", True)


def test_fault_3_a_killed_reader_frees_its_place(server: ServerProcess) -> None:
    """After SIGKILL of a client in the middle of its stream, nothing of it is left on the server."""
    code = f"""
import urllib.request
stream = urllib.request.urlopen({server.url + STREAM + "?epochs=100000"!r})
print(len(stream.read(100000)), flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == "100000"
        assert get(server.url + "/health").json["streams"] == 1
        reader.kill()
    while get(server.url + "/health").json["streams"]:
        pass
    assert b"owl_stream_engine_leased 0.0" in get(server.url + "/metrics").body


def test_fault_6_a_reader_that_stops_is_dropped_and_costs_one_budget(tmp_path: Path) -> None:
    """A stopped reader holds a bounded window, other streams go on, and after the idle timeout it is gone."""
    limits = {"idle_timeout_s": 1.5, "prefetch_bytes": 1 << 20}
    config = small_dataset(tmp_path, image_size=196, server=limits)
    with ServerProcess(config) as server, connect(server.url) as sock:
        sock.sendall(f"GET {STREAM}?epochs=100000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200" in sock.recv(100)
        assert len(batches(frames_of(get(server.url + STREAM)))) == 11
        while get(server.url + "/health").json["streams"]:
            pass
        assert b"owl_stream_engine_leased 0.0" in get(server.url + "/metrics").body
        assert "took nothing" in server.log.read_text()


@every_layout
def test_a_shard_that_changes_while_it_is_served_is_an_error_by_name(layout: str, tmp_path: Path) -> None:
    """Fault 40: bytes rewritten after indexing end the stream with `data_changed`, and mask nothing."""
    config = small_dataset(tmp_path, layout=layout)
    with ServerProcess(config) as server:
        for shard in tmp_path.glob("train-*.tar"):
            data = bytearray(shard.read_bytes())
            data[600] ^= 0xFF
            with shard.open("r+b") as file:
                file.write(data)
        frames = frames_of(get(server.url + STREAM))
        last = frames[-1].header
        assert isinstance(last, ErrorInfo)
        assert (last.code, last.retryable) == ("data_changed", False)
        assert all(row.status in {"ok", "filler"} for h in batches(frames) for row in h.rows)


def test_the_server_loads_no_torch(server: ServerProcess) -> None:
    """The running server has neither torch nor webdataset in memory, nor have its workers."""
    assert server.process is not None
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc on this system")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) >= 1
    for pid in (str(server.process.pid), *children):
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_the_documented_script_reads_a_real_stream(server: ServerProcess) -> None:
    """The script of docs/wire.md, nothing but urllib and msgpack, prints every batch of an epoch."""
    text = (ROOT / "docs" / "wire.md").read_text()
    script = next(part for part in text.split("```python\n")[1:] if "Unpacker" in part).split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", script, server.url + STREAM], capture_output=True, text=True, check=True
    )
    assert len([line for line in done.stdout.splitlines() if line.strip()]) >= 11
