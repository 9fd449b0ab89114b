"""What the mixin for Hugging Face's Trainer refuses, and how it evaluates and predicts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from owl_client import OwlStreamDataset
from owl_client.hf import OwlStreamMixin, newest_checkpoint
from owl_stream.errors import ConfigError
from tests.client.peers import memory_dataset
from tests.client.world import World
from tests.support.datasets import small_dataset
from tests.support.server import ServerProcess
from tests.trainers.gradients import Named, Open, token_losses

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # depends on the machine

WORLD = World(steps=2)


class OwlTrainer(OwlStreamMixin, Trainer):
    """The mixin alone."""


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    """What transformers warns of in its own code is not ours to mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        yield


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Steps of 8 rows, the last ones completed by fillers."""
    config = small_dataset(tmp_path_factory.mktemp("hf"), samples=28, global_batch_size=8, server={"workers": 0})
    with ServerProcess(config) as server:
        yield server.url


def arguments(directory: Path, **changes: Any) -> TrainingArguments:
    """Good ones, changed."""
    good: dict[str, Any] = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "ignore_data_skip": True}
    return TrainingArguments(output_dir=str(directory), **{**good, "save_strategy": "no", **changes})


def overriding() -> None:
    """The snippet of older docs, which multiplied by the accumulation."""

    class Mine(OwlStreamMixin, Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            return model(**inputs)["loss"]


def behind() -> None:
    """The mixin behind the Trainer, where nothing of it would be called."""

    class Mine(Trainer, OwlStreamMixin):  # type: ignore[misc] # on purpose
        pass


def between() -> None:
    """Another class between the user's and the mixin."""

    class Base(OwlStreamMixin):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    class Mine(Base, Trainer):
        pass


@pytest.mark.parametrize("make", [overriding, behind, between])
def test_a_loss_on_top_of_the_mixins_is_refused(make: Callable[[], None]) -> None:
    """When the class is written, not after an epoch: the error names what to override instead."""
    with pytest.raises(ConfigError, match=r"override mean_loss\(model, inputs\)"):
        make()


def test_a_loss_put_onto_a_trainer_is_refused(tmp_path: Path) -> None:
    """An attribute of the instance counts too."""
    trainer = OwlTrainer(Named(), arguments(tmp_path), train_dataset=memory_dataset(WORLD))
    trainer.compute_loss = lambda *_, **__: None
    with pytest.raises(ConfigError, match="this Trainer: compute_loss must be"):
        trainer.train()


def test_the_trainer_without_the_mixin_is_refused(tmp_path: Path) -> None:
    """Its default collation would stack one batch into [1, B, L] without a word."""
    args = arguments(tmp_path, per_device_train_batch_size=1, max_steps=1)
    with pytest.raises(ConfigError, match="put OwlStreamMixin before it"):
        Trainer(Named(), args, train_dataset=memory_dataset(WORLD)).train()
    trainer = Trainer(Named(), args, eval_dataset=memory_dataset(WORLD, evaluate=True))
    with pytest.raises(ConfigError, match="put OwlStreamMixin before it"):
        trainer.evaluate()


def test_datasets_in_each_others_place_are_refused(tmp_path: Path) -> None:
    """Training on epoch 0 again and again, or evaluating on other batches each time."""
    train, evaluated = memory_dataset(WORLD), memory_dataset(WORLD, evaluate=True)
    with pytest.raises(ConfigError, match="train_dataset: expected a dataset without evaluate=True"):
        OwlTrainer(Named(), arguments(tmp_path), train_dataset=evaluated).train()
    trainer = OwlTrainer(Named(), arguments(tmp_path), train_dataset=train, eval_dataset={"a": evaluated, "b": train})
    for wrong in (lambda: trainer.get_eval_dataloader("b"), lambda: trainer.predict(train)):
        with pytest.raises(ConfigError, match=r"expected OwlStreamDataset\(\.\.\., evaluate=True\)"):
            wrong()
    assert len(list(trainer.get_eval_dataloader("a"))) == 2


