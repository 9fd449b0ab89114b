"""Several shards written at a time, and each noted when it is complete."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import xxhash

from owl_stream.pack.entry import Entry
from owl_stream.pack.journal import Journal
from owl_stream.pack.settings import PackSettings
from owl_stream.pack.tar import PackedShard, readers_of_entries, write_shard
from owl_stream.privacy import tighten


class Writing:
    """Writes shards in threads, as many at a time as there are workers; reading waits for it."""

    def __init__(self, settings: PackSettings, journal: Journal, workers: int) -> None:
        self._settings, self._journal, self._workers = settings, journal, workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pack")
        self._stop = Event()
        self._shards: list[PackedShard | None] = []
        self._running: deque[tuple[int, str, Future[PackedShard]]] = deque()
        self.kept = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Write the next shard, unless an earlier run has; waits while as many as there are workers are under way.

        Raises:
            ConfigError, DataError: what went wrong with an earlier shard.
        """
        name = f"{self._settings.name}-{len(self._shards):06d}.tar"
        digest = xxhash.xxh3_128()
        for entry in entries:
            entry.update(digest)
        assignment = digest.hexdigest()
        finished = self._journal.finished(name, assignment)
        self._shards.append(finished)
        if finished is not None:
            self.kept += 1
            tighten(self._settings.out / name, readers_of_entries(entries, self._settings.out))
            return
        self._journal.begin()
        task = self._pool.submit(write_shard, self._settings.out / name, entries, self._stop)
        self._running.append((len(self._shards) - 1, assignment, task))
        while len(self._running) > self._workers:
            self._settle()

    def finish(self) -> list[PackedShard]:
        """Wait for all shards; the same errors as `add`."""
        while self._running:
            self._settle()
        return [shard for shard in self._shards if shard is not None]

    def close(self) -> None:
        """Stop what is still under way; half a shard is only a temporary file."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self) -> None:
        number, assignment, task = self._running.popleft()
        self._shards[number] = shard = task.result()
        self._journal.note(shard, assignment)
