"""TRL's `SFTTrainer`, which would prepare samples: it is shown a stand-in, and trains on our batches as they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from owl_client.dataset import OwlStreamDataset
from owl_stream.errors import ConfigError

_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "packing": ((False,), "rows come from the server as they are to be; packing them again would tear pictures off"),
    "eval_packing": ((False, None), "rows come from the server as they are to be"),
    "padding_free": ((False,), "batches come padded, with attention_mask"),
    "loss_type": (("nll",), "the loss is the mean over the supervised tokens of the step; override mean_loss"),
    "assistant_only_loss": ((False,), "which tokens are learned is the server's setting `train_on`"),
    "completion_only_loss": ((None, False), "which tokens are learned is the server's setting `train_on`"),
    "chat_template_path": ((None,), "the text is the server's; set `chat_template` in its configuration"),
    "eos_token": ((None,), "the text is the server's; set `chat_template` in its configuration"),
}
"""Settings of SFTConfig that are about making rows from samples: what they may be, and why."""


def is_sft(trainer: type) -> bool:
    """Whether a class of trainer is TRL's, or made from it."""
    return any(map(_is_trls, trainer.__mro__))


def _is_trls(base: type) -> bool:
    return base.__name__ == "SFTTrainer" and base.__module__.startswith("trl.")


class StandIn:
    """The arguments of an `SFTTrainer`, our datasets in them replaced by what it takes.

    Raises:
        ConfigError: settings under which it would do something else than they say.
    """

    def __init__(self, trainer: type, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        signature = inspect.signature(next(filter(_is_trls, trainer.__mro__)).__init__)  # type: ignore[misc] # the class's
        own = {name: value for name, value in options.items() if name not in signature.parameters}
        known = {name: value for name, value in options.items() if name in signature.parameters}
        bound = signature.bind(None, *args, **known).arguments
        self.options: dict[str, Any] = {**{name: value for name, value in bound.items() if name != "self"}, **own}
        self._train, self._eval = self.options.get("train_dataset"), self.options.get("eval_dataset")
        self.ours = isinstance(self._train, OwlStreamDataset)
        if self.ours:
            self._replace()

    def put_back(self, trainer: Any) -> None:
        """Give the trainer that was made the datasets that were meant."""
        if not self.ours:
            return
        trainer.train_dataset, trainer.eval_dataset = self._train, self._eval
        trainer.data_collator = _as_it_is

    def _replace(self) -> None:
        config = self.options.get("args")
        if config is None or not hasattr(config, "dataset_kwargs"):
            raise ConfigError(f"args: expected an SFTConfig, got {type(config).__name__}")
        for name, (allowed, why) in _REFUSED.items():
            if (value := getattr(config, name, allowed[0])) not in allowed:
                raise ConfigError(f"SFTConfig: expected {name}={allowed[0]!r}, got {value!r}: {why}")
        for name in ("formatting_func", "data_collator"):
            if self.options.get(name) is not None:
                raise ConfigError(f"{name}: expected none, for batches come from the server as they are to be trained")
        config.dataset_kwargs = {**(config.dataset_kwargs or {}), "skip_prepare_dataset": True}
        self.options["train_dataset"] = _sample()
        if isinstance(self._eval, dict):
            self.options["eval_dataset"] = {name: _sample() for name in self._eval}
        elif self._eval is not None:
            self.options["eval_dataset"] = _sample()


def _sample() -> Any:
    """A dataset of one sample of one token, that nobody trains on."""
    from datasets import Dataset  # noqa: PLC0415 # TRL has it; nothing else of ours needs it

    return Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})


def _as_it_is(batch: Any) -> Any:
    return batch
