"""How batches come: through shared memory or over a socket, how fast, and which side the other waits for."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from owl_client.answers import error_from_frame
from owl_client.connection import HttpByteStream, HttpTransport
from owl_client.deadline import Deadline
from owl_client.doctor.asking import Address
from owl_client.doctor.data import Asked
from owl_client.doctor.finding import Case, Finding
from owl_client.transport import Interrupt, StreamRequest
from owl_stream.errors import OwlStreamError, PeerGoneError
from owl_stream.wire import BatchHeader, ErrorInfo, FrameParser, Limits

FIRST_BATCH_S = 60.0
"""For the first batch: the workers may be starting."""
READ_BYTES = 1 << 20
MOST_SLOW_MB_PER_S = 50.0
"""A network that is the slower side and brings less is a fault whatever is needed; 1 Gbit/s are 125 MB/s."""
SHM, LEAST_SHM_BYTES = "/dev/shm", 256 << 20
"""Batches of DataLoader workers go through it; Docker gives a container 64 MB."""


MANY_EPOCHS = 1 << 20
"""More than are read: a stream of one epoch may end before its server has said what it waited for."""


class _LongRequest(StreamRequest):
    def query(self) -> dict[str, str]:
        return {**super().query(), "epochs": str(MANY_EPOCHS)}


@dataclass
class Journey:
    """What came. `seconds` and `nbytes` count from the first batch on.

    `waited_s`: for bytes. `server_s` and `reader_s`: how long the server says that readers waited for it meanwhile, and
    it for readers.
    """

    in_memory: bool = False
    on_one_machine: bool = False
    first_s: float = 0.0
    seconds: float = 0.0
    nbytes: int = 0
    samples: int = 0
    batches: int = 0
    waited_s: float = 0.0
    server_s: float = 0.0
    reader_s: float = 0.0

    @property
    def by_link(self) -> bool:
        """Whether what lies between is the slower side: both ends wait."""
        server_waits = self.reader_s > self.server_s or self.batches < 2
        return server_waits and self.waited_s > self.seconds / 2 and not self.in_memory

    @property
    def slower(self) -> str:
        """Whom the others wait for."""
        if self.by_link:
            return "the link"
        if self.server_s == self.reader_s:
            return "unknown, as the server's metrics do not say"
        return "the server" if self.server_s > self.reader_s else "this reader"

    @property
    def mb_per_s(self) -> float:
        """10^6 bytes a second."""
        return self.nbytes / 1e6 / max(self.seconds, 1e-9)

    @property
    def samples_per_s(self) -> float:
        """Rows a second, fillers left out; counted in whole batches."""
        return self.samples / max(self.seconds, 1e-9)


def road(case: Case, asked: Asked) -> Iterator[Finding]:
    """Read batches for a while, as a trainer does, and train on none: the server's plan does not know who reads."""
    transport = HttpTransport(case.token, tls=case.tls)
    try:
        journey = _travel(case, asked, transport)
    except OwlStreamError as exc:
        yield Finding("batches", "fault", str(exc), _remedy_of(exc))
        return
    yield _memory(case, journey)
    yield from _speed(case, journey)


def shared_directory() -> Iterator[Finding]:
    """Whether DataLoader workers would have room."""
    try:
        room = os.statvfs(SHM)
    except OSError:
        return
    nbytes = room.f_bavail * room.f_frsize
    if nbytes < LEAST_SHM_BYTES:
        yield Finding(
            "shm",
            "note",
            f"{SHM} has {nbytes >> 20} MiB free: enough without DataLoader workers, little with",
            "docker run --shm-size=8g; in Kubernetes an emptyDir with medium: Memory",
        )


def _travel(case: Case, asked: Asked, transport: HttpTransport) -> Journey:
    """Read for `case.seconds` from the first batch on.

    Raises:
        OwlStreamError: the server refused or went away, or no batch came in time.
    """
    deadline, began = Deadline(FIRST_BATCH_S + case.seconds), time.monotonic()
    request = _LongRequest(asked.description.name, asked.description.fingerprint, asked.start, asked.share)
    stream = transport.open(case.url, request, Interrupt(deadline))
    try:
        journey = Journey(stream.in_memory, stream.on_one_machine)
        before = _waits(case, asked.description.name)
        _read(stream, case, journey, began)
        after = _waits(case, asked.description.name)  # while the stream is open: what it waits for now counts too
        journey.server_s, journey.reader_s = (late - early for early, late in zip(before, after, strict=True))
    finally:
        stream.close()
    return journey


