"""Where reading goes on, in memory that DataLoader workers share with their parent.

A DataLoader tells its dataset nothing: workers are forked or spawned anew for each pass over the data, or kept and
asked to iterate again, and the parent's own copy never learns that an epoch was read. So the place lives in shared
memory. All workers of a pass agree on where it began, and only a pass that every worker finished moves it on.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from owl_client.crossing import no_room, share_cells
from owl_stream.errors import RequestError
from owl_stream.wire import Cursor

log = logging.getLogger("owl_client")

MOST_WORKERS = 1024

_ACTIVE, _PIN, _SLOTS = 0, 1, 2
_SLOT_CELLS = 5
"""pass, epoch, step, micro, workers. There are two slots: readers use one while a writer prepares the other."""
_FINISHED = _SLOTS + 2 * _SLOT_CELLS
"""Per worker the last pass that it has read to the end, and behind these per worker the last that it has begun."""
_BEGUN = _FINISHED + MOST_WORKERS
_NO_PASS = 0


class Position:
    """A cursor, and for passes by workers which of them finished. Survives fork, spawn and deepcopy."""

    def __init__(self) -> None:
        self._tensor = torch.zeros(_BEGUN + MOST_WORKERS, dtype=torch.int64, device="cpu")
        self._alone = not share_cells(self._tensor)
        """No memory could be shared: well enough until workers read."""
        self._cells: NDArray[np.int64] = self._tensor.numpy()
        self._passes = 0

    def __getstate__(self) -> dict[str, Any]:
        # torch would try again to share a tensor that is to be pickled, and fail where nobody says what it was for
        cells = self._cells.copy() if self._alone else self._tensor
        return {"cells": cells, "passes": self._passes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        cells, self._passes = state["cells"], state["passes"]
        self._alone = isinstance(cells, np.ndarray)
        self._tensor = torch.from_numpy(cells) if self._alone else cells
        if not self._alone:  # a plain copy may have taken them out of shared memory
            self._alone = not share_cells(self._tensor)
        self._cells = self._tensor.numpy()

    @property
    def cursor(self) -> Cursor:
        """The next micro-batch of the whole rank, or where the workers' present pass began."""
        _, epoch, step, micro, _ = self._slot().tolist()
        return Cursor(epoch, step, micro)

    @property
    def read_by_workers(self) -> bool:
        """Whether the latest pass was read through workers: then only their batches know how far it got."""
        return bool(self._slot()[0] != _NO_PASS)

    def move(self, cursor: Cursor) -> None:
        """Go on at `cursor`."""
        self._write(_NO_PASS, cursor, 0)

    def begin_pass(self, worker: int, workers: int, seed: int) -> Cursor:
        """Where worker `worker` of `workers` begins; `seed` is the same for all workers of a DataLoader's iterator.

        A pass that all workers of the one before finished begins the next epoch; an abandoned one begins again.

        Raises:
            RequestError: more workers than there are cells for.
            ConfigError: no memory could be shared with the other workers.
        """
        if self._alone:
            raise no_room(f"the {self._tensor.nbytes} bytes in which workers note how far they are")
        if workers > MOST_WORKERS:
            raise RequestError(f"num_workers: expected at most {MOST_WORKERS}, got {workers}")
        self._passes += 1
        this = _digest(f"{seed}/{self._passes}")
        if int(self._cells[_BEGUN + worker]) == this:  # whoever seeds torch alike gives two passes the same seed
            this = _digest(f"{this}")
        self._cells[_BEGUN + worker] = this
        while True:
            active = int(self._cells[_ACTIVE])
            before, epoch, step, micro, count = self._slot(active).tolist()
            cursor = Cursor(epoch, step, micro)
            if before == this:
                return cursor
            if before != _NO_PASS and bool((self._cells[_FINISHED : _FINISHED + count] == before).all()):
                cursor = Cursor(epoch + 1, 0, 0)
            # Unless a sibling was quicker, this is what every sibling computes from the same cells.
            if int(self._cells[_ACTIVE]) == active:
                if before != _NO_PASS and cursor.epoch == epoch:
                    _say_abandoned(cursor)
                self._write(this, cursor, workers, active)
                return cursor

    def finish_pass(self, worker: int) -> None:
        """Note that a worker has read its part of the pass that it began to the end of the epoch."""
        self._cells[_FINISHED + worker] = self._cells[_BEGUN + worker]

    def restore_pass(self, worker: int, workers: int, start: Cursor) -> None:
        """Take up, in every worker, a pass that was begun at `start` elsewhere; each knows how far its own part is."""
        self._write(_digest(f"{start}/{workers}"), start, workers)

    def pin(self, identity: str) -> bool:
        """Bind all processes that share this to one identity of the data; False when they are bound to another."""
        digest = _digest(identity)
        if self._cells[_PIN] == 0:
            self._cells[_PIN] = digest
        return bool(self._cells[_PIN] == digest)

    def unpin(self) -> None:
        """Let another identity be bound."""
        self._cells[_PIN] = 0

    def _slot(self, active: int | None = None) -> NDArray[np.int64]:
        start = _SLOTS + _SLOT_CELLS * int(self._cells[_ACTIVE] if active is None else active)
        return self._cells[start : start + _SLOT_CELLS]

    def _write(self, which_pass: int, cursor: Cursor, workers: int, active: int | None = None) -> None:
        other = 1 - int(self._cells[_ACTIVE] if active is None else active)
        self._slot(other)[:] = (which_pass, *cursor, workers)
        self._cells[_ACTIVE] = other


class FixedPosition(Position):
    """Always the beginning of epoch 0, for evaluation: every pass starts there, however far the one before got."""

    @property
    def cursor(self) -> Cursor:
        """The first micro-batch."""
        return Cursor(0, 0, 0)

    @property
    def read_by_workers(self) -> bool:
        """False: no pass depends on who read the one before."""
        return False

    def move(self, cursor: Cursor) -> None:
        """Nothing moves it."""

    def begin_pass(self, worker: int, workers: int, seed: int) -> Cursor:
        """The first micro-batch, for every worker."""
        return self.cursor

    def finish_pass(self, worker: int) -> None:
        """Nothing to note."""


def _say_abandoned(start: Cursor) -> None:
    log.warning(
        "the last pass through DataLoader workers was left before its end, so this one begins again at epoch %d, step "
        "%d; OwlStreamLoader, or load_state_dict(state_dict(batch)), goes on behind the last batch",
        start.epoch,
        start.step,
    )


def _digest(text: str) -> int:
    """A positive 63-bit number that stands for a text."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1 | 1
