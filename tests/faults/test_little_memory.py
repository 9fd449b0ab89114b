"""Fault 130 where memory is limited for real: a control group with the kernel's memory killer behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cgroup import MemoryGroup
from tests.faults.little_memory import LIMIT_BYTES, run


def test_a_server_within_1600_mb_serves_an_epoch_with_every_poison_picture_in_it(tmp_path: Path) -> None:
    """Each poison picture is refused by name, every other sample is given once, and nothing is killed."""
    try:
        with MemoryGroup(LIMIT_BYTES):
            pass
    except OSError as exc:
        pytest.skip(f"no control group with a memory limit can be made here: {exc}")
    report = run(tmp_path)
    assert not report.failures, report
