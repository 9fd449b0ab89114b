"""What one DataLoader worker reads of a pass: every k-th micro-batch from its own first one on."""

from __future__ import annotations

from dataclasses import dataclass

from owl_client.order import Order
from owl_client.state import Part, State
from owl_client.transport import Description, Share
from owl_stream.wire import Cursor


@dataclass
class Work:
    """Worker `worker` of `workers`, in the pass that all of them began at `start`; `next` is what it yields next."""

    dataset: Description
    share: Share
    start: Cursor
    worker: int
    workers: int
    next: Cursor

    @classmethod
    def begin(cls, dataset: Description, share: Share, start: Cursor, worker: int, workers: int) -> Work:
        """The whole part of the pass: worker i begins i micro-batches behind the start."""
        work = cls(dataset, share, start, worker, workers, start)
        work.next = start.after(dataset.steps_per_epoch, work.order().micros, worker)
        return work

    @property
    def done(self) -> bool:
        """Whether nothing is left of the part."""
        return self.next.epoch > self.start.epoch

    def order(self) -> Order:
        """The order in which the rest comes."""
        return Order(self.dataset, self.share, self.next, self.workers)

    def took(self) -> None:
        """Note that `next` was yielded."""
        order = self.order()
        self.next = order.after(self.next)

    def state(self) -> State:
        """This worker's own state."""
        return State.of(self.dataset, self.share, self.next, Part(self.worker, self.workers, self.start))
