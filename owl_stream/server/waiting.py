"""Who waits for whom on a stream: the reader for assembly, or the server for the reader."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

Side = Literal["assembly", "reader"]
"""What is waited for: a frame that is being assembled, or a reader that takes nothing more."""

Slower = Literal["server", "trainer", "even"]

HALF_LIFE_S = 15.0
"""What counts as now: waiting of half a minute ago weighs a quarter."""


class Waiting:
    """Seconds waited, in all and of late. The wait under way counts too. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total: dict[Side, float] = {"assembly": 0.0, "reader": 0.0}
        self._recent: dict[Side, float] = {"assembly": 0.0, "reader": 0.0}
        self._decayed_at = clock()
        self._now: tuple[Side, float] | None = None

    def on(self, side: Side) -> _Wait:
        """The block waits for that side."""
        return _Wait(self, side)

    def begin(self, side: Side) -> None:
        """From now on that side is waited for."""
        self._now = (side, self._clock())

    def end(self) -> None:
        """What was waited for is there."""
        if self._now is not None:
            (side, began), self._now = self._now, None
            waited = self._decay() - began
            self._total[side] += waited
            self._recent[side] += waited

    def seconds(self, side: Side) -> float:
        """Waited for that side since the stream began."""
        return self._total[side] + self._under_way(side)

    @property
    def slower(self) -> Slower:
        """The side that is waited for more, of late; `even` where nobody has waited."""
        server = self._recent["assembly"] + self._under_way("assembly")
        trainer = self._recent["reader"] + self._under_way("reader")
        if server == trainer:
            return "even"
        return "server" if server > trainer else "trainer"

    def _under_way(self, side: Side) -> float:
        now = self._now
        return self._clock() - now[1] if now is not None and now[0] == side else 0.0

    def _decay(self) -> float:
        """Let what was waited fade up to now; returns the time."""
        now = self._clock()
        share = 0.5 ** ((now - self._decayed_at) / HALF_LIFE_S)
        self._decayed_at = now
        for side in self._recent:
            self._recent[side] *= share
        return now


class _Wait:
    """A block that waits; entered for every frame."""

    __slots__ = ("_side", "_waiting")

    def __init__(self, waiting: Waiting, side: Side) -> None:
        self._waiting, self._side = waiting, side

    def __enter__(self) -> None:
        self._waiting.begin(self._side)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._waiting.end()
