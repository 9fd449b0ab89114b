"""`examples/llama_factory.py`: killed twice and resumed on other numbers of ranks, the same rows and weights."""

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

LLAMA_FACTORY = Path(sys.prefix) / "llamafactory"
"""A folder of its own: it wants older versions of transformers and of Accelerate."""
EPOCHS = 2
KINDS = ("full", "lora")

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.trainers,
]  # ten trainings, on a machine that may do other things too


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs have left their logs. Losses, gradients and refusals were held there too."""
    if not LLAMA_FACTORY.is_dir():
        pytest.skip("LLaMA-Factory is not installed in this environment: `make test-trainers` does that")
    directory = tmp_path_factory.mktemp("llama-factory")
    config = small_dataset(
        directory / "data", layout="qwen2_5_vl", samples=28, global_batch_size=8, server={"workers": 0}
    )
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT}/client:{LLAMA_FACTORY}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with ServerProcess(config) as server:
        command = [sys.executable, "-m", "tests.trainers.llama_factory", server.url, str(directory)]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_twice_trains_on_what_an_undisturbed_one_does(runs: Path, kind: str) -> None:
    """Two ranks, then one process, then two ranks: no row is missing, repeated otherwise or moved."""
    killed, again, resumed, undisturbed = (
        steps_of(runs / kind / run) for run in ("killed", "killed-again", "resumed", "undisturbed")
    )
    steps = json.loads((runs / "done.json").read_text())["steps"]
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(EPOCHS) for step in range(steps)]
    assert (max(killed), min(again)) == ((0, 2), (0, 2)), "steps are saved two at a time"
    assert min(resumed) <= max(again) < (1, 2)
    for run in (killed, again, resumed):
        assert run == {step: undisturbed[step] for step in run}
    assert killed | again | resumed == undisturbed


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_the_weights_of_an_undisturbed_run(runs: Path, kind: str) -> None:
    """All of them, and those of adapters."""
    resumed, undisturbed = (torch.load(runs / kind / run / "weights.pt") for run in ("resumed", "undisturbed"))
    torch.testing.assert_close(resumed, undisturbed, rtol=1e-3, atol=1e-5)
    begun = torch.load(runs / kind / "undisturbed" / "begun.pt")
    moved = [name for name, weight in undisturbed.items() if (weight - begun[name]).abs().max() > 1e-4]
    assert moved, "nothing was learned"
    assert kind == "full" or all("lora_" in name for name in moved)
    assert any("visual" in name for name in moved) == (kind == "full")
