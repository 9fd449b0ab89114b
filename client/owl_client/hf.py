"""For Hugging Face's `Trainer`: a mixin that feeds it as it comes and ties the data to its checkpoints.

    class OwlTrainer(OwlStreamMixin, Trainer): ...

Importing this imports transformers; nothing else of owl_client does.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from owl_client.batch import Batch
from owl_client.dataset import OwlStreamDataset
from owl_stream.errors import ConfigError, RequestError

STATE_KEY = "OwlStream"
"""Where the dataset's state stands among the stateful callbacks of `trainer_state.json`."""


class OwlStreamMixin:
    """Put before `transformers.Trainer`, whose `train_dataset` is then an `OwlStreamDataset`.

    The dataset is read as it is: its batches are whole, its ranks and steps are its own. Every checkpoint holds the
    state after the last step that was trained, in `trainer_state.json`, and `resume_from_checkpoint` goes on there, at
    any world size. Expects `ignore_data_skip=True` and `gradient_accumulation_steps` = the dataset's `micros_per_step`.
    """

    args: TrainingArguments
    train_dataset: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trained: dict[str, Any] | None = None
        self.add_callback(_Bookkeeper(self))  # type: ignore[attr-defined] # of Trainer, which comes behind

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The dataset behind a DataLoader that neither batches nor shards.

        Raises:
            ConfigError: arguments of the Trainer under which rows would be skipped, torn or trained on twice.
        """
        dataset, args = self.train_dataset, self.args
        if not isinstance(dataset, OwlStreamDataset):
            return super().get_train_dataloader()  # type: ignore[misc,no-any-return] # of Trainer
        _check(dataset, args)
        workers = args.dataloader_num_workers
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            persistent_workers=bool(workers) and args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            pin_memory=bool(workers) and args.dataloader_pin_memory and args.device.type == "cuda",
        )

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; notes which micro-batch is trained on."""
        if isinstance(inputs, Batch):
            self._trained = inputs.meta.state
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # of Trainer

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Keep `meta`, and finish pixels that DataLoader workers have left raw."""
        if isinstance(inputs, Batch):
            return inputs.to(self.args.device)
        return super()._prepare_inputs(inputs)  # type: ignore[misc] # of Trainer


class _Bookkeeper(TrainerCallback):  # type: ignore[misc] # transformers is not followed by mypy
    """Puts the state of the data into the Trainer's own, which every checkpoint saves and every rank loads."""

    def __init__(self, trainer: OwlStreamMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on where the checkpoint was written, if this is a resume."""
        dataset, self._trainer._trained = self._trainer.train_dataset, None
        if not isinstance(dataset, OwlStreamDataset) or state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(STATE_KEY)
        if saved is None:
            raise RequestError(
                f"the checkpoint of step {state.global_step} holds no state of the data: it was written without "
                f"OwlStreamMixin; begin anew, or load a state into the dataset and train from the weights alone"
            )
        dataset.load_state_dict(saved)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A global step is trained: this is what a checkpoint of it must say."""
        if self._trainer._trained is not None:
            state.stateful_callbacks[STATE_KEY] = self._trainer._trained


def _check(dataset: OwlStreamDataset, args: TrainingArguments) -> None:
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
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process would cut every tensor for {args.n_gpu} GPUs along its first dimension, and pixel_values "
            f"have another one than input_ids; start one process per GPU with torchrun or accelerate launch"
        )
