"""One connection's frames: verified in content by their digest, in place by the order they must come in."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from owl_client.answers import error_from_frame
from owl_client.buffers import ReceiveMemory
from owl_client.contract import Contract
from owl_client.order import Order, other_data
from owl_client.stats import Counters
from owl_client.transport import Interrupt, StreamRequest, Transport
from owl_stream.errors import FrameError, OwlStreamError, PeerGoneError, ProtocolVersionError, StateMismatchError
from owl_stream.wire import BatchHeader, End, ErrorInfo, Frame, FrameParser, Heartbeat, Hello, Limits, Stats

READ_BYTES = 1 << 20
"""At most so much is read before it is digested: while it is in a cache still, which is a quarter faster."""
LARGE_READ_BYTES = 8 << 20
"""The same while the trainer keeps the interpreter's lock to itself: every read asks for it twice."""
LOCK_WAIT_S = 2e-3
"""A digest of a small read that takes so long has waited for the lock, which may change hands every 5 ms."""
LARGE_READS = 32
"""How many reads are large from then on."""


class Link:
    """A stream over one connection, from the order's resume point on. Spent after the first error."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        order: Order,
        memory: ReceiveMemory,
        limits: Limits,
        interrupt: Interrupt,
        counters: Counters,
    ) -> None:
        self._url, self._order, self._counters, self._masked = url, order, counters, transport.masked
        self._at = order.resume_point()
        self._parser = FrameParser(limits, memory.take)
        self.contract: Contract | None = None
        """What `hello` promised; there before any batch is."""
        self._large_reads = 0
        self._deadline, self._came = interrupt.deadline, Counter[str]()
        self._whole_bytes = counters.nbytes
        report, dataset = counters.unreported(), order.dataset
        request = StreamRequest(
            dataset.name, dataset.fingerprint, self._at, order.share, order.stride, tuple(report.items())
        )
        try:
            self._bytes = transport.open(url, request, interrupt)
        except StateMismatchError as exc:
            raise _named_by_component(transport, url, order, exc, interrupt) from exc
        counters.reported(report)

    def next(self) -> Frame | None:
        """The next batch frame; None once the stream has ended as it must.

        Raises:
            FrameError: damaged, reordered, duplicated or foreign frames.
            StateMismatchError, ProtocolVersionError: the server is not one for us.
            PeerGoneError: the connection broke, closed without `end`, or gave no batch until the deadline.
            OwlStreamError: the server said that it cannot go on.
        """
        self._came.clear()
        try:
            while True:
                frame = self._read()
                if self._take(frame):
                    return frame if isinstance(frame.header, BatchHeader) else None
                self._came[frame.header.kind] += 1
                if self._deadline.passed:
                    raise self._no_batch()
        except StateMismatchError as exc:
            raise StateMismatchError(self._masked(f"{self._url}: {exc}"), exc.differences) from exc
        except (FrameError, ProtocolVersionError) as exc:
            raise type(exc)(self._masked(f"{self._url}: {exc}")) from exc

    def close(self) -> None:
        """Let go of the connection."""
        self._bytes.close()

    def _take(self, frame: Frame) -> bool:
        """Check a frame against the order and what `hello` promised; returns whether it is one to hand on."""
        header, contract = frame.header, self.contract
        if isinstance(header, ErrorInfo):
            raise error_from_frame(self._url, replace(header, message=self._masked(header.message)))
        if isinstance(header, Hello) == (contract is not None):
            raise FrameError(f"expected {'no second' if contract else 'a'} hello, got a {header.kind} frame")
        if isinstance(header, Hello):
            self._order.check_hello(header, self._at)
            self.contract = Contract(header)
        elif isinstance(header, BatchHeader) and contract is not None:
            self._order.check_batch(header, self._at)
            contract.check(header, frame.payload)
            self._at = self._order.after(self._at)
            return True
        elif isinstance(header, End):
            self._order.check_end(header, self._at)
            return True
        elif isinstance(header, Stats):
            self._counters.server = dict(header.values)
        return False

    def _read(self) -> Frame:
        parser, counters = self._parser, self._counters
        frame: Frame | None = None
        self._whole_bytes = counters.nbytes
        while frame is None:
            target = parser.buffer()[: LARGE_READ_BYTES if self._large_reads else READ_BYTES]
            began = time.perf_counter()
            try:
                nbytes = self._bytes.readinto(target)
            except PeerGoneError as exc:
                if self._deadline.passed:
                    raise self._no_batch() from exc
                raise
            received = time.perf_counter()
            counters.receive_s += received - began
            counters.nbytes += nbytes
            if not nbytes:
                where = "inside a frame" if parser.in_frame else "between frames"
                raise PeerGoneError(f"{self._url}: the stream closed without `end`, {where}")
            frame = parser.advance(nbytes)
            if frame is None and self._deadline.passed:
                raise self._no_batch()
            took = time.perf_counter() - received
            counters.verify_s += took
            if self._large_reads:
                self._large_reads -= 1
            elif took > LOCK_WAIT_S:
                self._large_reads = LARGE_READS
        return frame

    def _no_batch(self) -> PeerGoneError:
        """The error of a try that is over, whatever came."""
        expected = "the end of the stream" if self._order.complete else "a batch"
        came = [_COUNTED.get(kind, kind) + f" ({count})" for kind, count in self._came.items() if kind != Hello.kind]
        if part := self._counters.nbytes - self._whole_bytes:
            came.append(f"{part} bytes of an unfinished frame")
        if self.contract is not None and not came:
            came.append("a hello")
        got = "only " + " and ".join(came) if came else "nothing"
        return PeerGoneError(f"{self._url}: expected {expected} within {self._deadline.seconds:.3g} s, got {got}")


_COUNTED = {Heartbeat.kind: "heartbeats"}


def _named_by_component(
    transport: Transport, url: str, order: Order, error: StateMismatchError, interrupt: Interrupt
) -> OwlStreamError:
    """What a server that knows only our fingerprint could not say: in what its data differ. One more question."""
    mine = order.dataset
    try:
        theirs = transport.describe(url, mine.name, interrupt)
    except OwlStreamError:
        return error
    if theirs.fingerprint == mine.fingerprint:
        return PeerGoneError(f"{url}: another server has taken its place between two questions")
    return other_data(url, (mine.fingerprint, dict(mine.components)), (theirs.fingerprint, dict(theirs.components)))
