"""Random runs against the oracle: in memory many, on real processes some, and one with a client that is broken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from owl_client import Batch, OwlStreamDataset
from tests.faults.machine import RunMachine
from tests.faults.oracle import BrokenPromiseError
from tests.faults.stages import MemoryStage, ProcessStage
from tests.support.layouts import others_long
from tests.support.server import ServerProcess

QUIET: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "print_blob": False,
    "suppress_health_check": list(HealthCheck),
}


class MemoryRun(RunMachine):
    """In memory."""

    make_stage = MemoryStage


def test_any_run_in_memory_is_the_plan() -> None:
    """Read, checkpoint, restore, kill, cut, corrupt, change world size, switch servers, end epochs, in any order."""
    run_state_machine_as_test(MemoryRun, settings=settings(max_examples=30, stateful_step_count=40, **QUIET))


@pytest.fixture
def stage(steady_config: Path, steady: ServerProcess) -> Iterator[ProcessStage]:
    """Real servers for the runs of one test."""
    stage = ProcessStage(steady_config, steady)
    yield stage
    stage.close()


@others_long
def test_any_run_on_real_processes_is_the_plan(stage: ProcessStage) -> None:
    """The same machine: servers and workers are SIGKILLed, bytes pass through proxies that harm them."""

    class ProcessRun(RunMachine):
        """On real processes."""

        make_stage = staticmethod(lambda: stage)

    run_state_machine_as_test(ProcessRun, settings=settings(max_examples=5, stateful_step_count=25, **QUIET))
    assert min(stage.kills["server"], stage.kills["worker"]) > 0
    assert stage.struck.total() > 3


class CommitsOnPrefetch(OwlStreamDataset):
    """Broken on purpose: its cursor moves when a batch has been received, not when it is yielded."""

    def _yielded(self, batch: Batch) -> None:
        super()._yielded(batch)
        live = self._live() if self._live is not None else None
        assert live is not None
        assert live._pass is not None
        assert live._pass.receiver is not None
        pipe = live._pass.receiver._pipe
        while not pipe._items.qsize():  # the next batch, or the end
            time.sleep(0)
        if pipe._count:
            self._position.move(self._position.cursor.after(self.steps_per_epoch, self.micros_per_step))


class BrokenRun(MemoryRun):
    """With a client that counts what the trainer was never given."""

    client = CommitsOnPrefetch


def test_the_oracle_finds_a_client_that_commits_its_cursor_on_prefetch() -> None:
    """Fault 16 planted: the machine finds a run in which samples are lost."""
    found = settings(max_examples=60, stateful_step_count=40, phases=[Phase.generate], **QUIET)
    with pytest.raises(BrokenPromiseError, match="expected Cursor"):
        run_state_machine_as_test(BrokenRun, settings=found)