def test_a_trainer_that_scales_otherwise_is_stopped_in_its_first_step(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of transformers that divides anyway: the error says by how much the loss is off."""
    own = Trainer.training_step

    def divided(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs) / 4

    monkeypatch.setattr(Trainer, "training_step", divided)
    with pytest.raises(ConfigError, match=r"has made a loss of [\d.]+ where [\d.]+ was expected"):
        OwlTrainer(Named(), arguments(tmp_path), train_dataset=OwlStreamDataset(url)).train()


@pytest.mark.parametrize("model_type", [Named, Open])
def test_evaluation_is_exact_and_repeats(url: str, tmp_path: Path, model_type: type[Named]) -> None:
    """Metrics of several datasets, logits for `compute_metrics`, samples counted as samples; each time the same."""
    seen: list[tuple[Any, Any]] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append((prediction.predictions, prediction.label_ids))
        return {"rows": float(len(prediction.label_ids))}

    model = model_type()
    dataset = OwlStreamDataset(url, micro_batch_size=2, evaluate=True)
    trainer = OwlTrainer(model, arguments(tmp_path), eval_dataset={"x": dataset, "y": dataset}, compute_metrics=metrics)
    first = trainer.evaluate()
    again = trainer.evaluate(dataset)
    assert first["eval_x_loss"] == first["eval_y_loss"] == again["eval_loss"] == pytest.approx(whole(url), rel=1e-6)
    assert first["eval_x_rows"] == 32
    predictions, labels = seen[0]
    assert predictions.shape[:2] == labels.shape[:2] == (32, labels.shape[1])
    output = trainer.predict(dataset)
    assert output.metrics["test_loss"] == again["eval_loss"]
    loop = trainer.evaluation_loop(trainer.get_eval_dataloader(dataset), "Evaluation", prediction_loss_only=True)
    assert loop.num_samples == 28


def whole(url: str) -> float:
    """The mean over all learned tokens of the samples."""
    model = Named()
    losses = [
        token_losses(model(**batch)["logits"], batch["labels"]).detach()
        for batch in OwlStreamDataset(url, micro_batch_size=1, evaluate=True)
        if batch.meta.rows[0].status == "ok"
    ]
    return torch.cat(losses).mean().item()


class Doubled(OwlStreamMixin, Trainer):
    """A loss of one's own, where it belongs."""

    def mean_loss(self, model: Any, inputs: Any) -> tuple[torch.Tensor, Any]:
        """Twice the model's."""
        loss, outputs = super().mean_loss(model, inputs)
        return 2 * loss, outputs


def test_a_loss_of_ones_own_is_weighed_like_the_models(url: str, tmp_path: Path) -> None:
    """`mean_loss` is scaled, logged and evaluated by the mixin."""
    dataset = OwlStreamDataset(url, micro_batch_size=2)
    logged = []
    for trainer_type in (OwlTrainer, Doubled):
        args = arguments(
            tmp_path, gradient_accumulation_steps=4, max_steps=1, logging_steps=1, learning_rate=0.0, eval_steps=1
        )
        trainer = trainer_type(
            Open(), args, train_dataset=dataset, eval_dataset=OwlStreamDataset(url, micro_batch_size=2, evaluate=True)
        )
        dataset.set_epoch(0)
        trainer.train()
        logged.append((trainer.state.log_history[0]["loss"], trainer.evaluate()["eval_loss"]))
        dataset.close()
    assert logged[1] == pytest.approx([2 * each for each in logged[0]], rel=1e-4)


def test_ordinary_data_are_trained_on_and_evaluated_as_ever(tmp_path: Path) -> None:
    """With anybody else's dataset the mixin stands aside, and loss kwargs are the Trainer's business again."""
    items = [
        {
            "input_ids": torch.arange(4) + i,
            "attention_mask": torch.ones(4, dtype=torch.int64),
            "labels": torch.arange(4),
        }
        for i in range(4)
    ]
    losses = []
    for trainer_type in (Trainer, OwlTrainer):
        args = arguments(
            tmp_path,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=2,
            logging_steps=1,
            seed=0,
            label_names=["labels"],
            remove_unused_columns=False,
        )
        trainer = trainer_type(Open(), args, train_dataset=items, eval_dataset=items)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        losses[-1].append(trainer.evaluate()["eval_loss"])
    assert losses[0] == losses[1]


def test_weights_of_several_types_are_restored_exactly(tmp_path: Path) -> None:
    """By the names and in the types that the model has; from what is no checkpoint of it, nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from owl_client.hf.checkpoint import restore_weights

    def made(vocabulary: int = 64) -> Any:
        tiny = LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        model = LlamaForCausalLM(tiny).to(torch.bfloat16)
        model.lm_head.float()
        torch.nn.init.normal_(model.lm_head.weight)
        return model

    saved, other = made(), made()
    saved.save_pretrained(tmp_path / "saved")
    assert restore_weights(other, str(tmp_path / "saved"))
    for name, weight in saved.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name
        assert other.state_dict()[name].dtype == weight.dtype
    for place, model in ((tmp_path, other), (tmp_path / "saved", made(65))):
        with pytest.raises(ConfigError, match="expected weights of LlamaForCausalLM"):
            restore_weights(model, str(place))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accelerator_config": {"dispatch_batches": True}}, "expected dispatch_batches=False"),
        ({"accelerator_config": {"split_batches": True}}, "expected split_batches=False"),
        ({"dataloader_drop_last": True}, "expected dataloader_drop_last=False"),
        ({"auto_find_batch_size": True}, "expected auto_find_batch_size=False.* smaller micro_batch_size"),
    ],
)
def test_settings_that_would_deal_batches_out_again_are_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    """For training and for evaluation, with the remedy."""
    trained, evaluated = memory_dataset(WORLD), memory_dataset(WORLD, evaluate=True)
    trainer = OwlTrainer(Named(), arguments(tmp_path, **wrong), train_dataset=trained, eval_dataset=evaluated)
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(ConfigError, match=message):
            run()


def test_the_newest_whole_checkpoint_is_gone_on_from(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The Trainer writes its state last: a folder without it, or with half of it, was left by a kill."""
    assert newest_checkpoint(tmp_path / "missing") is None
    settings = arguments(tmp_path, gradient_accumulation_steps=4, max_steps=1, save_strategy="steps", save_steps=1)
    trainer = OwlTrainer(Named(), settings, train_dataset=OwlStreamDataset(url, micro_batch_size=2))
    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    for name, text in (("checkpoint-20", None), ("checkpoint-3", "{"), ("checkpoint-x", "{}")):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "trainer_state.json").write_text(text)
    assert newest_checkpoint(tmp_path) is None
    trainer.train(resume_from_checkpoint=True)
    assert "no checkpoint is whole; training begins anew" in caplog.text
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    settings.max_steps = 2
    trainer.train(resume_from_checkpoint=True)
    assert trainer.last_trained is not None
    assert (trainer.state.global_step, trainer.last_trained["step"]) == (2, 2), "it went on behind the first"
