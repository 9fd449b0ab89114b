"""What is done again and again in a thread of its own until it is told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable

Turn = Callable[[threading.Event], None]
"""One turn. The event is set when the loop is to end: whoever waits inside a turn waits on it."""


class Loop:
    """Calls `turn` until `stop`; the first exception ends it and is a failure."""

    def __init__(self, name: str, turn: Turn) -> None:
        self.name, self._turn = name, turn
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell it to end, without waiting."""
        self._stopping.set()

    def finish(self, patience_s: float) -> list[str]:
        """Wait for its end; returns what went wrong, in words."""
        self.stop()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            return [f"{self.name}: did not end within {patience_s:g} s"]
        return [f"{self.name}: {self._failure!r}"] if self._failure is not None else []

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn(self._stopping)
        except BaseException as exc:
            self._failure = exc
