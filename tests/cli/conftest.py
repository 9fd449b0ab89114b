"""A small dataset, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Here
from tests.support.datasets import small_dataset


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """The command, run in this process."""
    return Here(capsys)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a small dataset: eight samples in one shard."""
    return small_dataset(tmp_path / "data", samples=8, shards=1)
