"""Who waits for whom on a stream: the reader for assembly, or the server for the reader."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self._total: Counter[Side] = Counter()
        self._recent: dict[Side, float] = {"assembly": 0.0, "reader": 0.0}
        self._decayed_at = clock()
        self._now: tuple[Side, float] | None = None

    @contextmanager
    def on(self, side: Side) -> Iterator[None]:
        """The block waits for that side."""
        began = self._clock()
        self._now = (side, began)
        try:
            yield
        finally:
            self._now = None
            waited = self._clock() - began
            self._decay()
            self._total[side] += waited  # type: ignore[assignment] # a Counter of seconds
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

    def _decay(self) -> None:
        now = self._clock()
        share = 0.5 ** ((now - self._decayed_at) / HALF_LIFE_S)
        self._decayed_at = now
        for side in self._recent:
            self._recent[side] *= share
