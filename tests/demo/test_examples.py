"""The example that the README shows: it trains against a real server, and a killed trainer goes on where it saved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from owl_stream.demo import training
from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess

TRAIN = Path(__file__).resolve().parents[2] / "examples" / "train.py"


def start(server: ServerProcess, directory: Path) -> subprocess.Popen[str]:
    """The example as its own process; one thread, so that sums come out alike."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), server.url, "train"],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The second run begins with the step behind the checkpoint, at the very loss that the first run had there."""
    config = small_dataset(tmp_path / "data", samples=16, global_batch_size=8, server={"workers": 0})
    with ServerProcess(config) as server:
        first = start(server, tmp_path)
        assert first.stdout is not None
        seen = next(line for line in first.stdout if line.startswith("epoch 1 step 0"))
        first.kill()
        first.communicate()
        second = start(server, tmp_path)
        lines = second.communicate()[0].splitlines()
    assert second.returncode == 0
    assert lines[0] == seen.strip()
    places = [tuple(map(int, re.findall(r"\d+", line)[:2])) for line in lines]
    assert places == [(epoch, step) for epoch in (1, 2) for step in range(len(lines) // 2)]
    assert float(lines[-1].split()[-1]) < float(lines[0].split()[-1])


def test_the_demo_finds_the_model_in_the_source_tree() -> None:
    """An editable install has no copy of the examples inside the package."""
    module = training.load_tiny_owl3()
    assert Path(str(module.__file__)) == TRAIN.with_name("tiny_owl3.py")


def test_an_installed_demo_carries_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy that a wheel holds beside the demo wins: no examples directory lies beside an installed package."""
    copy = tmp_path / "demo" / "_examples" / "tiny_owl3.py"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(TRAIN.with_name("tiny_owl3.py").read_bytes())
    monkeypatch.setattr(training, "__file__", str(tmp_path / "demo" / "training.py"))
    assert training.load_tiny_owl3().TinyOwl3.__module__ == "owl_stream_demo_tiny_owl3"
    assert Path(str(sys.modules["owl_stream_demo_tiny_owl3"].__file__)) == copy
