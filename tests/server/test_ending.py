"""SIGTERM ends the process within the grace, whatever is stuck, and leaves no traceback. Fault 127."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.server.test_stalls import shard_of, two_datasets
from tests.support.datasets import small_dataset
from tests.support.http import connect, get
from tests.support.machine import command
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess
from tests.support.stalling import stalled


@contextmanager
def running(run: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as a process of its own, and its URL; stderr goes to `log`. Whatever the test does, it is gone then."""
    with (
        log.open("w") as stderr,
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT) as process,
    ):
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def until_ready(process: subprocess.Popen[str], log: Path) -> None:
    """Wait until its datasets are served."""
    assert process.stdout is not None
    while not process.stdout.readline().startswith("ready"):
        assert process.poll() is None, log.read_text()


@contextmanager
def requests(server: ServerProcess, *paths: str, headers: str = "") -> Iterator[None]:
    """Connections that ask for something and read nothing, or no more than the answer's beginning."""
    with ExitStack() as opened:
        for path in paths:
            sock = opened.enter_context(connect(server.url))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        yield


def stop(server: ServerProcess) -> str:
    """SIGTERM: the exit code is 0 and no traceback is in the log, which is returned."""
    assert server.stop() == 0
    log = server.log.read_text()
    assert "Traceback" not in log, log
    assert "Exception" not in log, log
    return log


def busy(server: ServerProcess, streams: int) -> None:
    """Wait until so many streams are open."""
    while get(server.url + "/health").json["streams"] < streams:
        pass


@pytest.mark.parametrize("workers", [0, 2], ids=["inline", "processes"])
def test_fault_127_sigterm_ends_a_server_whose_storage_stalls(tmp_path: Path, workers: int) -> None:
    """Pages and a stream wait for a shard that hangs: the process ends all the same, and says what it left behind."""
    config = two_datasets(tmp_path, workers=workers, job_timeout_s=60.0)
    members = [f"/pages/datasets/train/members/0/{step}/0" for step in range(8)]
    with ServerProcess(config) as server, stalled(shard_of(config)):
        with requests(server, *members, "/v1/datasets/train/stream", "/v1/datasets/train/batches/0/3/0"):
            busy(server, 1)
            assert get(server.url + "/pages/datasets/other/members/0/0/0").status == 200
            log = stop(server)
        assert "left behind" in log or "by force" in log
        assert "members of sample 0 of train" in log


def test_fault_127_sigterm_ends_a_server_that_opens_a_dataset_on_stalled_storage(tmp_path: Path) -> None:
    """Indexing hangs in a process of its own, and cannot hear that it is to stop."""
    config = small_dataset(tmp_path, server={"grace_s": 2.0, "workers": 1, "log_level": "debug"})
    log = tmp_path / "server.log"
    run = command("serve", "--port", "0", "--config", config)
    with stalled(shard_of(config)) as stall, running(run, log) as (process, url):
        while not stall.felt:
            time.sleep(0.01)
        assert get(url + "/readyz").json == {"status": "indexing"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert "opening train" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("workers", [0, 1], ids=["inline", "processes"])
def test_fault_127_a_normal_stop_leaves_no_traceback(tmp_path: Path, workers: int) -> None:
    """Streams that nobody reads, kept connections, half a request, pages under way: all end quietly."""
    limits = {"grace_s": 1.0, "workers": workers, "log_level": "debug", "prefetch_bytes": 1 << 20}
    config = small_dataset(tmp_path, image_size=196, server=limits)
    stream = "/v1/datasets/train/stream?epochs=100000"
    with (
        ServerProcess(config) as server,
        requests(server, stream, stream, "/pages/overview", "/health"),
        requests(server, stream, headers="Connection: close\r\n"),
        connect(server.url) as half,
        connect(server.url) as body,
        connect(server.url) as silent,
    ):
        half.sendall(b"GET /v1/data")
        body.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ntoken=")
        busy(server, 3)
        stop(server)
        assert silent.recv(1) == b""


def test_fault_127_a_request_that_is_cut_off_is_told_that_the_server_stops(tmp_path: Path) -> None:
    """It is not a 500: whoever waits for a page is told to ask again."""
    config = two_datasets(tmp_path, workers=0, job_timeout_s=60.0)
    answers = list[int]()
    with ServerProcess(config) as server, stalled(shard_of(config)) as stall:
        url = server.url + "/pages/datasets/train/members/0/0/0"
        asking = threading.Thread(target=lambda: answers.append(get(url).status))
        asking.start()
        while not stall.felt:
            time.sleep(0.01)
        stop(server)
        asking.join()
    assert answers == [503]


def listens(url: str) -> bool:
    """Whether a connection can be made."""
    try:
        connect(url).close()
    except ConnectionError:
        return False
    return True


HANGS = """
from owl_stream.engine import ProcessEngine
async def aclose(self):
    import asyncio
    await asyncio.Event().wait()
ProcessEngine.aclose = aclose
"""

BLOCKS = """
from owl_stream.engine import ProcessEngine
async def aclose(self):
    import threading
    threading.Event().wait()
ProcessEngine.aclose = aclose
"""


@pytest.mark.parametrize("patch", [HANGS, BLOCKS], ids=["a task", "the loop"])
def test_fault_127_what_never_closes_is_ended_by_force(tmp_path: Path, patch: str) -> None:
    """Closing hangs, or holds up the loop itself: after the grace the process ends with 0, and one line says so."""
    config = small_dataset(tmp_path, samples=8, shards=1, server={"grace_s": 1.0, "workers": 1})
    log = tmp_path / "server.log"
    run = command("serve", "--port", "0", "--config", config, patch=patch)
    with running(run, log) as (process, _):
        until_ready(process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    (said,) = log.read_text().splitlines()
    assert "by force; still under way" in said


def test_fault_127_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """Ctrl-C twice: the grace is long and closing hangs, but nobody has to wait for either."""
    config = small_dataset(tmp_path, samples=8, shards=1, server={"grace_s": 10 * PATIENCE_S, "workers": 1})
    log = tmp_path / "server.log"
    run = command("serve", "--port", "0", "--config", config, patch=HANGS)
    with running(run, log) as (process, url):
        until_ready(process, log)
        process.send_signal(signal.SIGINT)
        while listens(url):  # no more, once it has heard the first one
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in log.read_text()


def test_fault_127_a_log_that_nobody_reads_does_not_hold_up_the_end() -> None:
    """The last line cannot be written, because the pipe is full: the process ends without it."""
    code = """
import fcntl, os, sys, threading
from owl_stream.blocking import Running
from owl_stream.server.ending import Watchdog
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(2, True)
watchdog = Watchdog(0.1, lambda: [Running("reading", 1.0)])
watchdog.signalled()
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
