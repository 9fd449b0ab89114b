"""Resume against a real server: at every place, at every size, from state that is right, old, or nonsense."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import ProtocolVersionError, RequestError, StateMismatchError
from owl_stream.wire import Hello, pack_frame, parse_frames
from tests.faults.conftest import EPOCHS, dataset_of
from tests.faults.harms import Frames
from tests.faults.oracle import Oracle
from tests.faults.proxy import FaultProxy
from tests.support.datasets import mixed_samples, small_dataset, write_config
from tests.support.hashes import batch_line
from tests.support.http import get
from tests.support.layouts import every_layout, others_long
from tests.support.server import ServerProcess
from tests.support.tars import write_shard
from tests.support.tokenizer import small_tokenizer

PLAN = "/v1/datasets/train/plan"
STREAM = "/v1/datasets/train/stream"


def state_at(url: str, batches: int, **options: Any) -> dict[str, Any]:
    """The state after so many batches, through JSON, while others wait in the queue."""
    with dataset_of(url, prefetch=4, **options) as dataset:
        read = 0
        while read < batches:
            read += len(list(islice(dataset, batches - read)))
        state: dict[str, Any] = json.loads(json.dumps(dataset.state_dict()))
        return state


@every_layout
@pytest.mark.parametrize("batches", [0, 1, 6, 10, 11, 15])
def test_fault_16_and_17_a_state_goes_on_behind_the_last_batch_yielded(
    steady: ServerProcess, undisturbed: list[str], batches: int
) -> None:
    """At the start, in the middle, before and at the end of an epoch and in the next: exactly what is left comes."""
    dataset = dataset_of(steady.url)
    dataset.load_state_dict(state_at(steady.url, batches))
    epochs = EPOCHS - batches // 11
    assert [batch_line(batch) for _ in range(epochs) for batch in dataset] == undisturbed[batches:]


def test_fault_18_changed_shards_recipe_and_tokenizer_are_refused_by_name(tmp_path: Path) -> None:
    """A server that was started again with other settings and shards refuses the state and names all that differs."""
    config = small_dataset(tmp_path, samples=16, server={"workers": 0})
    with ServerProcess(config) as server:
        state = state_at(server.url, 2)
    write_config(tmp_path, server={"workers": 0}, image_size=42, seed=3, bucket_window=2)
    small_tokenizer(tmp_path / "tokenizer.json", vocab_size=380)
    write_shard(tmp_path / "train-00009.tar", mixed_samples(1, 900))
    assert refused(config, state) >= {"manifest", "recipe", "tokenizer", "seed", "plan"}


def refused(config: Path, state: dict[str, Any]) -> set[str]:
    """Names of the components that a server's refusal of a state names."""
    with ServerProcess(config) as server:
        with pytest.raises(StateMismatchError) as caught:
            dataset_of(server.url).load_state_dict(state)
        answer = get(f"{server.url}{STREAM}?fingerprint={state['fingerprint']}")
        assert (answer.status, answer.error["code"]) == (409, "fingerprint_mismatch")
    return set(caught.value.differences)


SIZES = [(1, 4), (1, 2), (1, 1), (2, 2), (2, 1), (4, 1)]


@every_layout
@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("after", SIZES)
def test_fault_19_any_world_size_goes_on_with_the_same_global_steps(
    steady: ServerProcess, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """From a state of any rank at any sizes, all ranks of any other read the planned steps from there on."""
    micros = 4 // (before[0] * before[1])
    rank = before[0] - 1
    state = state_at(steady.url, 4 * micros, rank=rank, world_size=before[0], micro_batch_size=before[1])
    oracle = Oracle(11, lambda epoch, step: keys(steady, epoch, step))
    oracle.trained.cursor = oracle.trained.cursor._replace(step=4)
    datasets = [
        dataset_of(steady.url, rank=rank, world_size=after[0], micro_batch_size=after[1]) for rank in range(after[0])
    ]
    for dataset in datasets:
        dataset.load_state_dict(state)
    for batches in zip(*datasets, strict=True):
        oracle.read(batches, 4 // (after[0] * after[1]))
    oracle.end_of_epoch(0)
    assert oracle.trained.steps == [(0, step) for step in range(4, 11)]


PLANNED: dict[tuple[str, int, int], list[str]] = {}


def keys(server: ServerProcess, epoch: int, step: int) -> list[str]:
    """The plan of a step, asked for once."""
    at = (server.url, epoch, step)
    if at not in PLANNED:
        answer = get(f"{server.url}{PLAN}?epoch={epoch}&step={step}").json
        PLANNED[at] = [row["key"] for row in answer["steps"][0]["rows"]]
    return PLANNED[at]


CURSORS = [
    "step=-1",
    "step=12",
    "micro=1",
    "epoch=-1",
    "step=two",
    "step=1e3",
    "epoch=99999999999999999999",
    "micro=18446744073709551616",
]


@pytest.mark.parametrize("cursor", CURSORS)
def test_fault_20_a_cursor_that_cannot_be_costs_nothing(steady: ServerProcess, cursor: str) -> None:
    """Refused with a message, before a stream is counted; so are states that hold it."""
    opened = streams_opened(steady)
    answer = get(f"{steady.url}{STREAM}?{cursor}")
    assert (answer.status, answer.error["code"]) == (422, "bad_request")
    assert answer.error["message"]
    assert streams_opened(steady) == opened
    name, _, value = cursor.partition("=")
    state = {**dataset_of(steady.url).state_dict(), name: int(value) if value.lstrip("-").isdigit() else value}
    dataset = dataset_of(steady.url)
    with pytest.raises(RequestError):
        dataset.load_state_dict(state)


def metric(server: ServerProcess, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = get(server.url + "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def streams_opened(server: ServerProcess) -> float:
    """How many streams there have been."""
    return metric(server, "owl_stream_streams_total")


@others_long
def test_fault_21_two_clients_on_one_rank_get_the_same_bytes_from_one_assembly(
    steady_config: Path, undisturbed: list[str]
) -> None:
    """Read in step, both are served whole; some frame was assembled once for both, and no frame more than twice."""
    with ServerProcess(steady_config) as server:
        both = [dataset_of(server.url, prefetch=1) for _ in range(2)]
        lines = [(batch_line(one), batch_line(other)) for _ in range(EPOCHS) for one, other in zip(*both, strict=True)]
        assert lines == [(line, line) for line in undisturbed]
        shared, assembled = (metric(server, f"owl_stream_engine_{name}_total") for name in ("shared", "assembled"))
        assert shared > 0
        assert shared + assembled == 2 * len(undisturbed)


def test_fault_23_a_client_of_another_version_is_told_so(steady: ServerProcess) -> None:
    """An older and a newer client are answered 426, with both versions."""
    for protocol in (0, 2):
        answer = get(f"{steady.url}{STREAM}?protocol={protocol}")
        assert (answer.status, answer.error["code"]) == (426, "protocol_version")
        assert f"got {protocol}" in answer.error["message"]


def test_fault_23_a_server_of_another_version_is_a_version_error(steady: ServerProcess) -> None:
    """A `hello` of version 2 that a real connection brings is an error with the remedy, raised at once."""
    hello = next(parse_frames(get(steady.url + STREAM).body)).header
    assert isinstance(hello, Hello)
    with FaultProxy(steady.url) as proxy:
        proxy.befall(Frames(1, lambda frames: [pack_frame(replace(hello, protocol=2))]))
        with pytest.raises(ProtocolVersionError, match=f"{proxy.url}: expected protocol version 1, got 2"):
            next(iter(dataset_of(proxy.url)))
