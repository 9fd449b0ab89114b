"""The mixin: data as they come, the exact loss, and checkpoints that know the data."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from owl_client.batch import Batch
from owl_client.dataset import OwlStreamDataset
from owl_client.hf.checkpoint import Bookkeeper, newest_checkpoint, restore_weights
from owl_client.hf.evaluation import Evaluated
from owl_client.hf.settings import check_evaluation, check_training
from owl_client.hf.sft import StandIn, is_sft
from owl_client.metrics import ReadingMetrics, Trained
from owl_stream.errors import ConfigError

log = logging.getLogger("owl_client")

IGNORED = -100
"""Label of a token that is not learned."""

_OWN_LOSS = (
    "{name}: compute_loss must be OwlStreamMixin's, which weighs micro-batches and undoes the Trainer's division; put "
    "OwlStreamMixin before Trainer, and for a loss of your own override mean_loss(model, inputs), which returns the "
    "mean over the supervised tokens of the micro-batch, and the model's outputs"
)


class OwlStreamMixin:
    """Put before `transformers.Trainer` or TRL's `SFTTrainer`, whose `train_dataset` is then an `OwlStreamDataset`.

    The dataset is read as it is: its batches are whole, its ranks and steps are its own. The gradient of a step is that
    of the mean over all supervised tokens of the global step, whatever the model's `forward` takes, and the logged
    `loss` and `eval_loss` are such means. Every checkpoint holds the state after the last step that was trained, in
    `trainer_state.json`, and `resume_from_checkpoint` goes on there, at any world size.

    Expects `ignore_data_skip=True`, `gradient_accumulation_steps` = the dataset's `micros_per_step`, and for
    `eval_dataset` one with `evaluate=True`. `compute_loss` is not to be overridden; `mean_loss` is.
    """

    args: TrainingArguments
    loss_is_scaled_for_ga: bool | None
    accelerator: Any
    label_names: list[str]
    label_smoother: Any
    compute_loss_func: Any
    train_dataset: Any
    eval_dataset: Any
    model: Any
    state: Any
    log_reading = True
    """Whether what was waited for and read stands beside the losses in the Trainer's log (docs/trainers.md)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, Trainer) and cls.compute_loss is not OwlStreamMixin.compute_loss:
            raise ConfigError(_OWN_LOSS.format(name=cls.__name__))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if is_sft(type(self)):
            shown = StandIn(type(self), args, kwargs)
            super().__init__(**shown.options)
            shown.put_back(self)
        else:
            super().__init__(*args, **kwargs)
        self.last_trained: dict[str, Any] | None = None
        self._weighed: torch.Tensor | None = None
        """The loss of the micro-batch that is being trained on, as its gradient shall be."""
        self._in_step = self._scale_is_right = False
        self._evaluated: Evaluated | None = None
        self._loaded_from: str | None = None
        self._reading_sums, self._reading_waited_s = Trained(), 0.0
        self._reading = ReadingMetrics(self._reading_sums, lambda: self._reading_waited_s)
        self.add_callback(Bookkeeper(self))  # type: ignore[attr-defined] # of Trainer, which comes behind

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; True resumes from the newest checkpoint that is whole, where Trainer takes the newest.

        Where it was killed while it wrote the first one, it begins anew and says so.
        """
        if resume_from_checkpoint is True and isinstance(self.train_dataset, OwlStreamDataset):
            directory = Path(self.args.output_dir)
            whole = newest_checkpoint(directory)
            if whole is None and any(directory.glob("checkpoint-*")):
                log.warning("%s: no checkpoint is whole; training begins anew", directory)
                resume_from_checkpoint = None
            else:
                resume_from_checkpoint = whole or True  # without any, Trainer says so
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc] # of Trainer

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The dataset behind a DataLoader that neither batches nor shards.

        Raises:
            ConfigError: arguments of the Trainer under which rows would be skipped, torn or trained on twice.
        """
        dataset = self.train_dataset
        if not isinstance(dataset, OwlStreamDataset):
            return super().get_train_dataloader()  # type: ignore[misc,no-any-return] # of Trainer
        check_training(dataset, self.args, self.accelerator)
        if "compute_loss" in vars(self):
            raise ConfigError(_OWN_LOSS.format(name="this Trainer"))
        workers = self.args.dataloader_num_workers
        return self._loader(dataset, persistent_workers=bool(workers) and self.args.dataloader_persistent_workers)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Batch]:
        """As `get_train_dataloader`, for a dataset, the name of one of several, or `eval_dataset` of the Trainer.

        Raises:
            ConfigError: the dataset has no evaluate=True.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if not isinstance(dataset, OwlStreamDataset):
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc,no-any-return] # of Trainer
        check_evaluation(dataset, self.args, self.accelerator)
        return self._loader(dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Batch]:
        """As `get_eval_dataloader`, for `predict`."""
        if not isinstance(test_dataset, OwlStreamDataset):
            return super().get_test_dataloader(test_dataset)  # type: ignore[misc,no-any-return] # of Trainer
        return self.get_eval_dataloader(test_dataset)

    def mean_loss(self, model: Any, inputs: Batch) -> tuple[torch.Tensor, Any]:
        """The mean loss over the supervised tokens of one micro-batch, and the model's outputs.

        The model's own, or that of the Trainer's `label_smoothing_factor` or `compute_loss_func`. These get labels, the
        model then does not. The function's `num_items_in_batch` is the number of tokens in this micro-batch.
        """
        function, smoother = self.compute_loss_func, self.label_smoother
        if function is None and smoother is None:
            outputs = model(**inputs)
            return _loss_of(outputs), outputs
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        if function is not None:
            return function(outputs, labels, num_items_in_batch=labels[:, 1:].ne(IGNORED).sum()), outputs
        return smoother(outputs, labels, shift_labels=True), outputs

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        """The loss of a micro-batch: in training its part of the step's mean, in evaluation its own mean."""
        if not isinstance(inputs, Batch):
            return super().compute_loss(  # type: ignore[misc] # of Trainer
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch, **kwargs
            )
        loss, outputs = self.mean_loss(model, inputs)
        if self._in_step:
            loss = inputs.step_loss(loss)
            self._weighed = loss.detach()
            loss = loss * self._divisor(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, with a loss that it divides by nothing; notes which micro-batch is trained on.

        Raises:
            ConfigError: this Trainer scales the loss in a way that was not foreseen.
        """
        if not isinstance(inputs, Batch):
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # of Trainer
        self.last_trained = inputs.meta.state
        self._reading_sums.add(inputs)
        with self._own_loss():
            loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # of Trainer
        if not self._scale_is_right:  # once: comparing waits for the device
            self._check_scale(loss)
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, which waits for the batches of a step here."""
        began = time.perf_counter()
        try:
            return super().get_batch_samples(*args, **kwargs)  # type: ignore[misc] # of Trainer
        finally:
            self._reading_waited_s += time.perf_counter() - began

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As Trainer's; beside a loss of training stands what was read since the last."""
        if self.log_reading and "loss" in logs and isinstance(self.train_dataset, OwlStreamDataset):
            logs = {**logs, **self._reading.look(self.train_dataset.micros_per_step)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc] # of Trainer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; see `_issue_warnings_after_load`."""
        self._loaded_from = resume_from_checkpoint
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc] # of Trainer
        finally:
            self._loaded_from = None

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Where Trainer would warn of weights that it has not found, and go on without them, they are loaded."""
        found = self._loaded_from or self.state.best_model_checkpoint
        if (load_result.missing_keys or load_result.unexpected_keys) and found and restore_weights(self.model, found):
            return
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc] # of Trainer

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, which would else look for labels among the names that `forward` spells out."""
        if not isinstance(inputs, Batch):
            return super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # of Trainer
        names, self.label_names = self.label_names, ["labels"]
        try:
            result = super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # of Trainer
        finally:
            self.label_names = names
        if self._evaluated is not None:
            self._evaluated.add(result[0], inputs.meta)
        return result

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As Trainer's; the loss is the mean over tokens of all ranks, and samples are counted as samples."""
        self._evaluated = evaluated = Evaluated()
        try:
            output = super().evaluation_loop(  # type: ignore[misc] # of Trainer
                dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        finally:
            self._evaluated = None
        if not evaluated.losses:
            return output
        sums = evaluated.sums()
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        total, tokens, rows = sums.tolist()
        return output._replace(
            metrics={**output.metrics, f"{metric_key_prefix}_loss": total / tokens}, num_samples=int(rows)
        )

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Keep `meta`, and finish pixels that DataLoader workers have left raw."""
        if isinstance(inputs, Batch):
            return inputs.to(self.args.device)
        return super()._prepare_inputs(inputs)  # type: ignore[misc] # of Trainer

    def _loader(self, dataset: OwlStreamDataset, **options: Any) -> DataLoader[Batch]:
        args = self.args
        workers = args.dataloader_num_workers
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            pin_memory=bool(workers) and args.dataloader_pin_memory and args.device.type == "cuda",
            **options,
        )

    @contextmanager
    def _own_loss(self) -> Iterator[None]:
        """For one micro-batch the loss is ours: newer Trainers can be told that it is scaled."""
        known = hasattr(self, "loss_is_scaled_for_ga")
        before, self._in_step = bool(getattr(self, "loss_is_scaled_for_ga", False)), True
        if known:
            self.loss_is_scaled_for_ga = True
        try:
            yield
        finally:
            self._in_step = False
            if known:
                self.loss_is_scaled_for_ga = before

    def _divisor(self, num_items_in_batch: Any) -> int:
        """What the Trainer will divide the loss by. Older ones cannot be told; what they do depends on the model."""
        if hasattr(self, "loss_is_scaled_for_ga"):
            return 1
        scaled = self.compute_loss_func is not None or getattr(self, "model_accepts_loss_kwargs", False)
        return 1 if scaled else self.args.gradient_accumulation_steps

    def _check_scale(self, loss: torch.Tensor) -> None:
        assert self._weighed is not None
        if not torch.allclose(loss.float(), self._weighed.float(), rtol=1e-2, equal_nan=True):
            raise ConfigError(
                f"this Trainer has made a loss of {loss.item():g} where {self._weighed.item():g} was expected, so its "
                f"gradients would be scaled as much; install a version of transformers that docs/trainers.md names"
            )
        self._scale_is_right = bool(self._weighed)  # a batch without a learned token says nothing


def _loss_of(outputs: Any) -> torch.Tensor:
    """The loss of a model's answer: a dict, an object or a tuple."""
    loss = outputs["loss"] if isinstance(outputs, dict) else getattr(outputs, "loss", None)
    found: torch.Tensor = outputs[0] if loss is None else loss
    return found
