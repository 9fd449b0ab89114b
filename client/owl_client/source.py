"""From verified frames to batches: made in the receiving thread, claimed in the trainer's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from owl_client.batch import Batch, BatchMeta, Raw, pad_pieces, split_rows
from owl_client.buffers import NoReceiveMemoryError
from owl_client.crossing import share
from owl_client.device import Placed, Placer
from owl_client.order import Order
from owl_client.state import State
from owl_client.stats import Counters
from owl_client.stream import EpochStream
from owl_stream.errors import ConfigError
from owl_stream.wire import BatchHeader, tensor_views


@dataclass(frozen=True)
class Ready:
    """A batch on its way: perhaps still being copied to its device.

    `rows`: of flat tensors that become one a row, how many entries each row has. `pieces`: the same of pixels, which
    are padded.
    """

    placed: Placed
    rows: Mapping[str, list[int]]
    pieces: Mapping[str, list[int]]
    meta: BatchMeta
    raw: Raw | None
    nbytes: int
    leaves: bool = False
    """Whether it goes to another process."""

    def claim(self) -> Batch:
        """The batch, usable in the caller's thread and on its current stream, or ready to leave the process.

        Raises:
            ConfigError: it is to leave, and there is no room in shared memory.
        """
        whole = split_rows(self.placed.claim(), self.rows)
        if self.raw is None:
            whole = pad_pieces(whole, self.pieces)
        if self.leaves:
            share(whole)
        return Batch(whole, self.meta, self.raw)


class BatchSource:
    """Runs in the receiving thread: frames of a stream, placed on the device."""

    def __init__(
        self,
        stream: EpochStream,
        order: Order,
        placer: Placer,
        raw_for: torch.dtype | None = None,
        counters: Counters | None = None,
        *,
        leaves: bool = False,
    ) -> None:
        self._stream, self._order, self._placer, self._raw_for = stream, order, placer, raw_for
        self._leaves = leaves
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
            ConfigError: there is no memory to receive into.
        """
        try:
            received = self._stream.next()
        except NoReceiveMemoryError as exc:  # ours, so no other server is asked
            raise ConfigError(str(exc)) from exc
        if received is None:
            return None
        frame, contract = received
        header = frame.header
        assert isinstance(header, BatchHeader)
        views = tensor_views(frame.payload, header.tensors)
        lengths = {flat: views[name].tolist() for flat, name in contract.lengths.items() if flat in views}
        for name in contract.lengths.values():
            views.pop(name, None)
        began = time.perf_counter()
        placed = self._placer.place(views, contract.normalise)
        self._counters.copy_s += time.perf_counter() - began
        return Ready(
            placed=placed,
            rows={name: each for name, each in lengths.items() if name not in contract.normalise},
            pieces=(pieces := {name: each for name, each in lengths.items() if name in contract.normalise}),
            meta=self._meta(header),
            raw=None if self._raw_for is None else Raw(self._raw_for, contract.normalise, pieces),
            nbytes=frame.payload.nbytes,
            leaves=self._leaves,
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
            vision_tokens=header.vision_tokens,
            units=header.units,
            micros_per_step=order.micros,
            state={**self._state, "components": dict(order.dataset.components), **after._asdict()},
        )
