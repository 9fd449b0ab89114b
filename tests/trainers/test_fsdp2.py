"""`examples/fsdp2.py`: killed twice and resumed on other numbers of ranks, the same rows and the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForImageTextToText

from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess
from tests.trainers.model import steps_of

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs have left their logs and checkpoints."""
    directory = tmp_path_factory.mktemp("fsdp2")
    config = small_dataset(
        directory / "data", layout="qwen2_5_vl", samples=28, global_batch_size=8, server={"workers": 0}
    )
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with ServerProcess(config) as server:
        command = [sys.executable, "-m", "tests.trainers.fsdp2", server.url, str(directory)]
        subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


def test_rows_are_those_of_an_undisturbed_run(runs: Path) -> None:
    """Two ranks, one, two: whatever a killed run had done since its checkpoint is done again."""
    killed, again, resumed, undisturbed = (
        steps_of(runs / run) for run in ("killed", "killed-again", "resumed", "undisturbed")
    )
    steps = len(undisturbed) // 2
    assert sorted(undisturbed) == [(epoch, step) for epoch in range(2) for step in range(steps)]
    assert (max(killed), min(again), max(again)) == ((0, 2), (0, 2), (1, 0))
    assert min(resumed) == (1, 0)
    for run in (killed, again, resumed):
        assert run == {step: undisturbed[step] for step in run}
    assert killed | again | resumed == undisturbed


def test_weights_are_those_of_an_undisturbed_run(runs: Path) -> None:
    """At the end, however many ranks computed them; and they are not those of the beginning."""
    ends = []
    for name in ("checkpoints", "others"):
        place = runs / name / (runs / name / "latest").read_text()
        dcp_to_torch_save(place, runs / f"{name}.pt")
        ends.append(torch.load(runs / f"{name}.pt")["model"])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-6)
    begun = AutoModelForImageTextToText.from_pretrained(runs / "model").state_dict()
    assert begun.keys() >= ends[0].keys()
    assert any((begun[name] - weight).abs().max() > 1e-5 for name, weight in ends[0].items())
    assert [place.name for place in (runs / "checkpoints").glob("epoch-*")] == [
        (runs / "checkpoints/latest").read_text()
    ]
