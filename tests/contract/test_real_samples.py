"""The real multi-image samples with the real vocabulary, through real servers: every key once, whatever the deal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl_stream.wire import BatchHeader, Frame, parse_frames
from tests.support.datasets import write_config
from tests.support.http import get
from tests.support.qwen2 import qwen2_tokenizer_path
from tests.support.server import ServerProcess

SAMPLES = 145
STREAM = "/v1/datasets/train/stream"
DEALS = [(world_size, size) for world_size in (1, 2, 4, 8) for size in (1, 2, 4, 8) if 8 % (world_size * size) == 0]


def configure(directory: Path, shards: Path) -> Path:
    """The real shards in steps of eight."""
    return write_config(
        directory,
        shards=[str(shards)],
        tokenizer=str(qwen2_tokenizer_path()),
        image_size=56,  # what is tested here is which sample is where, not pixels
        max_length=4096,
        global_batch_size=8,
        bucket_window=32,
    )


@pytest.fixture(scope="module")
def server(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all deals; its index lies elsewhere, since the shards are read-only."""
    directory = tmp_path_factory.mktemp("real")
    config = configure(directory, shared_data / "real")
    with ServerProcess(config, arguments=("--index-dir", str(directory / "index"))) as server:
        yield server


def batches(url: str) -> list[Frame]:
    """The batch frames of a stream."""
    answer = get(url)
    assert answer.status == 200, answer.body
    return [frame for frame in parse_frames(answer.body) if frame.header.kind == "batch"]


@pytest.fixture(scope="module")
def planned(server: ServerProcess) -> list[Counter[tuple[str, str]]]:
    """What the plan says is in each global step."""
    steps = get(server.url + "/v1/datasets/train/plan?count=100").json["steps"]
    return [Counter((row["shard"], row["key"]) for row in step["rows"]) for step in steps]


def test_the_plan_holds_every_sample_once(planned: list[Counter[tuple[str, str]]]) -> None:
    """All 145 are good, and none is planned twice."""
    everything = sum(planned, Counter())
    assert len(everything) == SAMPLES
    assert set(everything.values()) == {1}


@pytest.mark.parametrize(("world_size", "micro_batch_size"), DEALS)
def test_every_deal_delivers_the_planned_steps(
    server: ServerProcess, planned: list[Counter[tuple[str, str]]], world_size: int, micro_batch_size: int
) -> None:
    """At every world size and micro-batch size the ranks together get each step's samples, each exactly once."""
    delivered: list[Counter[tuple[str, str]]] = [Counter() for _ in planned]
    for rank in range(world_size):
        query = f"?rank={rank}&world_size={world_size}&micro_batch_size={micro_batch_size}"
        for frame in batches(server.url + STREAM + query):
            assert isinstance(frame.header, BatchHeader)
            ok = [(row.shard, row.key) for row in frame.header.rows if row.status == "ok"]
            delivered[frame.header.step].update(ok)
    assert delivered == planned


def test_two_servers_send_byte_identical_frames(server: ServerProcess, shared_data: Path, tmp_path: Path) -> None:
    """A second server over links to the same shards elsewhere, inline and with its own index, sends the same bytes."""
    shards = tmp_path / "elsewhere"
    shards.mkdir()
    for shard in (shared_data / "real").glob("*.tar"):
        os.symlink(shard, shards / shard.name)
    with ServerProcess(configure(tmp_path, shards), env={"OWL_SERVER__WORKERS": "0"}) as other:
        ours, theirs = (batches(url + STREAM + "?rank=1&world_size=2") for url in (server.url, other.url))
    assert len(ours) > 10
    assert [(frame.header, bytes(frame.payload)) for frame in ours] == [
        (frame.header, bytes(frame.payload)) for frame in theirs
    ]
