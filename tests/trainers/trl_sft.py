"""A fine-tuning script on TRL's SFTTrainer, with a tiny Qwen2.5-VL.

`python -m tests.trainers.trl_sft WORK URL DIRECTORY` runs one of the functions below.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from owl_client import OwlStreamDataset
from owl_client.hf import OwlStreamMixin
from owl_stream.errors import ConfigError
from tests.support.families import Family, make_family
from tests.trainers import snippets

ROWS = 2


class OwlSFT(OwlStreamMixin, SFTTrainer):
    """SFTTrainer as users make it."""


def made(url: str, family: Family, output: Path, **changes: Any) -> OwlSFT:
    """A trainer with good arguments, some of them changed."""
    dataset = OwlStreamDataset(url, micro_batch_size=ROWS)
    evaluated = OwlStreamDataset(url, micro_batch_size=ROWS, evaluate=True)
    arguments = {name: changes.pop(name) for name in ("formatting_func", "data_collator") if name in changes}
    good: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": dataset.micros_per_step,
        "ignore_data_skip": True,
        "logging_steps": 1,
        "max_grad_norm": 1e9,
        "use_cpu": True,
        "bf16": False,
        "ddp_find_unused_parameters": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    return OwlSFT(
        family.model(),
        SFTConfig(**{**good, **changes}),
        train_dataset=dataset,
        eval_dataset=evaluated,
        processing_class=family.tokenizer,
        **arguments,
    )


def agree(url: str, directory: Path) -> None:
    """Losses and gradients of the first steps are the plain loop's, and the evaluation is a mean over tokens."""
    family = make_family("qwen2_5_vl", directory / "agree")
    trainer = made(
        url, family, directory / "agreed", max_steps=2, learning_rate=0.0, eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["owl/tokens_per_s"] > 0 for entry in logged)
    model, losses, norms, loss = family.model().train(), [], [], 0.0
    for batch in OwlStreamDataset(url, micro_batch_size=ROWS):
        part = batch.step_loss(model(**batch).loss)
        part.backward()
        loss += part.item()
        if batch.meta.state["micro"] == 0:
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item())
            losses, loss = [*losses, loss], 0.0
            model.zero_grad()
            if len(losses) == 2:
                break
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, rel=1e-4)
    assert [entry["grad_norm"] for entry in logged] == pytest.approx(norms, rel=1e-4)
    total = tokens = 0.0
    with torch.no_grad():
        for batch in OwlStreamDataset(url, micro_batch_size=ROWS, evaluate=True):
            total += (
                model.eval()(**batch).loss.item() * batch.meta.supervised_tokens if batch.meta.supervised_tokens else 0
            )
            tokens += batch.meta.supervised_tokens
    (found,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert found == pytest.approx(total / tokens, rel=1e-4)
    given = trainer.evaluate(OwlStreamDataset(url, micro_batch_size=ROWS, evaluate=True))
    assert given["eval_loss"] == pytest.approx(found)


def be_refused(url: str, directory: Path) -> None:
    """Settings that would do something else than they say, each with the remedy."""
    family = make_family("qwen2_5_vl", directory / "refused")
    for wrong, message in (
        ({"packing": True}, "expected packing=False, got True: rows come from the server"),
        ({"padding_free": True}, "expected padding_free=False"),
        ({"loss_type": "dft"}, "expected loss_type='nll', got 'dft'.*override mean_loss"),
        ({"assistant_only_loss": True}, "the server's setting `train_on`"),
        ({"completion_only_loss": True}, "the server's setting `train_on`"),
        ({"formatting_func": str}, "formatting_func: expected none"),
        ({"data_collator": list}, "data_collator: expected none"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(url, family, directory / "refused", **wrong)
    for wrong, message in (
        ({"gradient_accumulation_steps": 3}, r"expected gradient_accumulation_steps=\d,.* got 3"),
        ({"ignore_data_skip": False}, "expected ignore_data_skip=True"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(url, family, directory / "refused", **wrong).train()
    _be_made_of_other_classes(url, family, directory)
    with pytest.raises(ConfigError, match="expected an SFTConfig, got NoneType"):
        OwlSFT(family.model(), train_dataset=OwlStreamDataset(url), processing_class=family.tokenizer)


def _be_made_of_other_classes(url: str, family: Family, directory: Path) -> None:
    """A class of TRL's name, and one that takes an argument of its own."""

    class Own(SFTTrainer):
        def __init__(self, *args: Any, flavour: str, **options: Any) -> None:
            super().__init__(*args, **options)
            self.flavour = flavour

    named = type("SFTTrainer", (OwlStreamMixin, SFTTrainer), {})
    owning = type("OwlOwn", (OwlStreamMixin, Own), {})
    for kind, more in ((named, {}), (owning, {"flavour": "sweet"})):
        dataset = OwlStreamDataset(url, micro_batch_size=ROWS)
        config = SFTConfig(output_dir=str(directory / "classes"), use_cpu=True, report_to=[])
        trainer = kind(family.model(), config, train_dataset=dataset, processing_class=family.tokenizer, **more)
        assert trainer.train_dataset is dataset
    assert trainer.flavour == "sweet"


def run_snippet(url: str, directory: Path) -> None:
    """The section of docs/trainers.md as it stands; then once more from its checkpoint, with nothing left to do."""
    family = make_family("qwen2_5_vl", directory / "snippet")
    os.chdir(directory / "snippet")
    names = {"model": family.model(), "tokenizer": family.tokenizer}
    done = snippets.run("TRL", url, names)
    assert done.trainer.state.global_step == done.dataset.steps_per_epoch
    done.trainer.train(resume_from_checkpoint=True)
    assert done.trainer.state.global_step == done.dataset.steps_per_epoch


if __name__ == "__main__":
    torch.set_num_threads(1)
    {work.__name__: work for work in (agree, be_refused, run_snippet)}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
