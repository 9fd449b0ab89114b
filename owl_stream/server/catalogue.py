"""Which datasets this server has, and how far each is on its way to being served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from owl_stream.assemble import CacheSettings, Dataset, open_dataset
from owl_stream.config import Config
from owl_stream.errors import OwlStreamError, ServerBusyError, UnknownDatasetError
from owl_stream.shards import Progress

RETRY_AFTER_INDEXING_S = 2.0


@dataclass
class Entry:
    """One configured dataset. `progress` is the share of bytes indexed, 0 to 1."""

    name: str
    status: Literal["indexing", "ready", "failed"] = "indexing"
    progress: float = 0.0
    dataset: Dataset | None = None
    error: OwlStreamError | None = None


@dataclass
class Catalogue:
    """The configured datasets. `open_all` fills it from a thread; everything else may be called from anywhere."""

    config: Config
    index_dir: Path | None = None
    processes: int = 0
    entries: dict[str, Entry] = field(init=False)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.entries = {name: Entry(name) for name in self.config.datasets}

    def open_all(self) -> None:
        """Open (index, where needed) every dataset in turn.

        Raises:
            OwlStreamError: the first failure; the entry keeps it too.
        """
        for name, entry in self.entries.items():
            try:
                entry.dataset = open_dataset(
                    name,
                    self.config.datasets[name],
                    base=self.config.base,
                    index_dir=self.index_dir,
                    processes=self.processes,
                    max_frame_bytes=self.config.server.max_frame_bytes,
                    cache=self._cache,
                    progress=lambda done, entry=entry: self._note(entry, done),  # type: ignore[misc]
                )
            except OwlStreamError as exc:
                entry.status, entry.error = "failed", exc
                raise
            entry.status, entry.progress = "ready", 1.0

    @property
    def _cache(self) -> CacheSettings | None:
        settings = self.config.server.cache
        return None if settings is None else CacheSettings(self.config.base / settings.dir, settings.max_bytes)

    def stop(self) -> None:
        """Make `open_all` give up at its next report of progress."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def _note(self, entry: Entry, done: Progress) -> None:
        if self.stopped:
            raise ServerBusyError("the server stops: indexing was given up and goes on at the next start")
        entry.progress = done.bytes_done / max(done.bytes_total, 1)

    def get(self, name: str) -> Dataset:
        """The dataset of that name, ready to serve.

        Raises:
            UnknownDatasetError: naming those there are.
            ServerBusyError: it is being indexed.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise UnknownDatasetError(f"no dataset {name!r:.80}; this server has: {', '.join(self.entries)}")
        if entry.error is not None:
            raise entry.error
        if entry.dataset is None:
            raise ServerBusyError(
                f"dataset {name!r} is being indexed, {entry.progress:.0%} done; ask again", RETRY_AFTER_INDEXING_S
            )
        return entry.dataset

    def ready(self) -> bool:
        """Whether every dataset can be served."""
        return all(entry.status == "ready" for entry in self.entries.values())

    def datasets(self) -> Iterator[Dataset]:
        """Those that are open."""
        return (entry.dataset for entry in self.entries.values() if entry.dataset is not None)

    def close(self) -> None:
        """Close what is open."""
        for dataset in self.datasets():
            dataset.close()
