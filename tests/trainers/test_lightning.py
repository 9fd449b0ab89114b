"""Killed under Lightning and resumed: the same rows are trained on, whatever it reads the dataset through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess
from tests.trainers.model import steps_of

pytestmark = pytest.mark.timeout(900)  # some thirty trainings in one fixture, on a machine that may do other things too

STEPS, EPOCHS = 4, 3
MIDDLE = ["dataset", "loader", "our_loader", "our_loader_workers", "our_loader_kept_workers"]
END = ["dataset-end", "loader-end", "our_loader_workers-end"]
FIRST_RESUMED = {**dict.fromkeys(MIDDLE, (1, 2)), **dict.fromkeys(END, (1, 0))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs have left their logs. What the callback refuses was tried there too."""
    directory = tmp_path_factory.mktemp("lightning")
    config = small_dataset(directory / "data", samples=28, global_batch_size=8, server={"workers": 0})
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client", "OMP_NUM_THREADS": "1"}
    with ServerProcess(config) as server:
        command = [sys.executable, "-m", "tests.trainers.steps_lightning", server.url, str(directory)]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


@pytest.mark.parametrize("read", FIRST_RESUMED)
def test_a_killed_run_trains_on_what_an_undisturbed_one_does(runs: Path, read: str) -> None:
    """From a checkpoint in mid-epoch and from one at an epoch's end, which Lightning restores in another way."""
    killed, resumed, undisturbed = (steps_of(runs / read / run) for run in ("killed", "resumed", "undisturbed"))
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    assert min(resumed) == FIRST_RESUMED[read]
    lost = {step for step in killed if step >= min(resumed)}
    assert lost
    assert {step: killed[step] for step in lost} == {step: resumed[step] for step in lost}
    assert {step: rows for step, rows in killed.items() if step not in lost} | resumed == undisturbed


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_the_data_module_is_of_the_package_that_is_in_use(package: str) -> None:
    """Both may be installed, and each takes only its own."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client"}
    code = (
        f"import {package} as used; from owl_client.lightning.data import OwlStreamDataModule as ours; "
        "assert issubclass(ours, used.LightningDataModule)"
    )
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
