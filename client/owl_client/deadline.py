"""When waiting has to end, whatever arrives until then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Deadline:
    """A moment by which something must have come. Only progress moves it; without `seconds` it never comes."""

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Let it come `seconds` from now."""
        self.seconds, self._at = seconds, self._clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until it comes; below 0 afterwards."""
        return self._at - self._clock()

    @property
    def passed(self) -> bool:
        """Whether it has come."""
        return self._clock() >= self._at

    def within(self, seconds: float) -> Deadline:
        """A deadline for one part of what must have come: in `seconds`, but not after this one."""
        return Deadline(min(seconds, self.left_s), self._clock)
