"""One small dataset for all engine tests, and the engines under the same contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from owl_stream.assemble import Dataset, open_dataset
from owl_stream.config import load_config
from owl_stream.engine import Engine, InlineEngine, ProcessEngine
from tests.support.datasets import small_dataset

MakeEngine = Callable[[], AbstractAsyncContextManager[Engine]]


def open_small(path: Path) -> Dataset:
    """Open the dataset `train` of a configuration."""
    config = load_config(path)
    return open_dataset("train", config.datasets["train"], base=config.base, index_dir=None, processes=0)


@pytest.fixture(scope="session")
def dataset(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Forty mixed samples in steps of four."""
    dataset = open_small(small_dataset(tmp_path_factory.mktemp("engine"), layout=layout))
    yield dataset
    dataset.close()


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Start an engine and close it in the end."""
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture(params=["inline", "processes"])
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Both engines: whatever is promised of one holds for the other."""
    kinds: dict[str, Callable[[], Engine]] = {"inline": InlineEngine, "processes": lambda: ProcessEngine(2)}
    return lambda: running(kinds[request.param]())
