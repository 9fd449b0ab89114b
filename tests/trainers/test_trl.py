"""TRL's SFTTrainer, through its own entry point: killed twice, and at another world size the same rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess
from tests.trainers.model import steps_of

TRL = Path(sys.prefix) / "trl"
"""A folder of its own: it brings pyarrow and pandas, which nothing else here needs."""
EPOCHS = 2

pytestmark = pytest.mark.timeout(900)  # seven trainings, on a machine that may do other things too


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs have left their logs. Losses, gradients and refusals were held there too."""
    if not TRL.is_dir():
        pytest.skip("TRL is not installed in this environment: `make test-trl` does that")
    directory = tmp_path_factory.mktemp("trl")
    config = small_dataset(
        directory / "data", layout="qwen2_5_vl", samples=28, global_batch_size=8, server={"workers": 0}
    )
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client:{TRL}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with ServerProcess(config) as server:
        command = [sys.executable, "-m", "tests.trainers.trl_sft", server.url, str(directory)]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


def test_a_run_that_was_killed_twice_trains_on_what_an_undisturbed_one_does(runs: Path) -> None:
    """Two ranks, then one process, then two ranks: no row is missing, repeated otherwise or moved."""
    killed, again, resumed, undisturbed = (
        steps_of(runs / run) for run in ("killed", "killed-again", "resumed", "undisturbed")
    )
    steps = json.loads((runs / "done.json").read_text())["steps"]
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(EPOCHS) for step in range(steps)]
    assert (max(killed), min(again)) == ((0, 2), (0, 2)), "steps are saved two at a time"
    assert min(resumed) <= max(again) < (1, 2)
    for run in (killed, again, resumed):
        assert run == {step: undisturbed[step] for step in run}
    assert killed | again | resumed == undisturbed


def test_it_ends_with_the_weights_of_an_undisturbed_run(runs: Path) -> None:
    """Qwen2.5-VL saves its weights under other names than it has, of which the Trainer itself restores none."""
    resumed, undisturbed = (torch.load(runs / run / "weights.pt") for run in ("resumed", "undisturbed"))
    torch.testing.assert_close(resumed, undisturbed, rtol=1e-3, atol=1e-5)
