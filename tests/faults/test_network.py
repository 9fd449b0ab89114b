"""Everything that a network does to a real server's streams: what arrives at the trainer is what always does."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from owl_stream.wire import parse_frames
from tests.faults.conftest import EPOCHS, dataset_of, lines_of
from tests.faults.harms import (
    Bandwidth,
    BlackHole,
    Buffering,
    Cut,
    Delay,
    EndCleanly,
    Flip,
    Harm,
    Reset,
    Slices,
    duplicate,
    insert,
    leave_out,
    reorder,
)
from tests.faults.proxy import FaultProxy
from tests.support.datasets import small_dataset
from tests.support.hashes import batch_line
from tests.support.http import get
from tests.support.layouts import LAYOUTS, OWL, others_long
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

STREAM = "/v1/datasets/train/stream"
PLACES = (0, 100, 1500, 20_000, 60_000)
"""In the answer's head, in `hello`, in an early and in a later batch."""

HARMS: dict[str, tuple[Harm, ...]] = {
    "fault_5_half_open": tuple(BlackHole(at) for at in PLACES[:4]),
    "fault_7_cut": tuple(Cut(at) for at in PLACES),
    "fault_8_reset": tuple(Reset(at) for at in PLACES),
    "fault_9_one_byte_slices": (Slices(1),),
    "fault_10_delay_loss_jitter": (Delay(),) * EPOCHS,
    "fault_10_thin_line": (Bandwidth(1e6),) * EPOCHS,
    "fault_11_clean_end": tuple(EndCleanly(count) for count in (0, 1, 2, 7, 3)),
    "fault_12_buffering": (Buffering(10_000), Buffering(1 << 20)),
    "fault_24_flipped": tuple(Flip(bit) for bit in (40, 5000, 99_999, 400_001)),
    "fault_25_truncated": tuple(insert(frame, b"\x94\xce\x00") for frame in (1, 4)),
    "fault_26_reordered": tuple(reorder(frame) for frame in (0, 2, 5)),
    "fault_26_left_out": tuple(leave_out(frame) for frame in (0, 1, 9)),
    "fault_27_duplicated": tuple(duplicate(frame) for frame in (0, 1, 8)),
    "fault_29_trailing_bytes": tuple(insert(frame, b"\x00" * 9) for frame in (1, 6)),
}
HARMLESS = {"Slices", "Delay", "Bandwidth", "Buffering"}
"""After these nothing has to be asked for again."""
OF_TIME = ("fault_5_half_open", "fault_9_one_byte_slices", "fault_10_delay_loss_jitter", "fault_10_thin_line")
"""What is in frames has no say in these, and they take seconds."""


@pytest.mark.parametrize(
    ("harms", "layout"),
    [
        pytest.param(harms, layout, id=f"{name}-{layout}")
        for layout in LAYOUTS
        for name, harms in HARMS.items()
        if layout == OWL or name not in OF_TIME
    ],
    indirect=["layout"],
    scope="session",
)
def test_faults_5_to_12_and_24_to_29_change_nothing(
    proxy: FaultProxy, undisturbed: list[str], harms: tuple[Harm, ...]
) -> None:
    """Faults 5, 7, 8, 9, 10, 11, 12 and 24 to 29: every harm strikes, none is seen in what is yielded."""
    proxy.befall(*harms)
    dataset = dataset_of(proxy.url, read_s=0.6)
    assert lines_of(dataset) == undisturbed
    assert proxy.struck == {type(harms[0]).__name__: len(harms)}
    broken = [harm for harm in harms if type(harm).__name__ not in HARMLESS]
    assert dataset.stats().reconnects >= len(broken)


