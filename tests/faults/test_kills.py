"""Server, worker and trainer are killed for real; what the trainer was given is what an undisturbed one was given."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from owl_client import OwlStreamDataset
from tests.faults.comparison import Differences, compare
from tests.faults.kills import run
from tests.faults.trainer import Trainer
from tests.faults.warm import children
from tests.support.datasets import small_dataset
from tests.support.hashes import batch_line
from tests.support.layouts import OWL, QWEN, others_long
from tests.support.server import ServerProcess

EPOCHS = 2


@pytest.fixture(scope="module")
def config(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of megabytes, so that a server that is killed while a reader waits is in the middle of one."""
    directory = tmp_path_factory.mktemp("kills")
    return small_dataset(directory, layout=layout, image_size=224, server={"prefetch_bytes": 8 << 20})


@pytest.fixture
def server(config: Path) -> Iterator[ServerProcess]:
    """A server to be harmed."""
    with ServerProcess(config) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> list[str]:
    """What a reader gets when nothing happens."""
    with ServerProcess(config) as server:
        return read(server.url)


def read(url: str) -> list[str]:
    """The lines of all batches of the first epochs."""
    dataset = OwlStreamDataset(url, dtype=torch.uint8)
    return [batch_line(batch) for _ in range(EPOCHS) for batch in dataset]


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the server's workers."""
    assert server.process is not None
    return children(server.process.pid)


@others_long
def test_two_undisturbed_runs_are_equal(server: ServerProcess, undisturbed: list[str]) -> None:
    """The comparison below means something: runs are long, all lines differ, and another server gives the same."""
    assert len(set(undisturbed)) == len(undisturbed) == EPOCHS * 11
    assert read(server.url) == undisturbed


@pytest.mark.parametrize(
    ("carrier", "layout"),
    [("memory", OWL), ("socket", OWL), pytest.param("memory", QWEN, marks=pytest.mark.long)],
    indirect=["layout"],
    scope="session",
)
def test_fault_1_a_server_killed_in_the_middle_of_a_frame_loses_nothing(
    config: Path, undisturbed: list[str], carrier: str
) -> None:
    """SIGKILL at several places of two epochs, restart on the same port: the same batches in the same order."""
    with ServerProcess(config, env={"OWL_SERVER__SHARED_MEMORY": str(carrier == "memory")}) as server:
        read_while_it_is_killed(server, undisturbed)


def read_while_it_is_killed(server: ServerProcess, undisturbed: list[str]) -> None:
    """Read two epochs of a server that is killed three times."""
    dataset = OwlStreamDataset(server.url, dtype=torch.uint8, prefetch=1)
    lines = []
    for _ in range(EPOCHS):
        for batch in dataset:
            lines.append(batch_line(batch))
            if len(lines) in (2, 9, 15):
                server.kill()
                server.start()
    assert lines == undisturbed
    assert dataset.stats().reconnects >= 3


@others_long
def test_fault_22_ten_kills_in_a_row_lose_nothing(server: ServerProcess, undisturbed: list[str]) -> None:
    """Workers and server in turn, killed after every other batch."""
    dataset = OwlStreamDataset(server.url, dtype=torch.uint8, prefetch=1)
    lines, kills = [], 0
    for _ in range(EPOCHS):
        for batch in dataset:
            lines.append(batch_line(batch))
            if len(lines) % 2 == 0 and kills < 10:
                kills += 1
                if kills % 3:
                    os.kill(workers(server)[kills % len(workers(server))], signal.SIGKILL)
                else:
                    server.kill()
                    server.start()
    assert kills == 10
    assert lines == undisturbed


@others_long
def test_fault_4_workers_killed_in_the_middle_of_batches_lose_nothing(
    server: ServerProcess, undisturbed: list[str]
) -> None:
    """Every worker is killed after every third batch; nothing is masked and no byte differs."""
    dataset = OwlStreamDataset(server.url, dtype=torch.uint8, prefetch=1)
    lines = []
    for _ in range(EPOCHS):
        for batch in dataset:
            lines.append(batch_line(batch))
            if len(lines) % 3 == 0:
                for pid in workers(server):
                    os.kill(pid, signal.SIGKILL)
    assert lines == undisturbed
    assert dataset.stats().rows.get("masked", 0) == 0


@others_long
def test_fault_3_and_16_a_killed_trainer_goes_on_at_its_checkpoint(
    server: ServerProcess, undisturbed: list[str], tmp_path: Path
) -> None:
    """SIGKILL of the trainer at many places, started again each time: its log is that of an undisturbed run."""
    trainer = Trainer([server.url], tmp_path / "trainer", {"prefetch": 1})
    for batches in (1, 4, 3, 5):
        trainer.start()
        trainer.advance(batches)
        trainer.kill()
    assert trainer.finish(EPOCHS) == undisturbed


def test_faults_1_3_and_4_fifty_one_kills_in_turn(tmp_path: Path) -> None:
    """Faults 1, 3, 4, 16 and 22: what `python -m tests.faults.kills` does a thousand times, done 51 times."""
    report = run(tmp_path, count=51, seed=1)
    assert report.kills == {"server": 17, "worker": 17, "trainer": 17}
    assert report.differences == Differences(0, 0, 0, 0)


def test_faults_1_3_and_4_nine_kills_in_turn_of_patches_and_videos(tmp_path: Path) -> None:
    """The same with pictures of native resolution and videos; `--layout qwen2_5_vl` does it a thousand times."""
    report = run(tmp_path, count=9, seed=2, layout=QWEN)
    assert report.kills == {"server": 3, "worker": 3, "trainer": 3}
    assert report.differences == Differences(0, 0, 0, 0)


def test_the_comparison_counts_each_kind() -> None:
    """A lost, a doubled, a moved and a changed batch are each seen."""
    lines = [f"0 {step} 0 {step:x}" for step in range(6)]
    assert compare(lines, lines).none
    assert compare(lines, lines[:2] + lines[3:]) == Differences(1, 0, 0, 0)
    assert compare(lines, [*lines, lines[0]]) == Differences(0, 1, 1, 0)
    assert compare(lines, [lines[1], lines[0], *lines[2:]]) == Differences(0, 0, 1, 0)
    assert compare(lines, [*lines[:5], "0 5 0 ff"]) == Differences(0, 0, 0, 1)
    assert compare(lines, [*lines, "1 0 0 0"]) == Differences(0, 0, 0, 1)


@others_long
def test_fault_15_the_second_url_takes_over(config: Path, undisturbed: list[str]) -> None:
    """The first server dies in the middle of an epoch and stays dead: the second one's batches continue it."""
    with ServerProcess(config) as first, ServerProcess(config) as second:
        dataset = OwlStreamDataset([first.url, second.url], dtype=torch.uint8, prefetch=1)
        lines = []
        for _ in range(EPOCHS):
            for batch in dataset:
                lines.append(batch_line(batch))
                if len(lines) == 4:
                    first.kill()
        assert lines == undisturbed
