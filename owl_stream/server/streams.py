"""The streams that are open now: how many there may be, and what each has done."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from owl_stream.assemble import Assembled
from owl_stream.engine import Coordinate
from owl_stream.errors import TooManyStreamsError
from owl_stream.server.reports import ACTIVITIES
from owl_stream.server.waiting import Side, Slower, Waiting
from owl_stream.shards import Quarantined

RETRY_AFTER_FULL_S = 1.0
MAX_MASKED = 1000
"""Samples found bad at assembly that are remembered, the latest; a page shows them, counters count them all."""


@dataclass
class StreamRecord:
    """One open stream. `id` is what logs, traces and the answer's head call it, `reader` the name of its token.

    `report` is what its client said of itself when it asked; `ended` how it ends, unless it is told otherwise.
    """

    number: int
    dataset: str
    at: Coordinate
    reader: str = ""
    report: Mapping[str, float] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    began: float = field(default_factory=time.monotonic)
    batches: int = 0
    nbytes: int = 0
    waiting: Waiting = field(default_factory=Waiting)
    ended: str = "gone"

    @property
    def assembly_wait_s(self) -> float:
        """Seconds that the reader was starved."""
        return self.waiting.seconds("assembly")

    @property
    def reader_wait_s(self) -> float:
        """Seconds that the server was held up."""
        return self.waiting.seconds("reader")

    @property
    def slower(self) -> Slower:
        """Which side the other one waits for, of late."""
        return self.waiting.slower


@dataclass
class Sent:
    """What the streams of one dataset have sent: `counts` are `Assembled.counts`, `masked` rows by reason.

    `waited` are the seconds of streams that have ended, by what was waited for.
    """

    batches: int = 0
    nbytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    waited: dict[Side, float] = field(default_factory=lambda: {"assembly": 0.0, "reader": 0.0})


@dataclass(frozen=True)
class MaskedSample:
    """A sample that was found bad at assembly, and a micro-batch that it was masked in."""

    dataset: str
    at: Coordinate
    found: Quarantined


class Streams:
    """A bounded set of open streams and the sums over all that ever were."""

    def __init__(self, max_streams: int, max_streams_per_token: int | None = None) -> None:
        self._max_streams, self._max_streams_per_token = max_streams, max_streams_per_token
        self._numbers = itertools.count(1)
        self.open: dict[int, StreamRecord] = {}
        self.sums: Counter[str] = Counter()
        self.sent: defaultdict[str, Sent] = defaultdict(Sent)
        self.ended: Counter[str] = Counter()
        self.reported: dict[str, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self.masked: OrderedDict[tuple[str, str, str], MaskedSample] = OrderedDict()

    @contextmanager
    def admit(
        self, dataset: str, at: Coordinate, reader: str = "", report: Mapping[str, float] | None = None
    ) -> Iterator[StreamRecord]:
        """Hold a place while a stream runs. `reader` is the name of its token, `report` what its client said.

        Raises:
            TooManyStreamsError: all places are taken.
        """
        self.check(reader)
        record = StreamRecord(next(self._numbers), dataset, at, reader, report or {})
        self.open[record.number] = record
        self.sums["streams"] += 1
        for activity, seconds in record.report.items():
            self.reported[activity] += seconds
        try:
            yield record
        finally:
            del self.open[record.number]
            self.ended[record.ended] += 1
            for side, seconds in self.sent[dataset].waited.items():
                self.sent[dataset].waited[side] = seconds + record.waiting.seconds(side)

    def note_sent(self, record: StreamRecord, at: Coordinate, assembled: Assembled) -> None:
        """Count a frame that a reader has been sent."""
        sent = self.sent[record.dataset]
        for each in (record, sent):
            each.batches += 1
        self.sums["batches"] += 1
        self.sums["bytes"] += assembled.nbytes
        sent.nbytes += assembled.nbytes
        sent.counts.update(assembled.counts)
        sent.masked.update(bad.reason for bad in assembled.masked)
        self.note_masked(record.dataset, at, assembled.masked)

    def note_masked(self, dataset: str, at: Coordinate, found: tuple[Quarantined, ...]) -> None:
        """Remember samples that were masked in a micro-batch, each once, where it was last."""
        for bad in found:
            key = (dataset, bad.shard, bad.key)
            self.masked[key] = MaskedSample(dataset, at, bad)
            self.masked.move_to_end(key)
            if len(self.masked) > MAX_MASKED:
                self.masked.popitem(last=False)

    def check(self, reader: str = "") -> None:
        """Raise TooManyStreamsError when no place is free, or none for the token of that name."""
        if len(self.open) >= self._max_streams:
            self._refuse(f"{len(self.open)} streams are open, the limit is {self._max_streams}", "max_streams")
        most = self._max_streams_per_token
        if reader and most is not None and (held := sum(each.reader == reader for each in self.open.values())) >= most:
            self._refuse(f"{held} streams of {reader!r} are open, the limit is {most}", "max_streams_per_token")

    def _refuse(self, what: str, setting: str) -> NoReturn:
        self.sums["refused"] += 1
        self.sums[f"refused_{setting}"] += 1
        raise TooManyStreamsError(
            f"{what}: ask again, ask another server, or raise server.{setting}", RETRY_AFTER_FULL_S
        )
