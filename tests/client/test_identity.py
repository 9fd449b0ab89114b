"""Rank and world size: given, of torch.distributed, of the environment."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed

from owl_client.identity import resolve_rank, resolve_share
from owl_client.transport import Share
from owl_stream.errors import ConfigError, RequestError
from tests.client.peers import memory_dataset
from tests.client.world import World


def test_arguments_come_before_the_environment() -> None:
    """Explicit values win; then RANK and WORLD_SIZE; then one rank alone."""
    environ = {"RANK": "3", "WORLD_SIZE": "8"}
    assert resolve_rank(1, 2, environ) == (1, 2)
    assert resolve_rank(None, None, environ) == (3, 8)
    assert resolve_rank(None, None, {}) == (0, 1)


@pytest.mark.parametrize("environ", [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_half_an_environment_is_refused_by_name(environ: dict[str, str]) -> None:
    """A rank without a world size would read the wrong rows in silence."""
    with pytest.raises(ConfigError, match=r"RANK|WORLD_SIZE"):
        resolve_rank(None, None, environ)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_ranks_that_cannot_be_are_refused(rank: int, world_size: int) -> None:
    """The rank lies below the world size."""
    with pytest.raises(RequestError, match="rank: expected 0 to"):
        resolve_rank(rank, world_size)


def test_without_a_micro_batch_size_a_rank_gets_its_whole_part() -> None:
    """G / W rows at once: one micro-batch a step."""
    assert resolve_share(1, 4, None, 32) == Share(1, 4, 8)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one, whose environment says something else."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_torch_distributed_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An initialised process group is the truth, and a pickled dataset carries it to spawned workers."""
    assert resolve_rank(None, None, {"RANK": "1", "WORLD_SIZE": "2"}) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pickled = pickle.dumps(memory_dataset(World()))
    torch.distributed.destroy_process_group()
    assert next(iter(pickle.loads(pickled))).meta.world_size == 1


def test_the_environment_of_a_launcher_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun nothing need be passed: each rank gets its own rows."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    batch = next(iter(memory_dataset(World())))
    assert [row.key for row in batch.meta.rows] == ["000002", "000003"]
