"""TRL's SFTTrainer behind the mixin. That it is killed and resumed is in `test_examples.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess

TRL = Path(sys.prefix) / "trl"
"""A folder of its own: it brings pyarrow and pandas, which nothing else here needs."""

pytestmark = [pytest.mark.timeout(900), pytest.mark.trainers]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Steps of eight rows for a tiny Qwen2.5-VL."""
    if not TRL.is_dir():
        pytest.skip("TRL is not installed in this environment: `make test-trainers` does that")
    directory = tmp_path_factory.mktemp("trl")
    config = small_dataset(directory, layout="qwen2_5_vl", samples=28, global_batch_size=8, server={"workers": 0})
    with ServerProcess(config) as server:
        yield server.url


@pytest.mark.parametrize("work", ["agree", "be_refused", "run_snippet"])
def test_trl(work: str, url: str, tmp_path: Path) -> None:
    """Its losses are the plain loop's, wrong settings are refused, and the document's script runs and resumes."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client:{TRL}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.trainers.trl_sft", work, url, str(tmp_path)]
    subprocess.run(command, env=environ, cwd=ROOT, check=True)
