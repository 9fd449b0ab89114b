"""What the dashboard shows, gathered from the running server's parts; ready for JSON."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from owl_stream import __version__
from owl_stream.assemble import Dataset
from owl_stream.server.catalogue import Entry
from owl_stream.server.notes import note_words
from owl_stream.server.pages.history import EVERY_S, History, Sample
from owl_stream.server.state import ServerState
from owl_stream.server.streams import MaskedSample, StreamRecord

SHOWN_MASKED = 100
"""Samples masked lately that the dashboard lists."""

COUNT_S = 2.0
"""How long the page waits for quarantines to be counted, which is done once."""

RATE_OVER = 10
"""Looks back for the rate that advice names."""


class Overview:
    """The running server in numbers: now, and over the last ten minutes."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self.history = History(self._sample)
        self._counting: dict[str, asyncio.Task[dict[str, int]]] = {}
        """By the name of a dataset: a fingerprint says nothing about bad samples."""

    async def reasons(self, dataset: Dataset) -> dict[str, int]:
        """How many samples were quarantined for each reason, most frequent first. Reads the quarantine once.

        Raises:
            ReadError: the index cannot be read.
        """
        return await asyncio.shield(self._count(dataset))

    def _count(self, dataset: Dataset) -> asyncio.Task[dict[str, int]]:
        counting = self._counting.get(dataset.name)
        if counting is None or (counting.done() and (counting.cancelled() or counting.exception() is not None)):
            counted = dataset.pages.run(f"counting the quarantine of {dataset.name}", _reasons, dataset)
            counting = self._counting[dataset.name] = asyncio.create_task(counted)
            counting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return counting

    async def show(self, since: int) -> dict[str, Any]:
        """Everything the dashboard shows. `history` holds the samples from number `since` on.

        A dataset whose quarantine is not counted yet is shown without its reasons: one index that cannot be read must
        not keep the page from showing the others.
        """
        counting = [self._count(dataset) for dataset in self._state.catalogue.datasets()]
        if counting:
            await asyncio.wait(counting, timeout=COUNT_S)
        return self._show(since)

    def _show(self, since: int) -> dict[str, Any]:
        state = self._state
        engine = state.engine.statistics()
        following, samples = self.history.since(since)
        return {
            "version": __version__,
            "uptime_s": self._uptime_s(),
            "draining": state.draining.is_set(),
            "engine": {"workers": engine.workers, "busy": engine.busy, "queued": engine.queued},
            "advice": self._advice(),
            "failures": {what: str(error) for what, error in state.failures.items()},
            "datasets": [self._dataset(entry) for entry in list(state.catalogue.entries.values())],
            "streams": [_stream(record) for record in list(state.streams.open.values())],
            "masked": [_masked(bad) for bad in list(state.streams.masked.values())[-SHOWN_MASKED:]][::-1],
            "history": {"next": following, "every_s": EVERY_S, "fields": Sample._fields, "samples": samples},
        }

    def _dataset(self, entry: Entry) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": entry.name, "status": entry.status, "progress": round(entry.progress, 4)}
        if entry.error is not None:
            shown["error"] = str(entry.error)
        if (dataset := entry.dataset) is not None:
            shown |= {
                "fingerprint": dataset.fingerprint,
                "layout": dataset.layout.name,
                "samples": dataset.samples,
                "quarantined": dataset.quarantined,
                "global_batch_size": dataset.global_batch_size,
                "steps_per_epoch": dataset.steps_per_epoch,
                "reasons": self._counted(dataset),
                "notes": note_words(dataset.notes),
                "masked": dict(sent.masked) if (sent := self._state.streams.sent.get(entry.name)) else {},
            }
        return shown

    def _counted(self, dataset: Dataset) -> dict[str, int]:
        counting = self._counting.get(dataset.name)
        known = counting is not None and counting.done() and not counting.cancelled() and not counting.exception()
        return counting.result() if counting is not None and known else {}

    def _sample(self) -> Sample:
        streams = self._state.streams
        counts = sum((sent.counts for sent in streams.sent.values()), Counter[str]())
        return Sample(
            at_s=self._uptime_s(),
            batches=streams.sums["batches"],
            nbytes=streams.sums["bytes"],
            rows=counts["rows_ok"] + counts["rows_repeated"],
            tokens=counts["tokens"],
            padding=counts["padding"],
            streams=len(streams.open),
        )

    def _advice(self) -> str:
        """What would make trainers wait less; nothing while they are the slower side."""
        bottleneck = self._state.bottleneck
        recent = self.history.since(0)[1][-RATE_OVER:]
        if bottleneck is None or not recent:
            return ""
        now = self._sample()
        return bottleneck.advice((now.rows - recent[0].rows) / max(now.at_s - recent[0].at_s, EVERY_S))

    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._state.began, 3)


def _reasons(dataset: Dataset) -> dict[str, int]:
    return dict(Counter(str(bad["reason"]) for bad in dataset.quarantine()).most_common())


def _stream(record: StreamRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "dataset": record.dataset,
        **record.at._asdict(),
        "batches": record.batches,
        "nbytes": record.nbytes,
        "age_s": round(time.monotonic() - record.began, 3),
        "assembly_wait_s": round(record.assembly_wait_s, 4),
        "reader_wait_s": round(record.reader_wait_s, 4),
        "slower": record.slower,
        "reader": record.reader,
    }


def _masked(bad: MaskedSample) -> dict[str, Any]:
    return {"dataset": bad.dataset, **bad.at._asdict(), **asdict(bad.found)}
