"""Builds an index: reads what no table knows yet, in parallel, and puts the tables of all shards together.

Processes are spawned, never forked (a fork would inherit a server's listening socket), and end with their parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait as wait_for_handle
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from owl_stream.errors import ConfigError, DataError, WorkerError
from owl_stream.inert import guard_stderr
from owl_stream.machine import no_processes
from owl_stream.shards.columns import Columns, Summary, compose, open_columns
from owl_stream.shards.cost import Measure, MeasureFactory
from owl_stream.shards.exposure import tighten_index
from owl_stream.shards.index import Index
from owl_stream.shards.rows import RowTables, RowWriter
from owl_stream.shards.scan import scan_shard
from owl_stream.shards.shortcut import Shortcut
from owl_stream.shards.source import Shard
from owl_stream.shards.tables import IndexPlace, load_tables, save_tables

_POLL_S = 0.1

_Cells = Any
"""`list[int]` or a shared ctypes array of u64: both are indexed and sliced alike."""


@dataclass(frozen=True)
class Progress:
    """How far indexing is. Bytes and shards that earlier runs have read do not count, in done or total."""

    bytes_done: int
    bytes_total: int
    samples: int
    shards_done: int
    shards_total: int


def build_index(
    shards: Sequence[Shard],
    measure: MeasureFactory,
    recipe_digest: str,
    index_dir: Path | None,
    *,
    processes: int,
    on_bad_sample: Literal["mask", "fail", "report"],
    progress: Callable[[Progress], None] | None = None,
    keep_rows: bool = False,
) -> Index:
    """The index of these shards under this recipe. Only shards without tables, or with stale ones, are read.

    `processes` = 0 reads here, one shard after the other. `progress` is called from this thread, first with nothing
    done and last with everything, only if anything is read; without processes once a shard. `on_bad_sample`: "report"
    is for who wants the quarantine itself, and raises for no sample, even where none is good. `keep_rows` writes what
    the measure wants to find again (`Cost.row`) into a row table too, and reads shards that have none.
    The caller closes the index.

    Raises:
        ConfigError: no shards, the index directory cannot be written or is full, or no process can be started.
        ShardError: a shard is missing or unreadable, or (`fail`) damaged.
        SampleError: (`fail`) the first bad sample; the message counts the others.
        DataError: not one sample is good; the message counts by reason.
        DataChangedError: a shard changed meanwhile.
        ReadError: storage failed. WorkerError: an indexing process died.
    """
    if not shards:
        raise ConfigError("no shards to index; name at least one")
    place = IndexPlace(index_dir)
    indexing = _Indexing(measure, place, recipe_digest, keep_rows)
    columns = _columns_as_before(shards, indexing) or _columns_anew(shards, indexing, processes, progress or _ignore)
    tighten_index(place, shards, columns.address)
    index = Index(shards, columns)
    try:
        _judge(index, on_bad_sample)
    except BaseException:
        index.close()
        raise
    return index


def _judge(index: Index, on_bad_sample: Literal["mask", "fail", "report"]) -> None:
    """Raise what makes the index useless, or what `fail` asks for."""
    if on_bad_sample == "report":
        return
    if index.samples and (on_bad_sample == "mask" or not index.quarantined):
        return
    reasons = Counter(finding.reason for finding in index.quarantine())
    counts = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    if not index.samples:
        raise _nothing(index, reasons, counts)
    first = next(index.quarantine())
    told = f"{first.detail} (the first of {index.quarantined} findings: {counts}; on_bad_sample is `fail`)"
    raise replace(first, detail=told).error()


def _nothing(index: Index, reasons: Counter[str], counts: str) -> DataError:
    """No sample is good: which reasons there were, and one finding of the most frequent as an example."""
    shards = "1 shard" if len(index.shards) == 1 else f"{len(index.shards)} shards"
    most = reasons.most_common(1)[0][0]
    example = next(finding for finding in index.quarantine() if finding.reason == most).error()
    return DataError(
        f"not one good sample in {shards}: {counts}; for example: {example}; `owl-stream check` lists them all"
    )


@dataclass(frozen=True)
class _Indexing:
    """What one process needs in order to index a shard; picklable."""

    measure: MeasureFactory
    place: IndexPlace
    recipe_digest: str
    keep_rows: bool

    def shortcut(self, shards: Sequence[Shard]) -> Shortcut:
        """From these shards to their columns."""
        return Shortcut(self.place, shards, self.recipe_digest, with_rows=self.keep_rows)

    def summary(self, shard: Shard) -> Summary | None:
        """What is known of a shard; None where anything that is wanted of it is missing."""
        tables = load_tables(self.place, shard, self.recipe_digest)
        if tables is None:
            return None
        if self.keep_rows and not RowTables(self.place, self.recipe_digest).is_whole(shard, tables.digest):
            return None
        return Summary.of(tables)


def _columns_as_before(shards: Sequence[Shard], indexing: _Indexing) -> Columns | None:
    """The columns of an earlier run, if no shard and no table changed since; no table is read for that."""
    address = indexing.shortcut(shards).follow()
    return None if address is None else open_columns(indexing.place, shards, address)


def _columns_anew(
    shards: Sequence[Shard], indexing: _Indexing, processes: int, progress: Callable[[Progress], None]
) -> Columns:
    place = indexing.place
    known = [indexing.summary(shard) for shard in shards]
    unknown = [shard for shard, summary in zip(shards, known, strict=True) if summary is None]
    if unknown:
        inside = place.by_directory(shards)
        for directory in place.by_directory(unknown):
            place.prepare(directory, inside[directory])
        _scan_all(unknown, indexing, processes, progress)
    summaries = [_must(summary or indexing.summary(shard), shard) for shard, summary in zip(shards, known, strict=True)]
    columns = compose(place, shards, summaries, indexing.recipe_digest)
    indexing.shortcut(shards).save(columns.address)
    return columns


class _Stopped(Exception):  # noqa: N818 - asked for, not an error
    """Another shard failed: the rest of this one would be read in vain."""


class _Counters:
    """Bytes and samples by shard, and whether to stop, in memory that all processes share."""

    def __init__(self, cells: _Cells) -> None:
        self._cells = cells

    @staticmethod
    def cells(shards: int) -> int:
        return 1 + 2 * shards

    def stop(self) -> None:
        self._cells[0] = 1

    def tick(self, number: int, nbytes: int, samples: int) -> None:
        if self._cells[0]:
            raise _Stopped
        self._cells[1 + 2 * number], self._cells[2 + 2 * number] = nbytes, samples

    def progress(self, shards: Sequence[Shard], shards_done: int) -> Progress:
        cells = self._cells[1:]
        total = sum(shard.size for shard in shards)
        return Progress(sum(cells[::2]), total, sum(cells[1::2]), shards_done, len(shards))


def _scan_all(
    shards: Sequence[Shard], indexing: _Indexing, processes: int, progress: Callable[[Progress], None]
) -> None:
    if processes == 0:
        counters = _Counters([0] * _Counters.cells(len(shards)))
        measure = indexing.measure()
        for number, shard in enumerate(shards):
            progress(counters.progress(shards, number))
            _index_shard(number, shard, measure, indexing, counters)
        progress(counters.progress(shards, len(shards)))
        return
    workers = min(processes, len(shards))
    with _starting():
        context = multiprocessing.get_context("spawn")
        cells = context.RawArray(ctypes.c_uint64, _Counters.cells(len(shards)))
        pool = ProcessPoolExecutor(workers, context, _start, (indexing, cells))
    counters, before = _Counters(cells), set(multiprocessing.active_children())
    try:
        _feed(pool, workers, shards, counters, progress)
    except BrokenProcessPool as exc:
        raise WorkerError("an indexing process died: out of memory, or a crash in a decoder; index again") from exc
    finally:
        counters.stop()
        led = _is_led(pool)
        if not led:  # nobody gives these processes work, or ends them
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
        pool.shutdown(wait=led, cancel_futures=led)


def _is_led(pool: ProcessPoolExecutor) -> bool:
    """Whether the thread that gives a pool's processes their work is alive. One that cannot be started tells nobody."""
    thread = getattr(pool, "_executor_manager_thread", None)  # there is no public way to ask
    return thread is None or bool(thread.is_alive())