@others_long
def test_fault_7_sampled_cuts_of_a_real_stream(
    steady: ServerProcess, proxy: FaultProxy, undisturbed: list[str]
) -> None:
    """Cut at 40 places of the answer, its head included: each run is the whole epoch, asked for once more."""
    epoch = undisturbed[: len(undisturbed) // EPOCHS]
    length = len(get(steady.url + STREAM).body)
    chance = random.Random(7)
    for at in sorted(chance.sample(range(length), 40)):
        proxy.befall(Cut(at))
        dataset = dataset_of(proxy.url)
        assert lines_of(dataset, 1) == epoch, at
        assert dataset.stats().reconnects == 1, at
    assert proxy.struck["Cut"] == 40


def test_fault_7_a_description_that_is_cut_is_asked_for_again(steady: ServerProcess) -> None:
    """Cut all over the answer, its head included, what the dataset is comes whole or not at all."""
    expected = dataset_of(steady.url).state_dict()
    places = range(0, len(get(f"{steady.url}/v1/datasets/train").body), 41)
    cuts: deque[Cut] = deque()
    with FaultProxy(steady.url, lambda path: cuts.popleft() if cuts else None) as proxy:
        for at in places:
            cuts.append(Cut(at))
            assert dataset_of(proxy.url).state_dict() == expected, at
        assert proxy.struck["Cut"] == len(places) > 20


@others_long
def test_fault_28_frames_of_another_stream_are_not_taken(
    steady: ServerProcess, proxy: FaultProxy, undisturbed: list[str]
) -> None:
    """A real batch of another rank, epoch or place, digest and all, ends the connection and enters no sequence."""
    base = steady.url + "/v1/datasets/train/batches"
    foreign = ["/0/0/0?world_size=2&rank=1", "/1/0/0", "/0/3/0", "/0/0/0?world_size=1&micro_batch_size=2"]
    for path in foreign:
        frame = get(base + path).body
        assert len(list(parse_frames(frame))) == 1
        proxy.befall(insert(1, frame))
    dataset = dataset_of(proxy.url)
    assert lines_of(dataset) == undisturbed
    assert dataset.stats().reconnects == len(foreign)


def test_fault_5_the_server_notices_a_reader_that_is_gone_without_a_word(tmp_path: Path) -> None:
    """When nothing is taken any more and no FIN comes, the stream ends after the idle timeout and its place is free."""
    limits = {"idle_timeout_s": 0.5, "prefetch_bytes": 1 << 20, "workers": 1}
    config = small_dataset(tmp_path, image_size=224, server=limits)
    with ServerProcess(config) as server, FaultProxy(server.url) as proxy:
        proxy.befall(BlackHole(1000))
        iterator = iter(dataset_of(proxy.url, read_s=PATIENCE_S))
        with ThreadPoolExecutor(1) as trainer:
            first = trainer.submit(next, iterator)
            while not get(server.url + "/health").json["streams"]:
                pass
            while get(server.url + "/health").json["streams"]:
                pass
            assert b"owl_stream_engine_leased 0.0" in get(server.url + "/metrics").body
            proxy.drop()
            assert first.result(PATIENCE_S).meta.step == 0
        iterator.close()


def test_fault_13_a_stopped_server_is_waited_for(steady_config: Path, undisturbed: list[str]) -> None:
    """SIGSTOP until the reader has noticed and tried again, then SIGCONT: the same batches."""
    with ServerProcess(steady_config) as server:
        assert server.process is not None
        dataset = dataset_of(server.url, read_s=0.5, prefetch=1)
        iterator = iter(dataset)
        lines = [batch_line(next(iterator))]
        iterator.close()
        server.process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as trainer:
            rest = trainer.submit(lines_of, dataset)
            while dataset.stats().reconnects < 2:
                pass
            server.process.send_signal(signal.SIGCONT)
            lines += rest.result(PATIENCE_S)
    assert lines == undisturbed


def test_fault_13_a_stopped_server_is_left_for_another(
    steady: ServerProcess, steady_config: Path, undisturbed: list[str]
) -> None:
    """A server that is stopped for good costs one read deadline; the second one continues."""
    with ServerProcess(steady_config) as server:
        assert server.process is not None
        dataset = dataset_of([server.url, steady.url], read_s=0.5, prefetch=1)
        lines = []
        for _ in range(EPOCHS):
            for batch in dataset:
                lines.append(batch_line(batch))
                if len(lines) == 2:
                    server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGCONT)
    assert lines == undisturbed


