"""A reader in a thread, and what it should have read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from owl_client import Backoff, OwlStreamDataset, Timeouts
from tests.support.hashes import batch_line
from tests.support.patience import PATIENCE_S


class Load:
    """Reads epoch after epoch at full speed until `finish`; what it reads is kept as lines, to be compared.

    With `pause_s` it does nothing for so long behind every fourth batch, as a trainer does that evaluates.
    """

    def __init__(self, urls: Sequence[str], *, pause_s: float = 0.0, **options: Any) -> None:
        settings = {
            "dtype": torch.uint8,
            "timeouts": Timeouts(read_s=3.0),
            "backoff": Backoff(0.02, 0.2),
            **options,
        }
        self._dataset = OwlStreamDataset(urls, **settings)
        self._pause_s = pause_s
        self.lines: list[str] = []
        self._stop, self._failure = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def reconnects(self) -> int:
        """How often its stream broke and it asked again."""
        return self._dataset.stats().reconnects

    def stop(self) -> None:
        """Let it end with the epoch that it is in, without waiting."""
        self._stop.set()

    def finish(self, patience_s: float = PATIENCE_S) -> list[str]:
        """Let it read its epoch to the end; returns the lines of all its batches.

        Raises:
            TimeoutError: it did not come to the end of its epoch.
        """
        self.stop()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            at = self.lines[-1] if self.lines else "the beginning"
            raise TimeoutError(f"a reader was held up at {at} for more than {patience_s:g} s")
        if self._failure:
            raise self._failure[0]
        return self.lines

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for batch in self._dataset:
                    self.lines.append(batch_line(batch))
                    if self._pause_s and len(self.lines) % 4 == 0:
                        self._stop.wait(self._pause_s)
        except BaseException as exc:
            self._failure.append(exc)


def undisturbed(url: str, epochs: int, **options: Any) -> list[str]:
    """The lines of a reader of so many epochs that nothing happens to."""
    dataset = OwlStreamDataset(url, dtype=torch.uint8, **options)
    return [batch_line(batch) for _ in range(epochs) for batch in dataset]


def epochs_of(lines: Sequence[str]) -> int:
    """How many epochs lines are of, the last one whole; at least one."""
    return int(lines[-1].split()[0]) + 1 if lines else 1
