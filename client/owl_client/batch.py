"""What a trainer receives: a dict of tensors that a model can be called with, and beside it where it came from."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.weak import WeakTensorKeyDictionary

from owl_client.accumulation import trainer_divides_by
from owl_client.device import finish
from owl_client.training_order import ORDER
from owl_stream.errors import RequestError
from owl_stream.wire import Normalise, RowInfo

BATCHED = (
    "DataLoader: every item of an OwlStreamDataset is a whole batch already, and this loader would make batches of "
    "batches; pass batch_size=None (and no batch_size, sampler, collate_fn or drop_last)"
)


@dataclass(frozen=True)
class BatchMeta:
    """What a batch is and where it stands in the run.

    `units`: what the vision tower is given: crops, images, tiles. `vision_tokens`: how many patches it works on.
    `micros_per_step`: batches that a rank gets of a global step, which is over how many gradients are accumulated.
    `state` is the state after this batch, ready for `load_state_dict`.
    """

    epoch: int
    step: int
    micro: int
    rank: int
    world_size: int
    rows: tuple[RowInfo, ...]
    attended_tokens: int
    supervised_tokens: int
    step_supervised_tokens: int
    vision_tokens: int
    units: int
    micros_per_step: int
    state: dict[str, Any]

    @property
    def loss_weight(self) -> float:
        """What a micro-batch's mean loss counts: summed over a global step, that is the mean over all its tokens.

        It allows for the averaging of gradients over ranks by DDP and FSDP, and for no other division. It is 0 where no
        token is supervised.
        """
        if not self.supervised_tokens:
            return 0.0
        return self.supervised_tokens * self.world_size / self.step_supervised_tokens


@dataclass(frozen=True)
class Raw:
    """What is still to be done with a batch's pixels, once they are on their device.

    `lengths`: of the pieces of pixels that are padded, by tensor.
    """

    dtype: torch.dtype
    normalise: Mapping[str, Normalise]
    lengths: Mapping[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """What a batch is, and its labels, of which `meta` has counts."""

    meta: BatchMeta
    raw: Raw | None
    labels: torch.Tensor | None


_KNOWN_BY_IDS: MutableMapping[torch.Tensor, _Known] = WeakTensorKeyDictionary()
"""By a batch's `input_ids`, for as long as that tensor lives: libraries that cast leave integers alone."""


class Batch(dict[str, Any]):
    """A dict that `model(**batch)` takes as it is.

    `input_ids`, `attention_mask`, `labels`: int64 [B, L]; the others are the layout's (docs/layouts.md), and those of
    media are absent where there are none. `meta` says the rest. A library may build a batch anew from its items, as
    Lightning does to cast pixels: it keeps `meta` where `input_ids` and `labels` are still the same tensors.
    """

    def __init__(self, tensors: Any = (), meta: BatchMeta | None = None, raw: Raw | None = None) -> None:
        super().__init__(tensors)
        self._meta, self._raw = meta, raw
        ids = self.get("input_ids")
        if ids is None:
            return
        if meta is None:
            self._recognise(_KNOWN_BY_IDS.get(ids))
        elif ids not in _KNOWN_BY_IDS:  # else it is one that stayed on its device, finished
            _KNOWN_BY_IDS[ids] = _Known(meta, raw, self.get("labels"))

    def _recognise(self, known: _Known | None) -> None:
        """Take up what a batch is that a library has built anew, unless its labels are others now."""
        if known is None or self.get("labels", known.labels) is not known.labels:
            return
        self._meta = known.meta
        if known.raw is not None and any(_is_raw(self.get(name)) for name in known.raw.normalise):
            self._raw = known.raw

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and batches that come from a DataLoader's worker, are made as any other."""
        return Batch, (dict(self), self._meta, self._raw)

    def pin_memory(self) -> Batch:
        """What a DataLoader with `pin_memory=True` hands out: the same in pinned memory."""
        return Batch({name: _pin(value) for name, value in self.items()}, self._meta, self._raw)

    @property
    def meta(self) -> BatchMeta:
        """What this batch is.

        Raises:
            RequestError: some library built this batch anew from its tensors.
        """
        if self._meta is None:
            raise RequestError(
                "this Batch was rebuilt from other tensors and has no meta; read meta before that happens"
            )
        return self._meta

    def step_loss(self, mean_loss: torch.Tensor, trainer: Any = None) -> torch.Tensor:
        """What to give to `backward`, so that the step's gradient is that of the mean over all its supervised tokens.

        Args:
            mean_loss: the model's loss: the mean over the supervised tokens of this batch.
            trainer: whose `backward` is called, for it divides by the accumulation: an Accelerator, a DeepSpeed engine,
                a Lightning Trainer (`self.trainer`). None where your loop calls `loss.backward()` itself.

        Raises:
            ConfigError: the trainer accumulates over another number of batches than a global step has, steps
                elsewhere than at its end, or is none of these.
        """
        if getattr(trainer, "training", True):
            ORDER.note(self.meta)
        if not self.meta.supervised_tokens:  # the mean over none is NaN
            mean_loss = mean_loss.nan_to_num()
        ends_step = self.meta.state["micro"] == 0
        divided_by = trainer_divides_by(trainer, self.meta.micros_per_step, ends_step=ends_step)
        return mean_loss * (self.meta.loss_weight * divided_by)

    def to(self, device: str | torch.device, non_blocking: bool = False) -> Batch:
        """A batch with all tensors on `device`, pixels normalised if they were still raw for that; keeps `meta`."""
        moved = {key: _move(value, torch.device(device), non_blocking) for key, value in self.items()}
        if self._raw is not None:
            for name, how in self._raw.normalise.items():
                if name in moved:
                    moved[name] = finish(moved[name], self._raw.dtype, how)
            moved = pad_pieces(moved, self._raw.lengths)
        return Batch(moved, self._meta)


def _pin(value: Any) -> Any:
    return [_pin(each) for each in value] if isinstance(value, list) else value.pin_memory()


def _is_raw(pixels: Any) -> bool:
    return isinstance(pixels, torch.Tensor) and pixels.dtype == torch.uint8


def _refuse_collate(batches: list[Batch], **_: Any) -> Batch:
    """What DataLoader's default collation does with a list of batches."""
    raise RequestError(BATCHED)


default_collate_fn_map[Batch] = _refuse_collate


def _move(value: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(value, list):
        return [_move(each, device, non_blocking) for each in value]
    return value.to(device, non_blocking=non_blocking)


def pad_pieces(tensors: dict[str, Any], lengths: Mapping[str, list[int]]) -> dict[str, Any]:
    """Replace each flat tensor that has `lengths` by [pieces, longest, ...]: behind the end of a piece are zeros."""
    return {
        name: pad_sequence(list(torch.split(tensor, lengths[name])), batch_first=True) if name in lengths else tensor
        for name, tensor in tensors.items()
    }


def split_rows(tensors: dict[str, torch.Tensor], lengths: Mapping[str, list[int]]) -> dict[str, Any]:
    """Replace each flat tensor that has `lengths` by a list of one tensor a row."""
    whole: dict[str, Any] = dict(tensors)
    for name, counts in lengths.items():
        whole[name] = list(torch.split(tensors[name], counts))
    return whole