def _feed(
    pool: ProcessPoolExecutor,
    workers: int,
    shards: Sequence[Shard],
    counters: _Counters,
    progress: Callable[[Progress], None],
) -> None:
    # The longest shard first: it must not be the last one that everybody waits for.
    waiting = deque(sorted(range(len(shards)), key=lambda number: -shards[number].size))
    running: set[Future[None]] = set()
    while waiting or running:
        progress(counters.progress(shards, len(shards) - len(waiting) - len(running)))
        while waiting and len(running) < 2 * workers:
            number = waiting.popleft()
            with _interrupts_held(), _starting():
                running.add(pool.submit(_work, number, shards[number]))
        done, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        if running and not done and not _is_led(pool):
            with _starting():
                raise RuntimeError("can't start new thread")
    progress(counters.progress(shards, len(shards)))


@contextmanager
def _starting() -> Iterator[None]:
    """Say why processes, or the memory that they share, cannot be had.

    Raises:
        ConfigError, WorkerError: instead of an OSError, or of an ImportError where the system has no semaphores.
    """
    try:
        yield
    except (OSError, ImportError) as exc:
        raise no_processes(exc, "cannot start indexing processes") from exc


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to a whole group; processes that are begun meanwhile never see it, and end with us instead.

    They inherit the mask. It is not enough for us: the signal then comes through another thread, a library's say, and
    would part us from a process that still waits to hear what it is to do.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _handler_held():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handler_held() -> Iterator[None]:
    """What Python does on Ctrl-C it does once the block has ended."""
    handler, caught = signal.getsignal(signal.SIGINT), list[tuple[int, FrameType | None]]()
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # handlers run in the main thread only, and elsewhere nothing is interrupted
        return
    signal.signal(signal.SIGINT, lambda signum, frame: caught.append((signum, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])


def _index_shard(number: int, shard: Shard, measure: Measure, indexing: _Indexing, counters: _Counters) -> None:
    def tick(nbytes: int, samples: int) -> None:
        counters.tick(number, nbytes, samples)

    place, recipe_digest = indexing.place, indexing.recipe_digest
    if not indexing.keep_rows:
        save_tables(place, shard, recipe_digest, *scan_shard(shard, measure, tick))
        return
    with RowWriter(place, shard) as rows:
        scan, cost = scan_shard(shard, measure, tick, rows.add)
        rows.save(recipe_digest, scan, cost, save_tables(place, shard, recipe_digest, scan, cost))


class _Process:
    """State of an indexing process: set once when it starts."""

    indexing: _Indexing
    counters: _Counters
    measure: Measure | None = None


def _start(indexing: _Indexing, cells: _Cells) -> None:
    guard_stderr()
    _Process.indexing, _Process.counters = indexing, _Counters(cells)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        try:
            wait_for_handle([parent.sentinel])
        finally:  # a process that cannot tell whether its parent lives must not outlive it
            os._exit(1)


def _work(number: int, shard: Shard) -> None:
    # Made here and not in the initializer, so that its errors reach the caller as they are.
    if _Process.measure is None:
        _Process.measure = _Process.indexing.measure()
    with suppress(_Stopped):
        _index_shard(number, shard, _Process.measure, _Process.indexing, _Process.counters)


def _must(summary: Summary | None, shard: Shard) -> Summary:
    if summary is None:
        raise WorkerError(f"shard {shard.name}: its index files vanished right after they were written; index again")
    return summary


def _ignore(_progress: Progress) -> None: ...
