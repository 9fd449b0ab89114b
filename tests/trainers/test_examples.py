"""Every example, started as its head says: killed twice and resumed on other numbers of ranks, the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.datasets import small_dataset
from tests.support.families import make_family
from tests.support.server import ROOT, ServerProcess

BIN, FOLDERS = Path(sys.prefix) / "bin", Path(sys.prefix)
REAL = ROOT.parent / "shared" / "data" / "real"
"""Real samples, where they lie beside the checkout; else synthetic ones."""
RANKS, SAVE_EVERY, KILLS = 2, 3, ((0, 5), (0, 10))
HANGS_S = 900.0
ALONE = ("--main_process_port", "0", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
"""What Accelerate would else look for in a file of its user's."""

pytestmark = [pytest.mark.timeout(3600), pytest.mark.trainers]


@dataclass(frozen=True)
class Example:
    """A script, how it is started on so many ranks, and where its library is if not among the others."""

    script: str
    launcher: str
    options: tuple[str, ...] = ()
    folder: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    converts: bool = False
    """Whether a checkpoint is converted before another number of ranks goes on from it."""

    def command(self, ranks: int, *arguments: str) -> list[str]:
        """A command line."""
        wrapped = ("--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
        launchers: dict[str, tuple[Any, ...]] = {
            "torchrun": (BIN / "torchrun", "--standalone", "--nproc-per-node", ranks),
            "accelerate": (BIN / "accelerate", "launch", "--use_fsdp", *wrapped, "--num_processes", ranks, *ALONE),
            "deepspeed": (FOLDERS / "deepspeed/bin/deepspeed", "--num_accelerators", ranks),
            "python": (sys.executable,),
        }
        script = ROOT / "examples" / self.script
        return [str(part) for part in (*launchers[self.launcher], script, *arguments, *self.options)]


EXAMPLES = {
    "ddp": Example("ddp.py", "torchrun"),
    "hugging_face": Example("hugging_face.py", "torchrun"),
    "trl": Example("trl_sft.py", "torchrun", folder="trl"),
    "lightning": Example("lightning_ddp.py", "python"),
    "fsdp2": Example("fsdp2.py", "torchrun"),
    "accelerate_fsdp": Example("accelerate_fsdp.py", "accelerate", environ={"OWL_OBSERVED_FSDP": "1"}),
    "zero2": Example("deepspeed_zero.py", "deepspeed", ("--zero-stage", "2"), "deepspeed", converts=True),
    "zero3": Example("deepspeed_zero.py", "deepspeed", ("--zero-stage", "3"), "deepspeed", converts=True),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a tiny Qwen2.5-VL with random weights."""
    directory = tmp_path_factory.mktemp("model")
    make_family("qwen2_5_vl", directory).model().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of one epoch of at least 14 steps."""
    directory = tmp_path_factory.mktemp("data")
    if REAL.is_dir():
        dataset = {
            "shards": [f"{REAL}/*.tar"],
            "model": str(model),
            "global_batch_size": 8,
            "max_length": 4096,
            "vision": {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28},
        }
        config = directory / "owl-stream.yaml"
        config.write_text(yaml.safe_dump({"datasets": {"train": dataset}, "server": {"workers": 0}}))
    else:
        config = small_dataset(directory, layout="qwen2_5_vl", samples=112, global_batch_size=8, server={"workers": 0})
    with ServerProcess(config) as server:
        yield server.url


@dataclass
class Run:
    """What was trained on, by step of the epoch: rows of all ranks, and the mean loss over their tokens."""

    rows: dict[int, list[list[str]]]
    losses: dict[int, float]

    @classmethod
    def of(cls, directory: Path) -> Run:
        """As all processes have logged it."""
        run = cls({}, {})
        for path in directory.glob("rows.*"):
            for line in path.read_text().splitlines():
                epoch, step, rows, loss = json.loads(line)
                assert epoch == 0
                run.rows.setdefault(step, []).extend(rows)
                run.losses[step] = run.losses.get(step, 0.0) + loss
        run.rows = {step: sorted(rows) for step, rows in run.rows.items()}
        return run


def start(
    example: Example, url: str, model: Path, directory: Path, checkpoints: str, name: str, ranks: int, kill: str
) -> int:
    """Run an example to its end; returns its launcher's exit status."""
    path = [
        ROOT,
        ROOT / "client",
        ROOT / "tests/trainers/observed",
        *([FOLDERS / example.folder] if example.folder else []),
    ]
    environ = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, path)),
        "OWL_OBSERVED_ROWS": str(directory / name),
        "OWL_OBSERVED_KILL": kill,
        "CPU_RANKS": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(model / "extensions"),  # the user's may hold the lock of a killed compiler
        "PATH": f"{BIN}:{os.environ['PATH']}",
        **example.environ,
    }
    options = ["--save-every", str(SAVE_EVERY), "--micro-batch-size", "2", "--learning-rate", "1e-3"]
    command = example.command(ranks, url, "train", str(model), str(directory / checkpoints), *options)
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.run(
            command, env=environ, cwd=directory, stdout=log, stderr=log, timeout=HANGS_S, check=False
        ).returncode


def convert(checkpoints: Path) -> None:
    """As the head of `deepspeed_zero.py` says."""
    latest = checkpoints / (checkpoints / "latest").read_text()
    folders = ["--input_folder", str(latest), "--output_folder", f"{latest}_universal"]
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", *folders]
    environ = {**os.environ, "PYTHONPATH": str(FOLDERS / "deepspeed"), "DS_ACCELERATOR": "cpu"}
    subprocess.run(command, env=environ, check=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_that_was_killed_twice_trains_as_an_undisturbed_one(
    name: str, url: str, model: Path, tmp_path: Path
) -> None:
    """Two ranks, one, two: no row is missing or moved, and losses are those of the weights of an undisturbed run."""
    example = EXAMPLES[name]
    if example.folder and not (FOLDERS / example.folder).is_dir():
        pytest.skip(f"{example.folder} is not installed in this environment: `make test-trainers` does that")
    for run, ranks, kill in (("killed", RANKS, KILLS[0]), ("again", 1, KILLS[1]), ("resumed", RANKS, None)):
        if example.converts and run != "killed":
            convert(tmp_path / "checkpoints")
        code = start(example, url, model, tmp_path, "checkpoints", run, ranks, " ".join(map(str, kill or ())))
        assert (code == 0) == (kill is None), (tmp_path / f"{run}.log").read_text()[-4000:]
    code = start(example, url, model, tmp_path, "others", "undisturbed", RANKS, "")
    assert code == 0, (tmp_path / "undisturbed.log").read_text()[-4000:]
    killed, again, resumed, undisturbed = (
        Run.of(tmp_path / run) for run in ("killed", "again", "resumed", "undisturbed")
    )
    assert sorted(undisturbed.rows) == list(range(len(undisturbed.rows)))
    assert len(undisturbed.rows) >= 14
    assert (max(killed.rows), max(again.rows), max(resumed.rows)) == (4, 9, len(undisturbed.rows) - 1)
    assert (min(again.rows), min(resumed.rows)) == (3, 9), "steps are saved three at a time"
    for run in (killed, again, resumed):
        assert run.rows == {step: undisturbed.rows[step] for step in run.rows}
        assert run.losses == pytest.approx({step: undisturbed.losses[step] for step in run.losses}, rel=2e-3)
    assert len(set(undisturbed.losses.values())) == len(undisturbed.losses), "it learns"
