"""Numbers for a trainer's own log: worked out by hand, and in the logs of each trainer."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from owl_client import OwlStreamDataset, OwlStreamLoader
from owl_client.metrics import ReadingMetrics, Trained
from owl_stream.errors import RequestError
from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess

MICROS = 4
"""Micro-batches a step, each of two rows."""
NAMES = {
    "owl/wait_s_per_step",
    "owl/wait_share",
    "owl/loader_is_slower",
    "owl/samples_per_s",
    "owl/tokens_per_s",
    "owl/vision_tokens_per_s",
    "owl/padding_share",
    "owl/masked_rows",
    "owl/filler_rows",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Four steps of eight rows, the last of each pool completed by fillers."""
    config = small_dataset(tmp_path_factory.mktemp("metrics"), samples=28, global_batch_size=8, server={"workers": 0})
    with ServerProcess(config) as server:
        yield server.url


def read(url: str) -> OwlStreamDataset:
    """From the beginning."""
    return OwlStreamDataset(url, micro_batch_size=2)


def test_a_look_is_what_came_since_the_last() -> None:
    """By hand: 10 s, of which 3 were waited, 4 batches in steps of two, and nothing more the second time."""
    trained, now, waited = Trained(), [100.0], [7.0]
    metrics = ReadingMetrics(trained, lambda: waited[0], lambda: now[0])
    trained.batches, trained.attended_tokens, trained.padded_tokens, trained.vision_tokens = 4, 600, 800, 2000
    trained.rows.update(ok=9, repeated=1, masked=2, filler=4)
    now[0], waited[0] = 110.0, 10.0
    assert metrics.look(2) == pytest.approx(
        {
            "owl/wait_s_per_step": 1.5,
            "owl/wait_share": 0.3,
            "owl/loader_is_slower": 1.0,
            "owl/samples_per_s": 1.0,
            "owl/tokens_per_s": 60.0,
            "owl/vision_tokens_per_s": 200.0,
            "owl/padding_share": 0.25,
            "owl/masked_rows": 2.0,
            "owl/filler_rows": 4.0,
        }
    )
    now[0] = 111.0
    assert metrics.look(2) == {}
    trained.batches, trained.padded_tokens = 5, 900
    now[0] = 120.0
    found = metrics.look(2)
    assert (found["owl/wait_s_per_step"], found["owl/loader_is_slower"], found["owl/masked_rows"]) == (0.0, 0.0, 0.0)


def look_at(batches: list[Any], found: dict[str, float]) -> None:
    """Hold numbers against the batches that they are about."""
    assert found.keys() == NAMES
    json.dumps(found)
    rows = [row for batch in batches for row in batch.meta.rows]
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    elements = sum(batch["input_ids"].numel() for batch in batches)
    good = sum(row.status in {"ok", "repeated"} for row in rows)
    assert found["owl/tokens_per_s"] > 0
    assert found["owl/samples_per_s"] / found["owl/tokens_per_s"] == pytest.approx(good / tokens)
    assert found["owl/padding_share"] == pytest.approx(1 - tokens / elements)
    assert 0 <= found["owl/wait_share"] <= 1


def test_a_plain_loop_asks_its_dataset(url: str) -> None:
    """One line; each call is about what came since the last."""
    dataset = read(url)
    assert dataset.metrics() == {}
    batches = []
    for batch in dataset:
        batches.append(batch)
        if len(batches) == 3:
            look_at(batches, dataset.metrics())
            batches = []
    look_at(batches, dataset.metrics())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_with_workers_knows(url: str, workers: int) -> None:
    """Where the dataset does not, it says so."""
    dataset = read(url)
    loader = OwlStreamLoader(dataset, num_workers=workers)
    batches = list(loader)
    found = loader.metrics()
    look_at(batches, found)
    assert found["owl/wait_s_per_step"] > 0, "the first batch is waited for"
    if workers:
        with pytest.raises(RequestError, match="OwlStreamLoader"):
            dataset.metrics()


def test_time_that_a_trainer_takes_is_not_waited_for(url: str) -> None:
    """A slow step; what is asked for beforehand is there at once."""
    dataset = read(url)
    iterator = iter(dataset)
    next(iterator)
    before = dataset.stats().wait_s
    dataset.metrics()
    time.sleep(0.5)
    next(iterator)
    found = dataset.metrics()
    waited_s = dataset.stats().wait_s - before
    assert found["owl/wait_s_per_step"] == pytest.approx(waited_s * MICROS)
    assert found["owl/wait_share"] <= waited_s / 0.5


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hugging_faces_log_has_them(url: str, tmp_path: Path) -> None:
    """Beside each loss, workers or not; not where they are not wanted."""
    from transformers import Trainer, TrainingArguments

    from owl_client.hf import OwlStreamMixin
    from tests.trainers.gradients import Open

    class Owl(OwlStreamMixin, Trainer):
        pass

    class Quiet(Owl):
        log_reading = False

    for kind, workers in ((Owl, 0), (Owl, 1), (Quiet, 0)):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            ignore_data_skip=True,
            logging_steps=2,
            gradient_accumulation_steps=MICROS,
            num_train_epochs=1,
            save_strategy="no",
            dataloader_num_workers=workers,
        )
        trainer = kind(Open(), arguments, train_dataset=read(url))
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(logged) == 2
        for entry in logged:
            assert entry.keys() & NAMES == (NAMES if kind is Owl else set())
            if kind is Owl:
                assert entry["owl/tokens_per_s"] > 0
                assert 0 <= entry["owl/wait_share"] <= 1


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lightnings_loggers_have_them(url: str, tmp_path: Path) -> None:
    """As often as what a module logs, by step; with a loader's workers too."""
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    from tests.trainers.gradients import Open

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Open()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(**batch)["loss"] * batch.meta.loss_weight * MICROS

        def configure_optimizers(self) -> Any:
            import torch

            return torch.optim.SGD(self.parameters(), lr=1e-3)

    for workers in (0, 1):
        dataset: OwlStreamDataset = read(url)
        logger = CSVLogger(str(tmp_path), name=f"workers-{workers}")
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=logger,
            log_every_n_steps=2,
            accumulate_grad_batches=MICROS,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), OwlStreamLoader(dataset, num_workers=workers))
        with open(Path(logger.log_dir) / "metrics.csv") as lines:
            rows = [entry for entry in csv.DictReader(lines) if entry["owl/tokens_per_s"]]
        assert rows[0].keys() >= NAMES
        assert [int(entry["step"]) for entry in rows] == [2, 4]
        assert all(float(entry["owl/tokens_per_s"]) > 0 for entry in rows)
