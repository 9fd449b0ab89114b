"""`examples/llama_factory.py` with a tiny Qwen2.5-VL, logged and killed.

`python -m tests.trainers.llama_factory URL DIRECTORY` trains two ranks until SIGKILL strikes both, goes on in one
process until SIGKILL strikes it, then on two ranks to the end; and trains undisturbed. It does so with all weights and
with LoRA. Then it compares losses and gradients with a plain loop, and tries what must be refused. What was trained on
is left in DIRECTORY.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import llama_factory as example

from owl_client import OwlStreamDataset
from owl_stream.errors import ConfigError
from tests.support.families import make_family
from tests.trainers.family import ended_by, fork, in_ranks
from tests.trainers.model import Log

EPOCHS, ROWS, KILLS = 2, 2, ((0, 3), (1, 2))
GLOBAL_BATCH = 8
FULL = {
    "finetuning_type": "full",
    "freeze_vision_tower": False,
    "freeze_multi_modal_projector": False,
    "ddp_find_unused_parameters": True,
    "use_reentrant_gc": False,
}
LORA = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "all"}


# transformers 5.6 loads the optimizer to "cpu:0" in ranks on CPUs, which torch does not know. 5.23 loads it to "cpu".
torch.serialization.register_package(
    0, lambda storage: None, lambda storage, place: storage if str(place).startswith("cpu:") else None
)


def train(url: str, directory: Path, checkpoints: str, log: Log | None, **changes: Any) -> Any:
    """The example as it stands, but that rows are logged; returns its trainer."""
    made: list[Any] = []

    class Logged(example.OwlTrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)
            if log is not None and self.is_world_process_zero():
                torch.save(self.model.state_dict(), log.directory / "begun.pt")

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if log is not None:
                log.note(inputs.meta)
            return super().training_step(model, inputs, *args, **kwargs)

    example.OwlTrainer = Logged
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    settings = {
        "model_name_or_path": str(directory / "model"),
        "template": "qwen2_vl",
        "stage": "sft",
        "do_train": True,
        "dataset": "train",
        "output_dir": str(directory / checkpoints),
        "per_device_train_batch_size": ROWS,
        "per_device_eval_batch_size": ROWS,
        "gradient_accumulation_steps": GLOBAL_BATCH // ROWS // ranks,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-3,
        "ignore_data_skip": True,
        "save_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        **({"ddp_backend": "gloo"} if ranks > 1 else {}),
        **(changes if "finetuning_type" in changes else FULL | changes),
    }
    path = directory / f"sft-{os.getpid()}.yaml"
    path.write_text(yaml.safe_dump(settings))
    sys.argv = ["llama_factory.py", str(path)]
    example.main(url)
    return made[0]


def train_and_keep(url: str, directory: Path, checkpoints: str, log: Log, **changes: Any) -> None:
    """Train to the end, and keep the weights."""
    trainer = train(url, directory, checkpoints, log, **changes)
    assert trainer.state.global_step == EPOCHS * trainer.train_dataset.steps_per_epoch
    if trainer.is_world_process_zero():
        torch.save(trainer.model.state_dict(), log.directory / "weights.pt")


def agree(url: str, directory: Path) -> None:
    """Losses and gradients of the first steps are the plain loop's, and the evaluation is a mean over tokens."""
    family = make_family("qwen2_5_vl", directory / "agreeing")
    loaded = example.load_tokenizer  # without torchvision it loads no processor: here is what can be saved like one
    example.load_tokenizer = lambda *args: {**loaded(*args), "processor": family.processor.image_processor}
    evaluation = {"eval_dataset": "train", "eval_strategy": "steps", "eval_steps": 2}
    trainer = train(
        url,
        directory,
        "agreed",
        None,
        max_steps=2,
        learning_rate=0.0,
        max_grad_norm=1e9,
        save_strategy="no",
        **evaluation,
    )
    assert isinstance(trainer, example.CustomSeq2SeqTrainer)
    assert not trainer.model_accepts_loss_kwargs, "what LLaMA-Factory sets for models with a processor"
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["owl/tokens_per_s"] > 0 for entry in logged)
    model, losses, norms, loss = type(trainer.model).from_pretrained(directory / "model"), [], [], 0.0
    model.train()
    for batch in OwlStreamDataset(url, micro_batch_size=ROWS):
        part = model(**batch).loss * batch.meta.loss_weight
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
            if batch.meta.supervised_tokens:
                total += model.eval()(**batch).loss.item() * batch.meta.supervised_tokens
                tokens += batch.meta.supervised_tokens
    (found,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert found == pytest.approx(total / tokens, rel=1e-4)


def be_refused(url: str, directory: Path) -> None:
    """Settings that would do something else than they say, each with the remedy."""
    for wrong, message in (
        ({"packing": True}, "packing: expected none: the server makes the rows"),
        ({"neat_packing": True}, "packing: expected none: the server makes the rows"),
        ({"mask_history": True}, "mask_history: expected none"),
        ({"max_samples": 4}, "max_samples: expected none"),
        ({"val_size": 0.1}, "val_size: expected none"),
        ({"add_tokens": "<new>"}, "add_tokens: expected none"),
        ({"use_asft_loss": True}, "use_asft_loss: expected none: .*OwlStreamMixin's loss"),
        ({"dataset": "train,more"}, "expected one name each: the server mixes datasets"),
        ({"stage": "pt"}, "expected stage: sft and do_train: true"),
    ):
        with pytest.raises(SystemExit, match=message):
            train(url, directory, "refused", None, **wrong)
    for wrong, message in (
        ({"gradient_accumulation_steps": 3}, r"expected gradient_accumulation_steps=\d,.* got 3"),
        ({"ignore_data_skip": False}, "expected ignore_data_skip=True"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(url, directory, "refused", None, **wrong)


def main(url: str, directory: Path) -> None:
    """All runs, as forks of this process."""
    make_family("qwen2_5_vl", directory / "model").model().save_pretrained(directory / "model")

    def run(name: str, checkpoints: str, kill_at: tuple[int, int] | None = None, **changes: Any) -> Any:
        return lambda: train_and_keep(url, directory, checkpoints, Log(directory / name, kill_at), **changes)

    for kind, changes in (("full", FULL), ("lora", LORA)):
        ours, others = f"{kind}-checkpoints", f"{kind}-others"
        assert in_ranks(run(f"{kind}/killed", ours, KILLS[0], **changes)) == [-signal.SIGKILL] * 2
        assert ended_by(fork(run(f"{kind}/killed-again", ours, KILLS[1], **changes))) == -signal.SIGKILL
        assert in_ranks(run(f"{kind}/resumed", ours, **changes)) == [0, 0]
        assert ended_by(fork(run(f"{kind}/undisturbed", others, **changes))) == 0
    for work in (agree, be_refused):
        assert ended_by(fork(lambda: work(url, directory))) == 0, work  # noqa: B023
    steps = OwlStreamDataset(url, micro_batch_size=ROWS).steps_per_epoch
    (directory / "done.json").write_text(json.dumps({"steps": steps}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
