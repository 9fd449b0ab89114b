"""Reading from a server against the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from owl_stream.cli.peer import Peer
from owl_stream.errors import OwlStreamError, PeerGoneError
from owl_stream.machine import explained
from owl_stream.wire import PROTOCOL_VERSION, BatchHeader, Frame, Stats

MANY_EPOCHS = 1 << 20
POLL_S = 0.2


@dataclass(frozen=True)
class Measured:
    """What came in `seconds`, over all streams. `server`: the sums of what it says of its own waiting, by name."""

    world_size: int
    seconds: float
    batches: int
    samples: int
    units: int
    nbytes: int
    server: Mapping[str, float]

    @property
    def mb_per_s(self) -> float:
        """10^6 bytes of frames a second."""
        return self.nbytes / 1e6 / self.seconds

    @property
    def samples_per_s(self) -> float:
        """Rows a second that are samples, fillers left out."""
        return self.samples / self.seconds

    @property
    def units_per_s(self) -> float:
        """Units (crops, images, tiles, videos) a second."""
        return self.units / self.seconds

    @property
    def slower(self) -> Literal["server", "reader", "unknown"]:
        """Whom the other side waits for."""
        assembly, reader = self._waits()
        if assembly == reader == 0:
            return "unknown"
        return "server" if assembly >= reader else "reader"

    def advice(self, needed: float | None = None) -> str:
        """What to do about it, in one sentence. `needed`: samples a second that would keep the accelerators busy."""
        from owl_stream.server.bottleneck import find_bottleneck  # noqa: PLC0415 # loads the web framework

        assembly, reader = self._waits()
        if self.slower == "unknown":
            return "The server has not said yet what it waits for: read for at least 6 seconds (--seconds)."
        seconds = {name.removesuffix("_s"): value for name, value in self.server.items()}
        bottleneck = find_bottleneck(seconds, int(self.server.get("workers", 0)))
        if self.slower == "reader" or bottleneck is None:
            return (
                f"The server waited {reader:.1f} s for this machine or the network to take its bytes, and "
                f"{assembly:.1f} s for assembly: read nearer to it, over a faster network, or from several machines."
            )
        return bottleneck.advice(self.samples_per_s, needed)

    def _waits(self) -> tuple[float, float]:
        return self.server.get("assembly_wait_s", 0.0), self.server.get("reader_wait_s", 0.0)


@dataclass
class _Rank:
    """What one stream has brought. The first batch starts the clock and is not counted: workers were starting."""

    peer: Peer
    path: str
    query: Mapping[str, object]
    until: float
    first_at: float = 0.0
    last_at: float = 0.0
    batches: int = 0
    samples: int = 0
    units: int = 0
    nbytes: int = 0
    server: Mapping[str, float] = field(default_factory=dict)
    error: OwlStreamError | None = None

    def run(self) -> None:
        """Read until the time is up. For a thread: errors are kept."""
        try:
            with closing(self.peer.frames(self.path, self.query)) as frames:  # type: ignore[type-var] # a generator
                for frame in frames:
                    self._take(frame)
                    if time.monotonic() >= self.until:
                        return
            self.error = PeerGoneError(f"{self.peer.url}: the stream ended")
        except Exception as exc:
            self.error = explained(exc, f"reading from {self.peer.url}")

    def _take(self, frame: Frame) -> None:
        header = frame.header
        if isinstance(header, Stats):
            self.server = header.values
        elif isinstance(header, BatchHeader):
            self.last_at = time.monotonic()
            if not self.first_at:
                self.first_at = self.last_at
                return
            self.batches += 1
            self.samples += sum(row.status != "filler" for row in header.rows)
            self.units += header.units
            self.nbytes += frame.nbytes


def measure(
    peer: Peer,
    dataset: str,
    seconds: float,
    world_size: int,
    micro_batch_size: int | None,
    progress: Callable[[float], None],
) -> Measured:
    """Read as `world_size` ranks for `seconds` from the first batch on, one thread a rank.

    Raises:
        OwlStreamError: the server refused or went away, or not two batches came in time.
    """
    query = {"protocol": PROTOCOL_VERSION, "world_size": world_size, "epochs": MANY_EPOCHS}
    if micro_batch_size is not None:
        query["micro_batch_size"] = micro_batch_size
    path, began = f"/v1/datasets/{dataset}/stream", time.monotonic()
    ranks = [_Rank(peer, path, {**query, "rank": rank}, began + seconds) for rank in range(world_size)]
    threads = [threading.Thread(target=rank.run, daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(POLL_S)
            progress(time.monotonic() - began)
    for rank in ranks:
        if rank.error is not None:
            raise rank.error
    return _sum(ranks)


def _sum(ranks: list[_Rank]) -> Measured:
    batches = sum(rank.batches for rank in ranks)
    if not batches:
        raise PeerGoneError(f"{ranks[0].peer.url}: fewer than two batches came; read longer (--seconds)")
    first, last = min(rank.first_at for rank in ranks if rank.first_at), max(rank.last_at for rank in ranks)
    waits = {name: sum(rank.server.get(name, 0.0) for rank in ranks) for name in ("assembly_wait_s", "reader_wait_s")}
    told = next((rank.server for rank in ranks if rank.server), {})
    return Measured(
        world_size=len(ranks),
        seconds=last - first,
        batches=batches,
        samples=sum(rank.samples for rank in ranks),
        units=sum(rank.units for rank in ranks),
        nbytes=sum(rank.nbytes for rank in ranks),
        server={**told, **waits} if told else {},
    )
