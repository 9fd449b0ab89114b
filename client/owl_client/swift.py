"""For ms-swift: a plugin with which `swift sft` trains on batches of owl-stream servers.

    swift sft --external_plugins .../owl_client/swift.py --dataset owl://loader:8000/train ...

Importing it changes three functions of swift: where arguments are complete, where data sets are made, and where the
trainer's class is chosen. Without an `owl://` among the data sets each does what it did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from swift.arguments import SftArguments
from swift.pipelines.train.sft import SwiftSft
from swift.trainers import Seq2SeqTrainer, TrainerFactory

from owl_client.batch import Batch
from owl_client.dataset import OwlStreamDataset
from owl_client.hf import OwlStreamMixin
from owl_stream.errors import ConfigError

_SCHEMES = {"owl": "http", "owls": "https"}

_AS_SERVED = "rows come from the server as they are to be trained"
_REFUSED: Mapping[str, str] = {
    "packing": _AS_SERVED,
    "padding_free": "batches come padded, with attention_mask",
    "padding_side": "batches come padded on the right",
    "streaming": "the data is streamed anyway, and its steps are known",
    "cached_dataset": "the data is the server's alone",
    "cached_val_dataset": "the data is the server's alone",
    "split_dataset_ratio": "serve a data set to evaluate on, and name it by --val_dataset owl://...",
    "interleave_prob": "the data is one data set of the server, which may list all shards",
    "dataset_shuffle": "the order is the server's setting `shuffle`",
    "val_dataset_shuffle": "the order is the server's setting `shuffle`",
    "train_dataloader_shuffle": "the order is the server's setting `shuffle`",
    "data_seed": "the order is the server's setting `seed`",
    "group_by_length": "the server makes steps of rows of like lengths (`bucket_window`)",
    "columns": _AS_SERVED,
    "strict": "what becomes of a bad sample is the server's matter",
    "model_name": "the text is the server's",
    "model_author": "the text is the server's",
    "system": "the text is the server's: put it into the samples",
    "agent_template": "the text is the server's setting `chat_template`",
    "use_chat_template": "the text is the server's setting `chat_template`",
    "add_non_thinking_prefix": "the text is the server's setting `chat_template`",
    "norm_bbox": "the text is the server's",
    "truncation_strategy": "what is too long is the server's settings `max_length` and `on_too_long`",
    "max_pixels": "the size of pictures is the server's setting `vision: {max_pixels: ...}`",
    "loss_scale": "which tokens are learned is the server's setting `train_on`",
    "loss_type": "the loss is the mean over the supervised tokens of the step",
    "enable_dft_loss": "the loss is the mean over the supervised tokens of the step",
    "enable_channel_loss": "batches do not say which channel a row is of",
    "router_aux_loss_coef": "the loss is the mean over the supervised tokens of the step",
    "predict_with_generate": "batches have no texts to generate from; without it the loss is evaluated",
    "sequence_parallel_size": "it cuts rows along their length, which the layouts here do not survive",
    "deepspeed_autotp_size": "ranks that share a model would be given different rows",
    "auto_find_batch_size": "the server makes batches of `per_device_train_batch_size` rows",
    "use_ray": "start it with torchrun (NPROC_PER_NODE)",
}
"""Arguments that would do nothing, or harm, and what to do instead. Each must have its default."""

_ALSO_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "columns": ({},),
    "truncation_strategy": ("delete",),
    "use_chat_template": (True,),
    "loss_scale": ("default+ignore_empty_think",),
}
"""What swift itself makes of a default."""


@dataclass(frozen=True)
class Source:
    """What an `owl://` address names."""

    urls: tuple[str, ...]
    name: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `owl://host:port[,host:port ...]/name`; `owls` is for servers with TLS.

        Raises:
            ConfigError: it is something else.
        """
        scheme, _, rest = text.partition("://")
        hosts, _, name = rest.partition("/")
        if scheme not in _SCHEMES or not all(hosts.split(",")) or not name or set(name) & set("/#?"):
            raise ConfigError(
                f"--dataset: expected owl://host:port/name, or owl://host:port,host:port/name for several servers of "
                f"one data set, got {text.rpartition('@')[2]!r}"
            )
        return cls(tuple(f"{_SCHEMES[scheme]}://{host}" for host in hosts.split(",")), name)

    def open(self, micro_batch_size: int, *, evaluate: bool, device: str | torch.device = "cpu") -> OwlStreamDataset:
        """The data set, for this rank; the token is that of OWL_TOKEN."""
        return OwlStreamDataset(
            self.urls, self.name, micro_batch_size=micro_batch_size, evaluate=evaluate, device=device
        )


