"""Storage that stalls: it costs what needs it, nothing else, and health says so for as long as it lasts. Fault 126."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from owl_stream.wire import BatchHeader, ErrorInfo, Header, parse_frames
from tests.support.datasets import small_dataset
from tests.support.http import Answer, get
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess
from tests.support.stalling import stalled

IN_ORDER = {"shuffle": "none", "modality": "off", "bucket_window": 1}
"""Steps 0 to 4 are of the first shard, 5 to 9 of the second one."""

STALL_S = 3.0


def two_datasets(directory: Path, **server: Any) -> Path:
    """`train`, whose first shard will stall, and `other`, which lies elsewhere."""
    config = small_dataset(directory / "train", **IN_ORDER)
    other = yaml.safe_load(small_dataset(directory / "other", **IN_ORDER).read_text())["datasets"]["train"]
    other |= {"shards": [str(directory / "other" / "train-*.tar")]}
    settings = yaml.safe_load(config.read_text())
    settings["datasets"]["other"] = other
    settings["server"] = {"job_timeout_s": STALL_S, "heartbeat_s": 0.2, "grace_s": 2.0, "log_level": "debug", **server}
    config.write_text(yaml.safe_dump(settings))
    return config


@pytest.fixture(params=[0, 2], ids=["inline", "processes"])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Both datasets, with frames made in the server's process or in workers."""
    return two_datasets(tmp_path, workers=request.param)


def shard_of(config: Path) -> Path:
    """The shard that stalls."""
    return config.with_name("train-00000.tar")


def headers(server: ServerProcess, dataset: str, **query: int) -> list[Header]:
    """What a stream says until it ends."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    answer = get(f"{server.url}/v1/datasets/{dataset}/stream?{asked}")
    assert answer.status == 200, answer.body
    return [frame.header for frame in parse_frames(answer.body)]


def batches(told: list[Header]) -> list[int]:
    """The steps of a stream's batches."""
    return [header.step for header in told if isinstance(header, BatchHeader)]


def eventually(server: ServerProcess, path: str, status: int) -> Answer:
    """The first answer with this status."""
    deadline = time.monotonic() + PATIENCE_S
    while (answer := get(server.url + path)).status != status:
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.05)
    return answer


@contextmanager
def asking(server: ServerProcess, paths: list[str]) -> Iterator[list[Answer]]:
    """Everything is asked for at once, while the block runs; the answers are there after it."""
    answers = list[Answer]()
    threads = [threading.Thread(target=lambda path=path: answers.append(get(server.url + path))) for path in paths]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        for thread in threads:
            thread.join()


def test_fault_126_a_stalled_shard_and_page_views_hold_up_nobody_else(config: Path) -> None:
    """Ten views of its samples fail in time; streams of another dataset and shard go on; health is 503, then 200."""
    members = [f"/pages/datasets/train/members/0/{step}/{place}" for step in range(5) for place in range(2)]
    with ServerProcess(config) as server:
        with stalled(shard_of(config)):
            with asking(server, members) as answers:
                assert batches(headers(server, "other")) == list(range(10))
                assert batches(headers(server, "train", step=5)) == list(range(5, 10))
                assert get(server.url + "/v1/datasets/train?world_size=2").status == 200
                assert get(server.url + "/pages/datasets/other/members/0/0/0").status == 200
            assert [answer.status for answer in answers] == [503] * len(members)
            for answer in answers:
                assert (answer.error["code"], answer.error["retryable"]) == ("read", True)
                assert "stall" in answer.error["message"]
            health = get(server.url + "/health")
            assert (health.status, health.json["status"]) == (503, "degraded")
            assert any("members of sample" in what for what in health.json["failures"])
            assert get(server.url + "/readyz").json == {"status": "failed"}
            assert get(server.url + "/pages/overview").json["failures"].keys() == health.json["failures"].keys()
            assert b"owl_stream_stuck_calls 4.0" in get(server.url + "/metrics").body
            assert batches(headers(server, "other")) == list(range(10))
            assert get(server.url + "/livez").status == 200
        assert eventually(server, "/health", 200).json["failures"] == {}
        assert b"owl_stream_stuck_calls 0.0" in get(server.url + "/metrics").body
        assert get(server.url + members[0]).status == 200
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


