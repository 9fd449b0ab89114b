"""What nobody foresaw: it ends as an error that somebody hears of, and the engine goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from owl_stream.assemble import AssemblerFactory, Dataset
from owl_stream.engine import Coordinate, Engine, InlineEngine, ProcessEngine
from owl_stream.engine.handle import WorkerHandle
from owl_stream.errors import ConfigError, WorkerError
from tests.engine.conftest import open_small, running
from tests.engine.faulty import FaultyFactory
from tests.support.datasets import small_dataset

PLACES = [Coordinate(0, step, 0, 0, 1, 4) for step in range(4)]


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Dataset]:
    """A dataset of one's own."""
    opened = open_small(small_dataset(tmp_path / "data"))
    yield opened
    opened.close()


async def frame(engine: Engine, dataset: Dataset, at: Coordinate) -> bytes:
    """A frame's bytes."""
    with await engine.frame(dataset, at) as lease:
        return bytes(lease.view)


def failing_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception) -> None:
    """The first call of a method raises; later ones are the real ones."""
    real, raised = getattr(owner, name), list[bool]()

    async def method(self: Any, *arguments: Any) -> Any:
        if not raised:
            raised.append(True)
            raise error
        return await real(self, *arguments)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize("error", [RuntimeError("no such thing"), KeyError("x")])
def test_fault_114_a_frame_that_fails_unexpectedly_is_a_retryable_error(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The reader is told, the log has the traceback, and the same worker's place makes every later frame."""
    failing_once(monkeypatch, WorkerHandle, "assemble", error)

    async def scenario() -> None:
        async with running(ProcessEngine(1)) as engine:
            with pytest.raises(WorkerError, match="failed unexpectedly"):
                await frame(engine, dataset, PLACES[0])
            frames = [await frame(engine, dataset, at) for at in PLACES]
            assert len(set(frames)) == len(PLACES)
            assert engine.failure is None
            assert engine.statistics().failed == {"worker": 1}

    asyncio.run(scenario())
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.exc_info is not None


def test_fault_114_a_worker_that_cannot_be_ended_costs_one_frame(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is left to wait for it: the frame fails with the remedy, its memory is not used again, others come."""
    failing_once(monkeypatch, WorkerHandle, "_end", RuntimeError("can't start new thread"))

    async def scenario() -> None:
        async with running(ProcessEngine(1)) as engine:
            expected = await frame(engine, dataset, PLACES[0])
            (worker,) = engine.processes
            failing_once(monkeypatch, WorkerHandle, "assemble", ConnectionResetError("gone"))
            engine._processes[0].broken = True  # type: ignore[union-attr] # as a message that was cut off leaves it
            with pytest.raises(ConfigError, match="ulimit -u"):
                await frame(engine, dataset, PLACES[1])
            assert await frame(engine, dataset, PLACES[0]) == expected
            assert engine.processes != (worker,)

    asyncio.run(scenario())


def test_fault_114_without_processes_too(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine in the server's own process says the same of what its assembler raises."""

    def assembler(self: AssemblerFactory) -> Any:
        raise RuntimeError("no such thing")

    async def scenario() -> None:
        async with running(InlineEngine()) as engine:
            with monkeypatch.context() as patched:
                patched.setattr(AssemblerFactory, "__call__", assembler)
                with pytest.raises(WorkerError, match="RuntimeError: no such thing"):
                    await frame(engine, dataset, PLACES[0])
            assert await frame(engine, dataset, PLACES[0])

    asyncio.run(scenario())


def test_fault_112_a_dataset_that_no_worker_can_load_is_refused_when_it_is_prepared(dataset: Dataset) -> None:
    """Every worker is killed while it loads: preparing says so, after several tries, and names the signal."""
    assert isinstance(dataset.assembler_factory, AssemblerFactory)
    dataset.assembler_factory = FaultyFactory(dataset.assembler_factory, 0, "unopened")  # type: ignore[assignment] # stands in for it

    async def scenario() -> None:
        async with running(ProcessEngine(2)) as engine:
            with pytest.raises(WorkerError, match="exit code -9"):
                await engine.prepare(dataset)

    asyncio.run(scenario())


def test_fault_112_one_worker_of_two_is_enough(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker that does not get ready is a warning; frames come from the other."""
    failing_once(monkeypatch, WorkerHandle, "open", OSError(24, "Too many open files"))
    caplog.set_level(logging.WARNING, "owl_stream.engine")  # other tests' commands may have left it higher

    async def scenario() -> None:
        async with running(ProcessEngine(2)) as engine:
            await engine.prepare(dataset)
            assert await frame(engine, dataset, PLACES[0])

    asyncio.run(scenario())
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "ulimit -n" in told