@dataclass(frozen=True)
class Sources:
    """The data sets of a run."""

    train: Source
    evaluated: Source | None

    @classmethod
    def of(cls, args: Any) -> Sources | None:
        """Those that swift's arguments name; None where none of them is of owl-stream.

        Raises:
            ConfigError: one of them is and others are not, or there are several.
        """
        train, evaluated = (_texts(getattr(args, name, None)) for name in ("dataset", "val_dataset"))
        ours = [text for text in train + evaluated if text.partition("://")[0] in _SCHEMES]
        if not ours:
            return None
        if len(ours) < len(train + evaluated) or len(train) != 1 or len(evaluated) > 1:
            raise ConfigError(
                f"expected one owl:// address as --dataset and at most one as --val_dataset, got {len(train)} and "
                f"{len(evaluated)}, {len(ours)} of them owl://; list all shards under one data set of the server"
            )
        return cls(Source.parse(train[0]), Source.parse(evaluated[0]) if evaluated else None)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def check_arguments(args: Any) -> None:
    """Refuse what swift would do to samples, for there are none, and other trainers than that of `swift sft`.

    Raises:
        ConfigError: the argument is named, and what to do instead.
    """
    if type(args) is not SftArguments or args.task_type != "causal_lm":
        got = f"{type(args).__name__} with {getattr(args, 'task_type', None)}"
        raise ConfigError(f"owl:// is for `swift sft` with --task_type causal_lm, got {got}; use that")
    known = {field.name: field for field in fields(SftArguments)}
    for name in filter(known.__contains__, _REFUSED):
        field, value = known[name], getattr(args, name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default and value not in _ALSO_ALLOWED.get(name, ()):
            raise ConfigError(
                f"--{name}: expected {default!r} with owl://, got {value!r}: {_REFUSED[name]}; leave it out"
            )
    longest = getattr(args.model_info, "max_model_len", None)
    if args.max_length not in (None, longest):
        raise ConfigError(
            f"--max_length: expected none with owl://, got {args.max_length}: rows are as long as the server's setting "
            f"`max_length` lets them be; set it there and leave it out here"
        )
    if args.tuner_backend == "unsloth" or "lora-ga" in str(args.init_weights):
        raise ConfigError("--tuner_backend, --init_weights: expected others than unsloth and lora-ga with owl://")


def settle(args: Any, dataset: OwlStreamDataset) -> None:
    """Set what was left to its default and follows from the data.

    Raises:
        ConfigError: it was given, and is something else.
    """
    needed = dataset.micros_per_step
    if args.gradient_accumulation_steps not in (None, needed):
        raise ConfigError(
            f"--gradient_accumulation_steps: expected {needed}, the micro-batches that a rank gets of a global step, "
            f"got {args.gradient_accumulation_steps}; leave it out, and it is set"
        )
    args.gradient_accumulation_steps = needed
    if args.tuner_type == "adalora" and args.max_steps <= 0:
        steps = int(dataset.steps_per_epoch * args.num_train_epochs)
        raise ConfigError(f"--max_steps: expected {steps} for adalora with owl://, which swift would count wrongly")
    if args.dataloader_num_workers is None:
        args.dataloader_num_workers = 0  # the dataset has a thread of its own
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = True  # a step of text alone gives the vision tower no gradient


class OwlSwiftTrainer(OwlStreamMixin, Seq2SeqTrainer):  # type: ignore[misc] # swift is not followed by mypy
    """swift's trainer, that reads batches of owl-stream: data, loss and checkpoints are the mixin's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Only now: before, swift takes it together with resume_only_model as the wish to begin the data anew.
        self.args.ignore_data_skip = True

    def mean_loss(self, model: Any, inputs: Batch) -> tuple[torch.Tensor, Any]:
        """As the mixin's; the prompt's logits are left out where swift would, and its `token_acc` is kept."""
        kept = Batch(inputs, inputs.meta)
        compared = self.compute_metrics is not None and not self.model.training  # with labels of every position
        if not compared and self.get_use_logits_to_keep():
            self.prepare_logits_to_keep(kept)
        labels = kept["labels"]
        with whole_batches(self.template):
            loss, outputs = super().mean_loss(model, kept)
        if inputs.meta.supervised_tokens and getattr(outputs, "logits", None) is not None:
            self._compute_acc(outputs, labels)
        return loss, outputs


@contextmanager
def whole_batches(template: Any) -> Iterator[None]:
    """While it lasts, swift's hook before `forward` gives the model batches as they are.

    The hook is for what swift's own collation makes: it computes embeddings of text and pictures, and pads.
    """
    template._post_encode = partial(_embed, template)
    try:
        yield
    finally:
        del template._post_encode


def _embed(template: Any, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """swift calls mPLUG-Owl3's language model, which takes embeddings of crops; all others take pixels.

    Raises:
        ConfigError: it calls another model's language model, which would take pixels and not look at them.
    """
    if "media_offset" not in inputs or "pixel_values" not in inputs:
        forward = template.get_base_model(model).forward
        for name in inputs:
            if name.startswith("pixel_values") and name not in signature(forward).parameters:
                raise ConfigError(
                    f"--model: expected one whose forward takes {name}, got {type(model).__name__}, which swift feeds "
                    f"embeddings; use the class of transformers, for example OpenGVLab/InternVL3-8B-hf"
                )
        return inputs
    pixels = inputs["pixel_values"]
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    return {**others, "image_embeds": model.forward_image(pixels)}


def _instead_of(owner: type, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace a function of a class by one that takes the former first."""
    former, bound = getattr(owner, name), isinstance(vars(owner)[name], classmethod)

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return function(former, *args)

        setattr(owner, name, staticmethod(call) if bound else call)
        return function

    return replace


@_instead_of(TrainerFactory, "get_training_args")
def _training_args(former: Callable[..., Any], args: Any) -> Any:
    """Where arguments are complete, and no model is loaded yet."""
    if (sources := Sources.of(args)) is not None:
        check_arguments(args)
        settle(args, sources.train.open(args.per_device_train_batch_size, evaluate=False))
    return former(args)


@_instead_of(TrainerFactory, "get_trainer_cls")
def _trainer_class(former: Callable[..., Any], args: Any) -> Any:
    return former(args) if Sources.of(args) is None else OwlSwiftTrainer


@_instead_of(SwiftSft, "_prepare_dataset")
def _datasets(former: Callable[..., Any], pipeline: Any) -> Any:
    """The data sets to train and to evaluate on."""
    args = pipeline.args
    if (sources := Sources.of(args)) is None:
        return former(pipeline)
    check_arguments(args)
    device, processes = args.training_args.device, args.training_args.world_size
    if processes != args.global_world_size:
        raise ConfigError(
            f"expected one group of {args.global_world_size} processes, got {processes} in a group, so that each would "
            f"train alone; without GPUs give --use_cpu true --ddp_backend gloo"
        )
    train = sources.train.open(args.per_device_train_batch_size, evaluate=False, device=device)
    if sources.evaluated is None:
        return [train, None]
    return [train, sources.evaluated.open(args.per_device_eval_batch_size, evaluate=True, device=device)]


# swift puts a plugin's folder first on the path, where this file would be `swift`, and another one `lightning`.
sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != Path(__file__).absolute().parent]
