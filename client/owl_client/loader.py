"""What goes wrong with DataLoaders, refused; and a DataLoader that knows what the trainer took from it."""

from __future__ import annotations

import copy
import errno
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from owl_client.batch import BATCHED, Batch
from owl_client.crossing import no_room
from owl_client.metrics import ReadingMetrics, Trained
from owl_stream.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from owl_client.dataset import OwlStreamDataset

_FETCHER = "torch.utils.data._utils.fetch"
"""The module of torch in which a DataLoader asks a dataset for its iterator, here and in workers."""

_ACCELERATE = "accelerate.data_loader"
_REDISTRIBUTE = {
    "DataLoaderDispatcher": "cuts the batches of rank 0 for all ranks (dispatch_batches)",
    "IterableDatasetShard": "gives each rank one of every few batches",
}
"""Loaders of Accelerate, and what they do with batches."""

_SETTLED = ("batch_size", "shuffle", "sampler", "batch_sampler", "collate_fn", "drop_last")


def refuse_batching() -> None:
    """To be called by a dataset's `__iter__`.

    torch tells a dataset nothing about the loader that reads it, so the frame that asks is looked at. `collate_fn`s of
    trainers, Hugging Face's default one for example, stack batches without a word where batch_size is 1.

    Raises:
        RequestError: a DataLoader asks that collects items into lists and collates these.
    """
    frame = sys._getframe(1).f_back
    if frame is None:
        return
    if frame.f_globals.get("__name__") == _FETCHER and getattr(frame.f_locals.get("self"), "auto_collation", False):
        raise RequestError(BATCHED)


def refuse_redistribution() -> None:
    """To be called by a dataset's `set_epoch`, which loaders of Accelerate call before they ask for a batch.

    Raises:
        ConfigError: a loader asks that would cut batches for other ranks, or give each rank every n-th.
    """
    frame = sys._getframe(1).f_back
    if frame is None or frame.f_globals.get("__name__") != _ACCELERATE:
        return
    kind = type(frame.f_locals.get("self")).__name__
    if kind in _REDISTRIBUTE:
        raise ConfigError(
            f"accelerator.prepare(loader) has made a {kind}, which {_REDISTRIBUTE[kind]}; every rank reads its own "
            f"whole batches already: leave the loader out of prepare, and move batches with "
            f"batch.to(accelerator.device); under Hugging Face's Trainer put OwlStreamMixin before it"
        )


class OwlStreamLoader(DataLoader[Batch]):
    """A DataLoader over an `OwlStreamDataset` whose `state_dict()` is the state after the last batch it handed out.

    For trainers that need workers (`num_workers`) and keep a loader's state by themselves, Lightning for example. A
    pass that was left early goes on behind its last batch, with workers too.

    Args:
        dataset: read as it is; it must not be read elsewhere at the same time.
        options: those of DataLoader that are not about making batches: `num_workers`, `pin_memory`,
            `persistent_workers`, `prefetch_factor`, `multiprocessing_context`...

    Raises:
        ConfigError: an option that would batch, shuffle or collate.
    """

    def __init__(self, dataset: OwlStreamDataset, **options: Any) -> None:
        wrong = sorted(name for name in _SETTLED if options.get(name))
        if wrong:
            raise ConfigError(
                f"OwlStreamLoader: {', '.join(wrong)}: expected none of them, for every item of the dataset is a whole "
                f"batch, in an order that is settled"
            )
        options = {name: value for name, value in options.items() if name not in _SETTLED}
        super().__init__(dataset, batch_size=None, **options)
        self._stream = dataset
        self._trained, self._waited_s = Trained(), 0.0
        self._metrics = ReadingMetrics(self._trained, lambda: self._waited_s)
        self._state: dict[str, Any] | None = None
        """After the last batch of a pass through workers, of which the dataset in this process knows nothing."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # DataLoader promises its own class, and needs none
        """The rest of the current epoch. Workers start when the first batch is asked for."""
        if self._state is not None:
            self._stream.go_on_behind(self._state)
            self._state = None
        batches, began = self._batches(), time.perf_counter()
        for batch in batches:
            self._waited_s += time.perf_counter() - began
            self._trained.add(batch)
            self._state = batch.meta.state
            yield batch
            began = time.perf_counter()

    def _batches(self) -> Iterator[Batch]:
        try:
            batches: Iterator[Batch] = super().__iter__()
        except OSError as exc:  # its queues need shared memory before any batch does
            if self.num_workers and exc.errno in {errno.ENOSPC, errno.ENOENT, errno.EROFS, errno.EACCES}:
                raise no_room("the queues of a DataLoader", exc) from exc
            raise
        return batches

    def metrics(self) -> dict[str, float]:
        """As `OwlStreamDataset.metrics`, with workers too."""
        return self._metrics.look(self._stream.micros_per_step)

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch handed out; before the first, the dataset's own."""
        if self._state is not None and self._stream.read_by_workers:
            return copy.deepcopy(self._state)
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `state`, with the next `for`.

        Raises:
            OwlStreamError: as `OwlStreamDataset.load_state_dict`.
        """
        self._stream.load_state_dict(state)
        self._state = None
