"""From verified frames to batches: made in the receiving thread, claimed in the trainer's."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from owl_client.batch import OFFSET_LENGTHS, OFFSETS, Batch, BatchMeta, check_lengths, split_offsets
from owl_client.device import Placed, Placer
from owl_client.order import Order
from owl_client.state import State
from owl_client.stats import Counters
from owl_client.stream import EpochStream
from owl_stream.wire import BatchHeader, tensor_views


@dataclass(frozen=True)
class Ready:
    """A batch on its way: perhaps still being copied to its device."""

    placed: Placed
    lengths: list[int] | None
    meta: BatchMeta
    raw_for: torch.dtype | None
    nbytes: int

    def claim(self) -> Batch:
        """The batch, usable in the caller's thread and on its current stream."""
        tensors = self.placed.claim()
        whole = tensors if self.lengths is None else split_offsets(tensors, self.lengths)
        return Batch(whole, self.meta, self.raw_for)


class BatchSource:
    """Runs in the receiving thread: frames of a stream, placed on the device."""

    def __init__(
        self,
        stream: EpochStream,
        order: Order,
        placer: Placer,
        raw_for: torch.dtype | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._stream, self._order, self._placer, self._raw_for = stream, order, placer, raw_for
        self._counters = counters or Counters()
        self._state = State.of(order.dataset, order.share, order.next).to_dict()

    def __enter__(self) -> BatchSource:
        self._placer.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()
        self._placer.__exit__(*exc)

    def next(self) -> Ready | None:
        """The next batch, or None at the end of the epoch.

        Raises:
            OwlStreamError: as `EpochStream.next`.
        """
        frame = self._stream.next()
        if frame is None:
            return None
        header = frame.header
        assert isinstance(header, BatchHeader)
        views = tensor_views(frame.payload, header.tensors)
        lengths = views.pop(OFFSET_LENGTHS, None)
        began = time.perf_counter()
        placed = self._placer.place(views)
        self._counters.copy_s += time.perf_counter() - began
        return Ready(
            placed=placed,
            lengths=None if lengths is None else check_lengths(views[OFFSETS].size, lengths.tolist(), len(header.rows)),
            meta=self._meta(header),
            raw_for=self._raw_for,
            nbytes=frame.payload.nbytes,
        )

    def _meta(self, header: BatchHeader) -> BatchMeta:
        order = self._order
        after = header.cursor.after(order.dataset.steps_per_epoch, order.micros)
        return BatchMeta(
            epoch=header.epoch,
            step=header.step,
            micro=header.micro,
            rank=header.rank,
            world_size=header.world_size,
            rows=header.rows,
            attended_tokens=header.attended_tokens,
            supervised_tokens=header.supervised_tokens,
            step_supervised_tokens=header.step_supervised_tokens,
            state={**self._state, "components": dict(order.dataset.components), **after._asdict()},
        )
