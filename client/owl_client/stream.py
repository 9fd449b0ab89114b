"""One logical stream: the rest of an epoch for one share, over as many connections and servers as it takes."""

from __future__ import annotations

from owl_client.buffers import ReceiveMemory
from owl_client.contract import Contract
from owl_client.failover import Failover
from owl_client.link import Link
from owl_client.order import Order
from owl_client.stats import Counters
from owl_client.transport import Interrupt, Transport
from owl_stream.errors import OwlStreamError
from owl_stream.wire import Frame, Limits


class EpochStream:
    """Yields every batch frame of an `Order` exactly once, whatever happens to connections in between.

    For one thread; only its `interrupt` is for others. A given one has the failover's deadline.
    """

    def __init__(
        self,
        transport: Transport,
        failover: Failover,
        order: Order,
        *,
        memory: ReceiveMemory | None = None,
        limits: Limits | None = None,
        interrupt: Interrupt | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._transport, self._failover, self._order = transport, failover, order
        self._memory, self._limits = memory or ReceiveMemory(), limits or Limits()
        self.interrupt, self._counters = interrupt or Interrupt(failover.deadline), counters or Counters()
        self._link: Link | None = None
        self._ended = False

    def next(self) -> tuple[Frame, Contract] | None:
        """The next batch frame, and what its stream promised; None after the last, or once interrupted.

        Blocks, reconnects, and waits between tries.

        Raises:
            OwlStreamError: all servers refuse for good, or none gave a batch for as long as `Failover` tries.
        """
        self._failover.progressed()  # time that the reader took for itself is no time without progress
        while not self._ended and not self.interrupt.is_set():
            try:
                link = self._connected()
                frame = link.next()
            except OwlStreamError as exc:
                self._recover(exc)
                continue
            if frame is None:
                self._ended = True
                self.close()
            elif (cursor := frame.header.cursor) == self._order.next:  # type: ignore[union-attr] # a link hands on batches
                self._order.delivered(cursor)
                assert link.contract is not None, "a batch comes behind a hello"
                return frame, link.contract
            # else it is the last one again, asked for only because `end` was still missing
        return None

    def close(self) -> None:
        """Let go of the connection; `next` would open another."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connected(self) -> Link:
        if self._link is None:
            self._link = Link(
                self._transport,
                self._failover.url,
                self._order,
                self._memory,
                self._limits,
                self.interrupt,
                self._counters,
            )
        return self._link

    def _recover(self, error: OwlStreamError) -> None:
        self.close()
        if not self.interrupt.is_set():
            self._counters.reconnects += 1
            self._failover.failed(error, self.interrupt)
