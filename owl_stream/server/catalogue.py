"""Which datasets this server has, and how far each is on its way to being served."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from owl_stream.assemble import CacheSettings, Dataset, open_dataset
from owl_stream.blocking import Running
from owl_stream.config import Config
from owl_stream.errors import OwlStreamError, ServerBusyError, UnknownDatasetError
from owl_stream.machine import explained
from owl_stream.shards import Progress

RETRY_AFTER_INDEXING_S = 2.0


@dataclass
class Entry:
    """One configured dataset. `progress` is the share of bytes indexed, 0 to 1.

    `heard_at`: when opening it last made progress, by the monotonic clock; None while it is not being opened.
    """

    name: str
    status: Literal["indexing", "ready", "failed"] = "indexing"
    progress: float = 0.0
    dataset: Dataset | None = None
    error: OwlStreamError | None = None
    heard_at: float | None = None

    @property
    def silent_s(self) -> float:
        """Seconds without progress in opening it."""
        return 0.0 if self.heard_at is None else time.monotonic() - self.heard_at


@dataclass
class Catalogue:
    """The configured datasets. `open` reads one, in a thread; then it is `admit`ted, or has `fail`ed for good.

    Everything but `open` is called on the event loop, or where nothing changes.
    """

    config: Config
    index_dir: Path | None = None
    processes: int = 0
    entries: dict[str, Entry] = field(init=False)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.entries = {name: Entry(name) for name in self.config.datasets}

    def open(self, name: str) -> Dataset:
        """Open (index, where needed) a dataset; whoever calls admits or closes it.

        Raises what `open_dataset` raises.
        """
        entry = self.entries[name]
        entry.heard_at = time.monotonic()
        try:
            return open_dataset(
                name,
                self.config.datasets[name],
                base=self.config.base,
                index_dir=self.index_dir,
                processes=self.processes,
                max_frame_bytes=self.config.server.max_frame_bytes,
                cache=self._cache,
                stall_s=self.config.server.job_timeout_s,
                progress=partial(self._note, entry),
            )
        finally:
            entry.heard_at = None

    def admit(self, dataset: Dataset) -> None:
        """From now on it is served."""
        entry = self.entries[dataset.name]
        entry.dataset, entry.status, entry.progress = dataset, "ready", 1.0

    def fail(self, name: str, exc: Exception) -> OwlStreamError:
        """It will not be served before the server is started again; returns why, as everyone who asks for it hears."""
        error = explained(exc, f"opening dataset {name}")
        self.entries[name].status, self.entries[name].error = "failed", error
        return error

    @property
    def _cache(self) -> CacheSettings | None:
        settings = self.config.server.cache
        return None if settings is None else CacheSettings(self.config.base / settings.dir, settings.max_bytes)

    def stop(self) -> None:
        """Make `open` give up at its next report of progress."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def _note(self, entry: Entry, done: Progress) -> None:
        if self.stopped:
            raise ServerBusyError("the server stops: indexing was given up and goes on at the next start")
        progress = done.bytes_done / max(done.bytes_total, 1)
        if progress != entry.progress:  # it is told again and again, so that it can be stopped
            entry.progress, entry.heard_at = progress, time.monotonic()

    def get(self, name: str) -> Dataset:
        """The dataset of that name, ready to serve.

        Raises:
            UnknownDatasetError: naming those there are.
            ServerBusyError: it is being indexed.
            OwlStreamError: why it could not be opened.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise UnknownDatasetError(f"no dataset {name!r:.80}; this server has: {', '.join(self.entries)}")
        if entry.error is not None:
            raise entry.error.with_traceback(None)  # else each request would leave its own in it
        if entry.dataset is None:
            raise ServerBusyError(
                f"dataset {name!r} is being indexed, {entry.progress:.0%} done; ask again", RETRY_AFTER_INDEXING_S
            )
        return entry.dataset

    def ready(self) -> bool:
        """Whether every dataset can be served."""
        return all(entry.status == "ready" for entry in self.entries.values())

    def stuck(self) -> list[Running]:
        """Datasets whose opening has made no progress for as long as one read may take."""
        longest_s = self.config.server.job_timeout_s
        silent = {name: entry.silent_s for name, entry in self.entries.items()}
        return [Running(f"opening {name}", seconds) for name, seconds in silent.items() if seconds >= longest_s]

    @property
    def failures(self) -> dict[str, OwlStreamError]:
        """Why datasets could not be opened, by name."""
        return {name: entry.error for name, entry in self.entries.items() if entry.error is not None}

    def datasets(self) -> Iterator[Dataset]:
        """Those that are open."""
        return (entry.dataset for entry in self.entries.values() if entry.dataset is not None)

    def close(self) -> None:
        """Close what is open."""
        for dataset in self.datasets():
            dataset.close()
