"""How reading went, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from owl_stream.wire import RowInfo, Status


@dataclass(frozen=True)
class ClientStats:
    """Since the dataset was made, in this process.

    `wait_s` is what the trainer waited for batches, `receive_s` what the receiving thread waited for bytes, `nbytes`
    those received. `rows` counts yielded rows by status. `server` is the server's last report: seconds by stage and
    sizes of queues.
    """

    batches: int
    rows: Mapping[Status, int]
    nbytes: int
    wait_s: float
    receive_s: float
    reconnects: int
    server: Mapping[str, float]


@dataclass
class Counters:
    """What `ClientStats` is taken from. Each number is written by one thread only."""

    batches: int = 0
    rows: Counter[Status] = field(default_factory=Counter)
    nbytes: int = 0
    wait_s: float = 0.0
    receive_s: float = 0.0
    reconnects: int = 0
    server: dict[str, float] = field(default_factory=dict)

    def yielded(self, rows: tuple[RowInfo, ...]) -> None:
        """Count one batch that the trainer was given."""
        self.batches += 1
        self.rows.update(row.status for row in rows)

    def snapshot(self) -> ClientStats:
        """The numbers now."""
        return ClientStats(
            self.batches,
            dict(self.rows),
            self.nbytes,
            self.wait_s,
            self.receive_s,
            self.reconnects,
            self.server,
        )