def _read(stream: HttpByteStream, case: Case, journey: Journey, began: float) -> None:
    parser, first_at = FrameParser(Limits()), 0.0
    while not first_at or journey.seconds < case.seconds:
        asked_at = time.monotonic()
        nbytes = stream.readinto(parser.buffer()[:READ_BYTES])
        came_at = time.monotonic()
        if not nbytes:
            raise PeerGoneError(f"{case.url}: the stream ended")
        frame = parser.advance(nbytes)
        now = time.monotonic()
        if first_at:
            journey.nbytes, journey.seconds = journey.nbytes + nbytes, now - first_at
            journey.waited_s += came_at - asked_at
        elif parser.in_payload or (frame is not None and isinstance(frame.header, BatchHeader)):
            first_at, journey.first_s = now, now - began  # the first batch, or its beginning
        if frame is None:
            continue
        header = frame.header
        if isinstance(header, ErrorInfo):
            raise error_from_frame(case.url, header)
        if isinstance(header, BatchHeader):
            journey.batches += 1
            journey.samples += sum(row.status != "filler" for row in header.rows)


def _waits(case: Case, dataset: str) -> tuple[float, float]:
    """Seconds that readers of a dataset waited for its server, and it for them, since it began; by its metrics.

    Not by what it says in the stream, which a slow link brings late.
    """
    address = Address.of(case.url)
    context = case.tls.context() if address.scheme == "https" else None
    try:
        text = address.ask("/metrics", context, case.token).body.decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0.0, 0.0
    found = {"assembly": 0.0, "reader": 0.0}
    for line in text.splitlines():
        if line.startswith("owl_stream_stream_wait_seconds_total{") and f'dataset="{dataset}"' in line:
            for side in found:
                if f'waited_for="{side}"' in line:
                    with suppress(ValueError):
                        found[side] = float(line.rpartition(" ")[2])
    return found["assembly"], found["reader"]


def _memory(case: Case, journey: Journey) -> Finding:
    if journey.in_memory:
        return Finding("memory", "ok", "server and trainer share a machine: frames are copied from its memory, once")
    if not journey.on_one_machine:
        return Finding("memory", "ok", "the server is on another machine: frames come over the network")
    if case.url.startswith("https"):
        return Finding(
            "memory",
            "note",
            "server and trainer share a machine, and with https frames go through the network stack",
            "use http://127.0.0.1:... between processes of one machine: frames are then copied once",
        )
    return Finding(
        "memory",
        "fault",
        "the address is of this machine, but frames come through a socket and not from shared memory",
        "set `shared_memory: true` on the server, and `workers` to 1 or more; put both into one network namespace "
        "(docker: --network host) and under one user; and let nothing stand between, such as a port forward or a proxy",
    )


def _speed(case: Case, journey: Journey) -> Iterator[Finding]:
    rate = f"{journey.mb_per_s:.1f} MB/s, {journey.samples_per_s:.1f} samples/s"
    said = f"{rate} in {journey.seconds:.1f} s, the first batch after {journey.first_s:.1f} s"
    enough = case.needs is not None and journey.samples_per_s >= case.needs
    if enough:
        yield Finding("speed", "ok", f"{said}: at least the {case.needs:g} samples/s that are needed")
    elif journey.by_link and (case.needs is not None or journey.mb_per_s < MOST_SLOW_MB_PER_S):
        wanted = "" if case.needs is None else f", {case.needs:g} samples/s are needed"
        yield Finding(
            "speed",
            "fault",
            f"{said}{wanted}: the link is the slower side, the server waits for it",
            "put server and trainer nearer to each other or on a faster network; look for what throttles the way",
        )
    elif case.needs is not None:
        yield Finding(
            "speed",
            "fault",
            f"{said}, {case.needs:g} samples/s are needed; slower side: {journey.slower}",
            "where it is the server: give it more cores, or add one (`owl-stream bench` says what it waits for)",
        )
    else:
        yield Finding("speed", "ok", f"{said}; slower side: {journey.slower}")


def _remedy_of(exc: OwlStreamError) -> str:
    if exc.code == "protocol_version":
        return "install the same owl-stream on both sides"
    return "look at the server's log"
