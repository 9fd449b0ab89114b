"""Arguments of the Trainer under which rows would be skipped, torn or trained on twice, refused at the start."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from owl_client.dataset import OwlStreamDataset
from owl_stream.errors import ConfigError

_UNSET_BATCH_SIZE = 8
"""What `per_device_train_batch_size` is where nobody gave it."""


def check_training(dataset: OwlStreamDataset, args: TrainingArguments, accelerator: Any) -> None:
    """Refuse what cannot be exact.

    Raises:
        ConfigError: the argument is named, and what was expected.
    """
    if dataset.evaluate:
        raise ConfigError(
            "train_dataset: expected a dataset without evaluate=True, which would train on its epoch 0 again and again"
        )
    if not args.ignore_data_skip:
        raise ConfigError(
            "TrainingArguments: expected ignore_data_skip=True, for the dataset resumes by itself; Trainer would read "
            "and throw away what comes after"
        )
    if args.gradient_accumulation_steps != dataset.micros_per_step:
        raise ConfigError(
            f"TrainingArguments: expected gradient_accumulation_steps={dataset.micros_per_step}, the micro-batches "
            f"that a rank gets of a global step, got {args.gradient_accumulation_steps}"
        )
    if (strategy := getattr(args, "train_sampling_strategy", "random")) != "random":
        raise ConfigError(
            f"TrainingArguments: expected no train_sampling_strategy, got {strategy!r}: the server's plan samples; "
            f"its settings are `shuffle`, and `bucket_window` for steps of rows of like lengths"
        )
    rows = dataset.micro_batch_size
    if args.per_device_train_batch_size not in {rows, _UNSET_BATCH_SIZE}:
        raise ConfigError(
            f"TrainingArguments: expected per_device_train_batch_size={rows}, the dataset's micro_batch_size, got "
            f"{args.per_device_train_batch_size}; give the dataset as many"
        )
    check_processes(args, accelerator)


def check_evaluation(dataset: OwlStreamDataset, args: TrainingArguments, accelerator: Any) -> None:
    """As `check_training`, for a dataset that the Trainer evaluates on.

    Raises:
        ConfigError: the argument is named, and what was expected.
    """
    if not dataset.evaluate:
        raise ConfigError(
            "eval_dataset: expected OwlStreamDataset(..., evaluate=True), which begins at its beginning each time; "
            "this one would give other batches at each evaluation"
        )
    check_processes(args, accelerator)


def check_processes(args: TrainingArguments, accelerator: Any) -> None:
    """Every process must be one data-parallel rank that computes whole rows, and nothing may deal batches out again.

    Raises:
        ConfigError: it is not.
    """
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process would cut every tensor for {args.n_gpu} GPUs along its first dimension, and pixel_values "
            f"have another one than input_ids; start one process per GPU with torchrun or accelerate launch"
        )
    if args.auto_find_batch_size:
        raise ConfigError(
            "TrainingArguments: expected auto_find_batch_size=False, got True: the server makes the batches; give the "
            "dataset a smaller micro_batch_size"
        )
    for name in ("dispatch_batches", "split_batches"):
        if getattr(args.accelerator_config, name, None):
            raise ConfigError(
                f"accelerator_config: expected {name}=False, got True: every rank reads its own whole batches, which "
                f"nobody may cut or hand around; leave it out"
            )
    if args.dataloader_drop_last:
        raise ConfigError(
            "TrainingArguments: expected dataloader_drop_last=False, got True: the plan completes the last step with "
            "fillers, so that nothing is dropped; leave it out"
        )
    parallelism = getattr(accelerator, "parallelism_config", None)
    for name, what in (("sp_enabled", "sequence"), ("cp_enabled", "context")):
        if getattr(parallelism, name, False):
            raise ConfigError(
                f"parallelism_config: {what} parallelism cuts rows along their length, which the layouts here do not "
                f"survive; use data, tensor or pipeline parallelism"
            )
