"""A trainer that can be killed at any instant: `python -m tests.faults.trainer URL DIRECTORY EPOCHS`.

After every batch it appends the batch's line to a log and then, atomically, writes a checkpoint: the state and
the log's length. Started again it cuts the log back to the checkpoint, as a trainer loses the steps behind it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from owl_client import OwlStreamDataset
from tests.support.hashes import batch_line


def train(url: str, directory: Path, epochs: int) -> None:
    """Read to the end of `epochs` epochs, from the last checkpoint if there is one."""
    log, checkpoint = directory / "log", directory / "checkpoint"
    dataset = OwlStreamDataset(url, dtype=torch.uint8, prefetch=1)
    length = 0
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        length = saved["length"]
        dataset.load_state_dict(saved["data"])
    with log.open("ab") as lines:
        lines.truncate(length)
        lines.seek(length)
        epoch = dataset.state_dict()["epoch"]
        while epoch < epochs:
            for batch in dataset:
                lines.write(f"{batch_line(batch)}\n".encode())
                lines.flush()
                length = lines.tell()
                state = {"length": length, "data": dataset.state_dict()}
                temporary = checkpoint.with_suffix(".new")
                temporary.write_text(json.dumps(state))
                os.replace(temporary, checkpoint)
                print(batch.meta.step, flush=True)
            epoch = dataset.state_dict()["epoch"]


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
