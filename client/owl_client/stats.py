"""How reading went, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from owl_client.batch import Batch
from owl_client.metrics import Trained
from owl_stream.wire import Status

REPORTED = ("wait_s", "receive_s", "verify_s", "copy_s")
"""What goes back to the server with the next request, so that its metrics say what trainers wait for."""


@dataclass(frozen=True)
class ClientStats:
    """Since the dataset was made, in this process.

    `wait_s` is what the trainer waited for batches, `receive_s` what the receiving thread waited for bytes, `nbytes`
    those received, `verify_s` what it spent on digests and `copy_s` on bringing tensors to their device (on CUDA: on
    queueing that). `rows` counts yielded rows by status. `server` is the server's last report: seconds by stage and
    sizes of queues.
    """

    batches: int
    rows: Mapping[Status, int]
    nbytes: int
    wait_s: float
    receive_s: float
    reconnects: int
    server: Mapping[str, float]
    verify_s: float = 0.0
    copy_s: float = 0.0


@dataclass
class Counters:
    """What `ClientStats` is taken from. Each number is written by one thread only."""

    trained: Trained = field(default_factory=Trained)
    nbytes: int = 0
    wait_s: float = 0.0
    receive_s: float = 0.0
    reconnects: int = 0
    server: dict[str, float] = field(default_factory=dict)
    verify_s: float = 0.0
    copy_s: float = 0.0
    _reported: dict[str, float] = field(default_factory=dict)

    def yielded(self, batch: Batch) -> None:
        """Count one batch that the trainer was given."""
        self.trained.add(batch)

    def snapshot(self) -> ClientStats:
        """The numbers now."""
        return ClientStats(
            self.trained.batches,
            dict(self.trained.rows),
            self.nbytes,
            self.wait_s,
            self.receive_s,
            self.reconnects,
            self.server,
            self.verify_s,
            self.copy_s,
        )

    def unreported(self) -> dict[str, float]:
        """The seconds that no server has been told yet, by name."""
        now = {name: getattr(self, name) for name in REPORTED}
        return {name: seconds - self._reported.get(name, 0.0) for name, seconds in now.items()}

    def reported(self, seconds: Mapping[str, float]) -> None:
        """A server was told those."""
        for name, each in seconds.items():
            self._reported[name] = self._reported.get(name, 0.0) + each
