"""Killed under a real trainer library and resumed at another world size: the same rows are trained on, step by step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess
from tests.trainers.model import steps_of

STEPS, EPOCHS = 4, 3
CHECKPOINT, LAST_BEFORE_THE_KILL = (1, 1), (1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of all libraries have left their logs."""
    directory = tmp_path_factory.mktemp("trainers")
    config = small_dataset(directory / "data", samples=28, global_batch_size=8, server={"workers": 0})
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with ServerProcess(config) as server:
        command = [sys.executable, "-m", "tests.trainers.family", server.url, str(directory)]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


@pytest.mark.parametrize("library", ["hugging_face", "accelerate"])
def test_a_killed_run_trains_on_what_an_undisturbed_one_does(runs: Path, library: str) -> None:
    """Two ranks killed by SIGKILL, one process goes on from their checkpoint: no row is missing, repeated or moved."""
    killed, resumed, undisturbed = (steps_of(runs / library / run) for run in ("killed", "resumed", "undisturbed"))
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    assert (max(killed), min(resumed)) == (LAST_BEFORE_THE_KILL, CHECKPOINT)
    lost = {step for step in killed if step >= CHECKPOINT}
    assert {step: killed[step] for step in lost} == {step: resumed[step] for step in lost}
    assert {step: rows for step, rows in killed.items() if step not in lost} | resumed == undisturbed