def test_fault_126_a_stream_of_a_stalled_shard_is_told_and_goes_on_later(config: Path) -> None:
    """It gets a retryable error that names the stall; others have frames meanwhile; later it has all of its own."""
    with ServerProcess(config) as server:
        with stalled(shard_of(config)):
            told = headers(server, "train")
            assert isinstance(told[-1], ErrorInfo)
            assert (told[-1].code, told[-1].retryable) == ("read", True)
            assert "stall" in told[-1].message
            stalling = [f"/v1/datasets/train/batches/0/{step}/0" for step in range(5)]
            with asking(server, stalling) as answers:
                assert batches(headers(server, "other")) == list(range(10))
                assert batches(headers(server, "train", step=5)) == list(range(5, 10))
            assert {answer.status for answer in answers} == {503}
            assert get(server.url + "/health").status == 503
        whole = headers(server, "train")
        while isinstance(whole[-1], ErrorInfo):  # what waited may need a moment to come back
            assert whole[-1].retryable
            whole = headers(server, "train")
        assert batches(whole) == list(range(10))
        eventually(server, "/health", 200)


def test_fault_126_an_index_that_stalls_is_told(tmp_path: Path) -> None:
    """The plan's own file hangs (its reads are made to): streams and pages of it end in time, and no others."""
    patch = tmp_path / "sitecustomize.py"
    patch.write_text(
        "import os, sys, threading\n"
        "if 'serve' in sys.argv:\n"
        "    import owl_stream.shards.index as index\n"
        "    real = index.gather\n"
        "    def gather(file, *arguments):\n"
        "        path = os.readlink(f'/proc/self/fd/{file}')\n"
        f"        while '/train/' in path and os.path.exists({str(tmp_path / 'stall')!r}):\n"
        "            threading.Event().wait(0.05)\n"
        "        return real(file, *arguments)\n"
        "    index.gather = gather\n"
    )
    config = two_datasets(tmp_path, workers=1)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parent.parent.parent}"}
    with ServerProcess(config, env=environment) as server:
        (tmp_path / "stall").touch()
        told = headers(server, "train")
        assert isinstance(told[-1], ErrorInfo)
        assert (told[-1].code, told[-1].retryable) == ("read", True)
        assert "planning train, epoch 0, step 0" in told[-1].message
        assert get(server.url + "/v1/datasets/train?world_size=1").status == 503
        assert batches(headers(server, "other")) == list(range(10))
        assert {what.split(",")[0] for what in get(server.url + "/health").json["failures"]} == {
            "planning train",
            "describing train for 1 ranks",
        }
        (tmp_path / "stall").unlink()
        eventually(server, "/health", 200)
        assert batches(headers(server, "train")) == list(range(10))


def test_fault_126_a_dataset_that_stalls_while_it_is_opened_holds_up_no_other(tmp_path: Path) -> None:
    """The next one is opened and served, health names what waits, and it is served too once it can be read."""
    config = two_datasets(tmp_path, workers=0)
    with contextlib.ExitStack() as opened:
        with stalled(shard_of(config)):
            server = opened.enter_context(ServerProcess(config))  # it is ready with one dataset
            assert batches(headers(server, "other")) == list(range(10))
            health = get(server.url + "/health")
            assert (health.status, "opening train" in health.json["failures"]) == (503, True)
            assert get(server.url + "/v1/datasets/train").status == 503
        eventually(server, "/readyz", 200)
        assert batches(headers(server, "train")) == list(range(10))
        assert server.stop() == 0
