"""The command line that the examples share."""

from __future__ import annotations

import argparse
from pathlib import Path


def parse(description: str | None) -> argparse.Namespace:
    """What to train, on which data, and where its checkpoints are."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("url", help="of the owl-stream server: http://loader:8000")
    parser.add_argument("dataset", help="its name there")
    parser.add_argument("model", help="a directory or a name on the hub; the server's `model` is the same one")
    parser.add_argument(
        "checkpoints", type=Path, help="a directory that all nodes share; the run goes on from a checkpoint there"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--save-every", type=int, default=200, help="global steps")
    parser.add_argument("--micro-batch-size", type=int, default=1, help="rows that a rank computes at once")
    parser.add_argument("--zero-stage", type=int, default=2, choices=[1, 2, 3], help="deepspeed_zero.py only")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # some launchers add it
    return parser.parse_args()
