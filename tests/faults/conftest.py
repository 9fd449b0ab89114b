"""One unharmed server for all tests that harm only what lies between it and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from owl_client import Backoff, OwlStreamDataset, Timeouts
from tests.faults.proxy import FaultProxy
from tests.support.datasets import small_dataset
from tests.support.hashes import batch_line
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess

EPOCHS = 2


@pytest.fixture(scope="session")
def steady_config(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 samples, 11 steps, frames of a few kilobytes; silence is broken every 0.2 s, so that tests can wait less."""
    settings = {"workers": 1, "heartbeat_s": 0.2}
    return small_dataset(tmp_path_factory.mktemp("steady"), layout=layout, image_size=28, server=settings)


@pytest.fixture(scope="session")
def steady(steady_config: Path) -> Iterator[ServerProcess]:
    """A server that nothing happens to."""
    with ServerProcess(steady_config) as server:
        yield server


@pytest.fixture(scope="session")
def undisturbed(steady: ServerProcess) -> list[str]:
    """What a reader of `steady` gets when nothing happens."""
    return lines_of(dataset_of(steady.url))


@pytest.fixture
def proxy(steady: ServerProcess) -> Iterator[FaultProxy]:
    """Between `steady` and whoever connects."""
    with FaultProxy(steady.url) as proxy:
        yield proxy


def dataset_of(url: str | list[str], *, read_s: float = PATIENCE_S, **options: object) -> OwlStreamDataset:
    """A dataset that hardly waits between tries; raw pixels, so that lines are those of the wire."""
    options = {"dtype": torch.uint8, "backoff": Backoff(0.001, 0.05), "give_up_after_s": PATIENCE_S, **options}
    return OwlStreamDataset(url, timeouts=Timeouts(read_s=read_s), **options)  # type: ignore[arg-type]


def lines_of(dataset: OwlStreamDataset, epochs: int = EPOCHS) -> list[str]:
    """The lines of all batches of the first epochs."""
    return [batch_line(batch) for _ in range(epochs) for batch in dataset]
