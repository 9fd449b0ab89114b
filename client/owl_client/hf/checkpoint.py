"""The state of the data, in every checkpoint of the Trainer's and out of it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from owl_client.dataset import OwlStreamDataset
from owl_stream.errors import ConfigError, RequestError

STATE_KEY = "OwlStream"
"""Where the dataset's state stands among the stateful callbacks of `trainer_state.json`."""

_NAME = re.compile(r"checkpoint-([0-9]+)$")


def newest_checkpoint(directory: str | Path) -> str | None:
    """The newest checkpoint of the Trainer's in `directory` that is whole: for `train(resume_from_checkpoint=...)`.

    The Trainer writes `trainer_state.json` last. Where it was killed while it saved, that is missing or cut short, and
    the checkpoint before is the newest. None where there is none, which begins anew. Under FSDP and DeepSpeed other
    ranks may still have been writing: of their parts this knows nothing.
    """
    found = {int(match[1]): path for path in Path(directory).glob("checkpoint-*") if (match := _NAME.match(path.name))}
    for _, path in sorted(found.items(), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def restore_weights(model: Any, checkpoint: str) -> bool:
    """Load a checkpoint's weights by the names that its model saves them under; False where they cannot be asked.

    Classes of transformers 5 save under other names than they have, for older versions to read (Qwen2.5-VL does). The
    Trainer loads by the names that they have, warns, and goes on with the weights from before (5.23).

    Raises:
        ConfigError: weights of the model are not in the checkpoint, or are of another model.
    """
    if not isinstance(model, PreTrainedModel) or getattr(model, "hf_quantizer", None) is not None:
        return False
    dtypes = {weight.dtype for weight in model.parameters()}
    exact = torch.float64 if torch.float64 in dtypes else torch.float32  # holds those of every other type unchanged
    try:
        loaded, info = type(model).from_pretrained(checkpoint, dtype=exact, output_loading_info=True)
        left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
        if missing := sorted(set(info["missing_keys"]) - left_out):
            more = f" and {len(missing) - 3} more" * (len(missing) > 3)
            raise ConfigError(
                f"{checkpoint}: expected all weights of {type(model).__name__}, got none for "
                f"{', '.join(missing[:3])}{more}; resume with the model that wrote it"
            )
        model.load_state_dict(loaded.state_dict())
    except (OSError, RuntimeError) as exc:
        raise ConfigError(
            f"{checkpoint}: expected weights of {type(model).__name__}: {exc!s:.300}; resume with the model that wrote "
            f"it"
        ) from exc
    return True


class Training(Protocol):
    """What the callback needs to know of the Trainer."""

    train_dataset: Any
    last_trained: dict[str, Any] | None
    """The state after the last micro-batch that was trained on."""


class Bookkeeper(TrainerCallback):  # type: ignore[misc] # transformers is not followed by mypy
    """Puts the state of the data into the Trainer's own, which every checkpoint saves and every rank loads."""

    def __init__(self, trainer: Training) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on where the checkpoint was written, if this is a resume."""
        dataset, self._trainer.last_trained = self._trainer.train_dataset, None
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
        if self._trainer.last_trained is not None:
            state.stateful_callbacks[STATE_KEY] = self._trainer.last_trained
