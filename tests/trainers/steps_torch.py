"""Ways to train that need torch, Accelerate or transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig, Trainer, TrainerCallback, TrainingArguments

from owl_client.hf import OwlStreamMixin
from tests.trainers.gradients import Named, Open, Trained, dataset_of, gradients_of, plain, token_losses

SMOOTHING = 0.25


class OwlTrainer(OwlStreamMixin, Trainer):
    """The mixin alone."""


class Notes(TrainerCallback):  # type: ignore[misc] # transformers is not followed by mypy
    """Takes the gradients where the optimizer would."""

    def __init__(self, model: nn.Module, trained: Trained) -> None:
        self._model, self._trained = model, trained

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """A step's gradient is whole."""
        self._trained.note(gradients_of(self._model))


class Configured(Open):
    """A model with a configuration, which the Trainer reads before it smooths labels."""

    config = PreTrainedConfig()


def still(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that leaves the weights as they are, so that every step's gradient can be compared."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


def hugging_face(model_type: type[Named], **settings: Any) -> Callable[[str, int, Path], Trained]:
    """The Trainer with some model and settings."""

    def train(url: str, accumulation: int, work: Path) -> Trained:
        model, trained = model_type(), Trained()
        function, evaluate = settings.get("compute_loss_func"), "eval_strategy" in settings
        args = TrainingArguments(
            output_dir=str(work),
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            ignore_data_skip=True,
            use_cpu=True,
            ddp_backend="gloo",
            ddp_find_unused_parameters=True,
            max_grad_norm=0.0,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            **{name: value for name, value in settings.items() if name != "compute_loss_func"},
        )
        optimizer = still(model)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        trainer = OwlTrainer(
            model,
            args,
            train_dataset=dataset_of(url, accumulation),
            eval_dataset=dataset_of(url, accumulation, evaluate=True) if evaluate else None,
            optimizers=(optimizer, schedule),
            compute_loss_func=function,
            callbacks=[Notes(model, trained)],
        )
        trainer.train()
        logged = "eval_loss" if evaluate else "loss"
        trained.losses = [line[logged] for line in trainer.state.log_history if logged in line]
        return trained

    return train


def by_count(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss function that divides a sum by the count that it is given."""
    assert num_items_in_batch is not None
    return token_losses(outputs["logits"], labels).sum() / num_items_in_batch


def by_mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss function that does not care for the count."""
    return token_losses(outputs["logits"], labels).mean()


def accelerated(url: str, accumulation: int, work: Path) -> Trained:
    """The loop of docs/trainers.md on Accelerate."""
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    owl, trained, step_loss = Open(), Trained(), 0.0
    model, optimizer = accelerator.prepare(owl, still(owl))
    for batch in dataset_of(url, accumulation):
        with accelerator.accumulate(model):
            loss = model(**batch)["loss"]
            accelerator.backward(batch.step_loss(loss, accelerator))
            step_loss += batch.step_loss(loss).item()
            if accelerator.sync_gradients:
                trained.note(gradients_of(owl))
                trained.losses.append(accelerator.reduce(torch.tensor(step_loss), "mean").item())
                step_loss = 0.0
            optimizer.step()
            optimizer.zero_grad()
    return trained


def ddp(url: str, accumulation: int, work: Path) -> Trained:
    """The plain loop under DistributedDataParallel, gradients exchanged in every micro-batch."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    model = DistributedDataParallel(Named(), find_unused_parameters=True)
    trained = plain(url, accumulation, model, lambda model, batch: model(**batch)["loss"])
    means = torch.tensor(trained.losses)
    torch.distributed.all_reduce(means)
    trained.losses = (means / torch.distributed.get_world_size()).tolist()
    return trained


def ddp_no_sync(url: str, accumulation: int, work: Path) -> Trained:
    """As `ddp`, gradients exchanged once a step as the section on FSDP says."""
    model, trained = DistributedDataParallel(Named(), find_unused_parameters=True), Trained()
    for batch in dataset_of(url, accumulation):
        whole = batch.meta.state["micro"] == 0
        model.require_backward_grad_sync = whole
        batch.step_loss(model(**batch)["loss"]).backward()
        if whole:
            trained.note(gradients_of(model))
            model.zero_grad()
    return trained


WAYS: dict[str, Callable[[str, int, Path], Trained]] = {
    "ddp": ddp,
    "ddp_no_sync": ddp_no_sync,
    "hf": hugging_face(Named),
    "hf_kwargs": hugging_face(Open),
    "hf_kwargs_local_count": hugging_face(Open, average_tokens_across_devices=False),
    "hf_smoothing": hugging_face(Configured, label_smoothing_factor=SMOOTHING),
    "hf_function_of_count": hugging_face(Named, compute_loss_func=by_count),
    "hf_function_of_mean": hugging_face(Open, compute_loss_func=by_mean),
    "hf_workers": hugging_face(Open, dataloader_num_workers=2),
    "hf_evaluation": hugging_face(Named, eval_strategy="steps", eval_steps=2),
    "hf_evaluation_workers": hugging_face(Open, eval_strategy="epoch", dataloader_num_workers=2),
    "accelerate": accelerated,
}
