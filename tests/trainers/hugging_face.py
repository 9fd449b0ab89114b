"""A fine-tuning script on Hugging Face's Trainer."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainingArguments

from owl_client import OwlStreamDataset
from owl_client.hf import STATE_KEY, OwlStreamMixin
from owl_stream.errors import ConfigError, RequestError
from tests.trainers.model import Log, Model

EPOCHS, SAVE_STEPS = 3, 5


class OwlTrainer(OwlStreamMixin, Trainer):
    """The Trainer as users make it, that also logs rows."""

    rows: Log

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Log the rows first."""
        self.rows.note(inputs.meta)
        return super().training_step(model, inputs, *args, **kwargs)


def train(url: str, checkpoints: Path, log: Log, *, workers: int = 0) -> None:
    """Train, from the newest checkpoint if there is one."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    args = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=dataset.micros_per_step,
        num_train_epochs=EPOCHS,
        ignore_data_skip=True,
        save_steps=SAVE_STEPS,
        dataloader_num_workers=workers,
        use_cpu=True,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        ddp_find_unused_parameters=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = OwlTrainer(Model(), args, train_dataset=dataset)
    trainer.rows = log
    trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")))
    assert trainer.state.global_step == EPOCHS * dataset.steps_per_epoch


def be_refused(url: str, directory: Path) -> None:
    """Arguments and checkpoints under which rows would be skipped or repeated raise, and say what to do."""
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    good = {"output_dir": str(directory), "use_cpu": True, "report_to": [], "disable_tqdm": True, "max_steps": 1}
    good |= {"ignore_data_skip": True, "gradient_accumulation_steps": dataset.micros_per_step, "save_steps": 1}
    for wrong, message in (
        ({"ignore_data_skip": False}, "expected ignore_data_skip=True"),
        ({"train_sampling_strategy": "sequential"}, "expected no train_sampling_strategy, got 'sequential'.*`shuffle`"),
        ({"per_device_train_batch_size": 5}, "expected per_device_train_batch_size=2, .* got 5"),
        ({"gradient_accumulation_steps": 3}, r"expected gradient_accumulation_steps=4,.* got 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            OwlTrainer(Model(), TrainingArguments(**{**good, **wrong}), train_dataset=dataset).train()
    trainer = OwlTrainer(Model(), TrainingArguments(**good), train_dataset=dataset)
    trainer.rows = Log(directory, None)
    trainer.train()
    written = directory / "checkpoint-1" / "trainer_state.json"
    state = json.loads(written.read_text())
    assert state["stateful_callbacks"].pop(STATE_KEY)["step"] == 1
    written.write_text(json.dumps(state))
    with pytest.raises(RequestError, match="step 1 holds no state of the data"):
        trainer.train(resume_from_checkpoint=True)
