"""The gradient of a step is that of one large batch, whoever trains, in however many micro-batches and ranks.

Fault 117 of docs/faults.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from owl_client import OwlStreamDataset
from tests.support.datasets import small_dataset
from tests.support.server import ROOT, ServerProcess
from tests.trainers.gradients import ROWS, SHARES, Named, Trained, plain, token_losses

pytestmark = pytest.mark.timeout(900)  # some fifty trainings in one fixture, on a machine that may do other things too

DEEPSPEED = Path(sys.prefix) / "deepspeed"
"""A folder of its own: transformers and Accelerate import it wherever they see it, which slows every other test."""

SMOOTHING = 0.25
STEPS = 4
TORCH_WAYS = [
    "ddp",
    "ddp_no_sync",
    "hf",
    "hf_kwargs",
    "hf_kwargs_local_count",
    "hf_smoothing",
    "hf_function_of_count",
    "hf_function_of_mean",
    "hf_workers",
    "hf_evaluation",
    "hf_evaluation_workers",
    "accelerate",
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Steps of 8 rows of very different lengths, the last of each pool completed by fillers."""
    config = small_dataset(
        tmp_path_factory.mktemp("gradients"), samples=28, global_batch_size=ROWS, server={"workers": 0}
    )
    with ServerProcess(config) as server:
        yield server.url


def model_loss(model: Any, batch: Any) -> Tensor:
    """The model's own mean."""
    loss: Tensor = model(**batch)["loss"]
    return loss


def smoothed_loss(model: Any, batch: Any) -> Tensor:
    """The mean over learned tokens of (1 - e) * negative log likelihood + e * mean over the vocabulary."""
    logs = -torch.log_softmax(model(**batch)["logits"][:, :-1], dim=-1)
    labels = batch["labels"][:, 1:]
    learned = labels != -100
    right = logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return ((1 - SMOOTHING) * right + SMOOTHING * logs.mean(-1))[learned].mean()


@cache
def mean_over_epoch(url: str) -> float:
    """The mean loss over all learned tokens of an epoch's samples, token by token."""
    model, losses = Named(), []
    for batch in OwlStreamDataset(url, micro_batch_size=1, evaluate=True):
        if batch.meta.rows[0].status == "ok":
            losses.append(token_losses(model(**batch)["logits"], batch["labels"]).detach())
    return torch.cat(losses).mean().item()


@pytest.fixture(scope="module")
def references(url: str) -> Callable[[str], Trained]:
    """The plain loop over whole steps: one rank, one batch a step."""
    known: dict[str, Trained] = {}

    def reference(way: str) -> Trained:
        objective = smoothed_loss if "smoothing" in way else model_loss
        if objective.__name__ not in known:
            known[objective.__name__] = plain(url, 1, Named(), objective)
        whole = known[objective.__name__]
        times = {"hf_evaluation": 2, "hf_evaluation_workers": 1}.get(way)
        return whole if times is None else Trained(whole.gradients, [mean_over_epoch(url)] * times)

    return reference


def run(url: str, directory: Path, library: str) -> Path:
    """All ways of one library, in a process that imports it."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if library == "steps_deepspeed":
        environ |= {"PYTHONPATH": f"{environ['PYTHONPATH']}:{DEEPSPEED}", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "tests.trainers.gradients", url, str(directory), f"tests.trainers.{library}"]
    subprocess.run(command, env=environ, cwd=ROOT, check=True)
    return directory


@pytest.fixture(scope="module")
def with_torch(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where torch, Accelerate and transformers have left theirs."""
    return run(url, tmp_path_factory.mktemp("torch"), "steps_torch")


@pytest.fixture(scope="module")
def with_lightning(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Lightning has left its."""
    return run(url, tmp_path_factory.mktemp("lightning"), "steps_lightning")


@pytest.fixture(scope="module")
def with_deepspeed(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where DeepSpeed has left its."""
    if not DEEPSPEED.is_dir():
        pytest.skip("DeepSpeed is not installed in this environment: `make test-trainers` does that")
    return run(url, tmp_path_factory.mktemp("deepspeed"), "steps_deepspeed")


def compare(directory: Path, way: str, share: tuple[int, int], reference: Trained, most: float) -> None:
    """Every rank's gradient of every step, and the loss that was logged."""
    world_size, accumulation = share
    for rank in range(world_size):
        got = Trained(**torch.load(directory / f"{way}-{world_size}-{accumulation}-{rank}.pt"))
        assert len(got.gradients) == len(reference.gradients) == STEPS
        for mine, theirs in zip(got.gradients, reference.gradients, strict=True):
            assert (mine - theirs).norm() <= most * theirs.norm()
        if rank == 0 and got.losses:
            assert got.losses == pytest.approx(reference.losses, rel=1e-4)  # logs are float32, and rounded


def test_the_comparison_means_something(references: Callable[[str], Trained]) -> None:
    """Steps differ, and so do objectives; the loop's own sum over micro-batches is the reference's."""
    own, smoothed = references("hf"), references("hf_smoothing")
    assert len(own.gradients) == STEPS
    assert all((mine - theirs).norm() > 0.01 * mine.norm() for mine, theirs in pairwise(own.gradients))
    assert all((a - b).norm() > 0.01 * a.norm() for a, b in zip(own.gradients, smoothed.gradients, strict=True))


@pytest.mark.parametrize("share", SHARES, ids=[f"W{w}-accumulation{a}" for w, a in SHARES])
@pytest.mark.parametrize("way", TORCH_WAYS)
def test_a_step_has_the_plain_loops_gradient(
    way: str, share: tuple[int, int], with_torch: Path, references: Callable[[str], Trained]
) -> None:
    """With plain DDP, Accelerate, and the Trainer with the mixin alone, whatever the model and the Trainer count."""
    compare(with_torch, way, share, references(way), 1e-9)


@pytest.mark.parametrize("share", SHARES, ids=[f"W{w}-accumulation{a}" for w, a in SHARES])
@pytest.mark.parametrize("way", ["lightning", "lightning_kwargs", "lightning_workers", "lightning_data_module"])
def test_lightning_has_the_plain_loops_gradient(
    url: str, way: str, share: tuple[int, int], with_lightning: Path, references: Callable[[str], Trained]
) -> None:
    """Also validated in between; the loss that it logs for that is the mean over all tokens of all ranks."""
    whole = references("hf")
    compare(with_lightning, way, share, Trained(whole.gradients, [*whole.losses, mean_over_epoch(url)]), 1e-9)


@pytest.mark.parametrize("share", SHARES, ids=[f"W{w}-accumulation{a}" for w, a in SHARES])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.trainers
def test_deepspeed_has_the_plain_loops_gradient(
    stage: int, share: tuple[int, int], with_deepspeed: Path, references: Callable[[str], Trained]
) -> None:
    """ZeRO, whose gradients are float32 and lie in parts on the ranks."""
    compare(with_deepspeed, f"deepspeed_zero{stage}", share, references("deepspeed"), 1e-6)
