"""With the mixin, accumulated micro-batches of a released class train as one large batch; without it they do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from owl_client import OwlStreamDataset
from owl_client.hf import OwlStreamMixin
from tests.client.peers import NO_WAIT
from tests.support.families import Family, make_family
from tests.support.server import ServerProcess
from tests.support.tars import picture, write_shard

ROWS = 8
"""Of a step: answers of one word to sixty, so that means of micro-batches are far from the mean of all."""


class Mixed(OwlStreamMixin, Trainer):
    """As a user makes it."""


class Plain(Trainer):
    """What one would write without the mixin: the dataset's batches as they are."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches are whole already."""
        return DataLoader(self.train_dataset, batch_size=None)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "internvl", "gemma3"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Family, str]]:
    """A model's family, and a server of samples for it."""
    directory = tmp_path_factory.mktemp(request.param)
    family = make_family(request.param, directory / "model")
    members = []
    for number in range(ROWS):
        turns = [("user", "<|image|>What is it?"), ("assistant", "An owl. " * (1 + 10 * number))]
        record = {"messages": [{"role": role, "content": text} for role, text in turns]}
        members.append((f"s{number}", {"json": json.dumps(record).encode(), "jpg": picture(90, 60, number)}))
    write_shard(directory / "a.tar", members)
    dataset = {"shards": ["a.tar"], "model": "model", "global_batch_size": ROWS}
    path = directory / "owl.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"train": dataset}, "server": {"workers": 0}}))
    with ServerProcess(path) as server:
        yield family, server.url


def step(served: tuple[Family, str], trainer: type[Trainer], rows: int, directory: Path) -> tuple[float, torch.Tensor]:
    """One optimizer step in micro-batches of `rows`: its logged loss, and how far it moved the weights."""
    family, url = served
    model = family.model().train()
    model.config.use_cache = False
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    dataset = OwlStreamDataset(url, "train", backoff=NO_WAIT, micro_batch_size=rows)
    args = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=ROWS // rows,
        max_steps=1,
        ignore_data_skip=True,
        save_strategy="no",
        logging_steps=1,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    made = trainer(
        model, args, train_dataset=dataset, optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0))
    )
    made.train()
    loss = next(entry["loss"] for entry in made.state.log_history if "loss" in entry)
    return loss, torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before


def test_accumulated_micro_batches_are_one_large_batch(served: tuple[Family, str], tmp_path: Path) -> None:
    """Loss and gradient of four micro-batches of two are those of a batch of eight."""
    loss, moved = step(served, Mixed, 2, tmp_path)
    whole_loss, whole_moved = step(served, Mixed, ROWS, tmp_path)
    assert abs(loss - whole_loss) <= 1e-5
    assert (moved - whole_moved).abs().max() <= 1e-5


@pytest.mark.parametrize("served", ["qwen2_5_vl"], indirect=True)
def test_without_the_mixin_qwen_averages_means(served: tuple[Family, str], tmp_path: Path) -> None:
    """Its class takes no count of tokens, so that short answers weigh as much as long ones."""
    whole_loss, whole_moved = step(served, Mixed, ROWS, tmp_path)
    loss, moved = step(served, Plain, 2, tmp_path)
    assert abs(loss - whole_loss) > 1e-4
    assert (moved - whole_moved).norm() > 0.05 * whole_moved.norm()