def test_fault_13_a_stopped_reader_goes_on(steady: ServerProcess, undisturbed: list[str], tmp_path: Path) -> None:
    """SIGSTOP of a trainer until its connection is gone, then SIGCONT: its log is that of an undisturbed one."""
    code = f"""
from pathlib import Path
from tests.faults.trainer import train
train(["PROXY"], Path({str(tmp_path)!r}), epochs={EPOCHS}, tell=lambda step: print(step, flush=True), prefetch=1)
"""
    with FaultProxy(steady.url, lambda path: Bandwidth(400e3) if "/stream" in path else None) as proxy:
        command = [sys.executable, "-c", code.replace("PROXY", proxy.url)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as trainer:
            assert trainer.stdout is not None
            assert trainer.stdout.readline()
            trainer.send_signal(signal.SIGSTOP)
            assert proxy.drop() > 0
            trainer.send_signal(signal.SIGCONT)
            trainer.stdout.read()
        assert trainer.returncode == 0
    assert (tmp_path / "log").read_text().splitlines() == undisturbed


WALL_CLOCK = re.compile(r"\btime\.(time|localtime|gmtime|ctime|strftime)\(|datetime\.(now|utcnow|today)\(")
NOTHING_OF_STREAMS = {
    "client/owl_client/doctor/asking.py": "the clock that is compared with the server's",
    "owl_stream/assemble/cache.py": "the age of unfinished files that somebody left",
    "owl_stream/server/logs.py": "the time of a line",
    "owl_stream/server/metrics.py": "when the process began",
    "owl_stream/server/sessions.py": "how long a browser's cookie is good",
}
"""Modules that may read the wall clock, and what for."""

MOVED_CLOCK = """
import signal, time
_time, _moved = time.time, [0.0]
time.time = lambda: _time() + _moved[0]
def move(signum, frame):
    _moved[0] += 3600.0 if signum == signal.SIGUSR1 else -7200.0
signal.signal(signal.SIGUSR1, move)
signal.signal(signal.SIGUSR2, move)
"""


def test_fault_14_no_module_of_streams_reads_the_wall_clock() -> None:
    """Deadlines, waits and orders are made from monotonic clocks: no module behind them asks for the time of day."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("owl_stream", "client/owl_client")
        for path in (ROOT / package).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WALL_CLOCK.search(line) and str(path.relative_to(ROOT)) not in NOTHING_OF_STREAMS
    ]
    assert found == []


def test_fault_14_the_wall_clock_moved_by_an_hour_has_no_effect(
    steady_config: Path, undisturbed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour on, then two back, while a stream is read, at both of its ends: nothing times out, no byte differs."""
    import time

    (tmp_path / "sitecustomize.py").write_text(MOVED_CLOCK)
    now, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + moved[0])
    with ServerProcess(steady_config, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as server:
        assert server.process is not None
        dataset = dataset_of(server.url, read_s=PATIENCE_S, prefetch=1)
        lines = []
        for _ in range(EPOCHS):
            for batch in dataset:
                lines.append(batch_line(batch))
                if len(lines) in (3, 14):
                    server.process.send_signal(signal.SIGUSR1 if len(lines) == 3 else signal.SIGUSR2)
                    moved[0] += 3600.0 if len(lines) == 3 else -7200.0
        assert get(server.url + "/health").json["status"] == "ok"
        assert server.stop() == 0
    assert lines == undisturbed
    assert dataset.stats().reconnects == 0


def test_fault_15_a_dead_first_url_and_one_that_dies(
    steady: ServerProcess, proxy: FaultProxy, undisturbed: list[str]
) -> None:
    """The first address refuses, the second is lost in mid-epoch again and again, the third serves."""
    with FaultProxy(steady.url) as gone:
        dead = gone.url
    proxy.befall(Cut(30_000), Reset(2000))
    dataset = dataset_of([dead, proxy.url, steady.url])
    assert lines_of(dataset) == undisturbed


def test_no_thread_of_a_proxy_is_left() -> None:
    """The proxies above have ended with their blocks."""
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name == "fault-proxy"] == []
