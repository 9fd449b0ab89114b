"""`examples/fsdp2.py` with a tiny Qwen2.5-VL, logged and killed.

`python -m tests.trainers.fsdp2 URL DIRECTORY` trains two ranks until SIGKILL strikes both, goes on in one process until
SIGKILL strikes it, then on two ranks to the end; and trains undisturbed. What was trained on is left in DIRECTORY, and
the last checkpoints.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import fsdp2 as example

from owl_client import Batch, OwlStreamDataset
from tests.support.families import make_family
from tests.trainers.family import in_ranks
from tests.trainers.model import Log

KILLS = ((0, 3), (1, 1))


def train(url: str, directory: Path, checkpoints: str, log: Log) -> None:
    """The example as it stands, but that rows are logged."""

    class Logged(OwlStreamDataset):
        def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # whatever yields batches
            for batch in super().__iter__():
                log.note(batch.meta)
                yield batch

    example.OwlStreamDataset, example.SAVE_EVERY_STEPS = Logged, 2
    example.main(url, "train", str(directory / "model"), directory / checkpoints)


def main(url: str, directory: Path) -> None:
    """All runs, as forks of this process."""
    make_family("qwen2_5_vl", directory / "model").model().save_pretrained(directory / "model")

    def run(name: str, checkpoints: str, world_size: int, kill_at: tuple[int, int] | None = None) -> list[int]:
        (directory / checkpoints).mkdir(exist_ok=True)
        return in_ranks(lambda: train(url, directory, checkpoints, Log(directory / name, kill_at)), world_size)

    assert run("killed", "checkpoints", 2, KILLS[0]) == [-signal.SIGKILL] * 2
    assert run("killed-again", "checkpoints", 1, KILLS[1]) == [-signal.SIGKILL]
    assert run("resumed", "checkpoints", 2) == [0, 0]
    assert run("undisturbed", "others", 2) == [0, 0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
