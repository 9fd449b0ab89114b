"""Memory and CPU time of one sample: what takes too much is tried alone, and only then masked, the same everywhere.

Faults 131 and 132 of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from owl_stream.assemble import NO_MEMORY, Dataset
from owl_stream.engine import Coordinate, Engine, InlineEngine, ProcessEngine
from owl_stream.engine.handle import WorkerDiedError
from owl_stream.wire import BatchHeader, parse_frames
from tests.cli.faulty_shards import slow_bmp
from tests.engine.conftest import running
from tests.engine.faulty import harm
from tests.support.assembly import make_dataset
from tests.support.layouts import others_long
from tests.support.tars import Sample, chat, picture

AT = Coordinate(0, 0, 0, 0, 1, 4)
ENGINES: dict[str, Callable[[], Engine]] = {"inline": InlineEngine, "processes": lambda: ProcessEngine(1)}


def sample(key: str, seed: int, **members: bytes) -> Sample:
    """A sample with one picture."""
    return key, {"json": chat(("<|image|>What?", f"Number {seed}.")), **(members or {"jpg": picture(60, 40, seed)})}


@pytest.fixture
def dataset(layout: str, tmp_path: Path) -> Iterator[Dataset]:
    """Eight samples with pictures, in two steps of four."""
    dataset = make_dataset(tmp_path / "data", [sample(f"s{seed}", seed) for seed in range(8)], layout=layout)
    yield dataset
    dataset.close()


def frame_of(engine: Engine, dataset: Dataset, at: Coordinate = AT) -> bytes:
    """One frame of an engine that is started and stopped for it."""

    async def run() -> bytes:
        async with running(engine):
            return await copied(engine, dataset, at)

    return asyncio.run(run())


async def copied(engine: Engine, dataset: Dataset, at: Coordinate = AT) -> bytes:
    """A frame's bytes."""
    with await engine.frame(dataset, at) as lease:
        return bytes(lease.view)


def rows_of(frame: bytes) -> list[tuple[str, str]]:
    """Status and reason of each row."""
    (parsed,) = parse_frames(frame)
    assert isinstance(parsed.header, BatchHeader)
    return [(row.status, row.reason) for row in parsed.header.rows]


@others_long
def test_fault_131_a_sample_that_never_gets_enough_memory_is_masked_the_same_by_every_engine(dataset: Dataset) -> None:
    """A MemoryError again and again stops no run: that row is masked by name, its neighbours are as they were."""
    harm(dataset, AT, "memory")
    inline, processes = frame_of(InlineEngine(), dataset), frame_of(ProcessEngine(2, sample_cpu_s=3), dataset)
    assert inline == processes
    (status, reason), *others = rows_of(inline)
    assert status == "masked"
    assert NO_MEMORY in reason
    assert others == [("ok", "")] * 3


@pytest.mark.parametrize("kind", ENGINES)
def test_fault_131_a_memory_error_that_does_not_come_again_masks_nothing(
    dataset: Dataset, tmp_path: Path, kind: str
) -> None:
    """It says nothing about the sample, which is good at the second try."""
    expected = frame_of(InlineEngine(), dataset)
    harm(dataset, AT, "memory", once=tmp_path / "happened")
    assert frame_of(ENGINES[kind](), dataset) == expected
    assert (tmp_path / "happened").exists()


def test_fault_131_memory_that_is_there_for_a_sample_alone_is_there_for_it_among_others(dataset: Dataset) -> None:
    """A sample that takes too much beside others only is given what it needs: no error for ever, no mask."""
    expected = frame_of(InlineEngine(), dataset)
    harm(dataset, AT, "crowd")

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            assert await copied(engine, dataset) == expected
            assert (engine.statistics().restarts, engine.statistics().condemned) == (1, 0)
            assert await copied(engine, dataset) == expected
            assert engine.statistics().restarts == 1

    asyncio.run(run())


def test_fault_131_a_decoder_that_takes_gigabytes_is_refused_them(
    dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel refuses a worker more than a picture may take; the sample is condemned, and the log says so, once."""
    harm(dataset, AT, "hoard")

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            frames = await asyncio.gather(copied(engine, dataset), copied(engine, dataset, AT._replace(epoch=1)))
            assert [status for status, _ in rows_of(frames[0])] == ["masked", "ok", "ok", "ok"]
            assert "masked" in [status for status, _ in rows_of(frames[1])]
            assert engine.statistics().condemned == 1

    with caplog.at_level(logging.WARNING, "owl_stream.engine"):
        asyncio.run(run())
    assert sum("is masked from now on" in record.getMessage() for record in caplog.records) == 1


def test_fault_131_an_abort_for_want_of_memory_condemns_alone_too(dataset: Dataset) -> None:
    """A library that aborts where it gets no memory ends its worker, alone too."""
    harm(dataset, AT, "SIGABRT")
    assert "SIGABRT" in rows_of(frame_of(ProcessEngine(1), dataset))[0][1]


def test_fault_132_a_dear_sample_is_the_same_on_servers_of_other_settings(tmp_path: Path) -> None:
    """Seconds of CPU time are more than one server allows and less than another: their frames are equal."""
    samples = [sample("dear", 0, bmp=slow_bmp(2600)), *(sample(f"s{seed}", seed) for seed in range(1, 4))]
    dataset = make_dataset(tmp_path, samples)

    async def hasty() -> bytes:
        async with running(ProcessEngine(1, sample_cpu_s=1)) as engine:
            frame = await copied(engine, dataset)
            assert (engine.statistics().restarts, engine.statistics().condemned) == (1, 0)
            return frame

    frames = [asyncio.run(hasty()), frame_of(ProcessEngine(1, sample_cpu_s=60), dataset)]
    frames.append(frame_of(InlineEngine(), dataset))
    assert frames[0] == frames[1] == frames[2]
    assert rows_of(frames[0]) == [("ok", "")] * 4
    dataset.close()


def test_fault_132_a_sample_of_much_cpu_time_is_not_taken_for_storage_that_stalls(dataset: Dataset) -> None:
    """However short the deadline of a job is, a decoder that never returns is condemned, and the run goes on."""
    harm(dataset, AT, "spin")
    engine = ProcessEngine(1, job_timeout_s=4, sample_cpu_s=60, lone_cpu_s=1)
    assert "CPU-time" in rows_of(frame_of(engine, dataset))[0][1]


def test_fault_132_a_lone_try_that_is_killed_condemns_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's memory killer may choose the lone worker: that says nothing about the sample."""
    expected = frame_of(InlineEngine(), dataset)
    harm(dataset, AT, "memory", once=tmp_path / "happened")

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            assert await copied(engine, dataset) == expected
            assert engine.statistics().condemned == 0

    async def killed(*args: object) -> None:
        raise WorkerDiedError(0, -signal.SIGKILL, True)

    monkeypatch.setattr(ProcessEngine, "_assemble_alone", killed)
    asyncio.run(run())


def test_workers_have_no_limit_of_memory_between_samples(dataset: Dataset) -> None:
    """What is limited is a sample: reading, tokenising and datasets opened later have all memory there is."""

    async def run() -> None:
        async with running(ProcessEngine(1)) as engine:
            await copied(engine, dataset)
            limits = await asyncio.to_thread(Path(f"/proc/{engine.processes[0]}/limits").read_text)
            (line,) = [line for line in limits.splitlines() if line.startswith("Max data size")]
            assert line.split()[3] == "unlimited"

    asyncio.run(run())
