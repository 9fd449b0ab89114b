"""A reference stream of two dozen small frames, read through memory as often as there are bytes or bits to harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from owl_client.buffers import ReceiveMemory
from owl_client.failover import Failover
from owl_client.order import Order
from owl_client.stream import EpochStream
from owl_client.transport import Share, StreamRequest
from owl_stream.wire import BatchHeader, Cursor
from tests.client.peers import NO_WAIT, MemoryTransport
from tests.client.world import World

SHARE, START = Share(0, 1, 1), Cursor(0, 0, 0)

Read = list[tuple[Cursor, bytes]]


@dataclass(frozen=True)
class TextWorld(World):
    """Rows of text only, one a step."""

    steps: int = 20
    rows: int = 1

    def arrays(self, cursor: Cursor, share: Share) -> dict[str, NDArray[Any]]:
        """The token ids of one micro-batch and nothing else: every byte more is a run more."""
        return {"input_ids": super().arrays(cursor, share)["input_ids"]}


class CountingMemory(ReceiveMemory):
    """Receive memory that notes how much was asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def take(self, nbytes: int) -> memoryview:
        """See `ReceiveMemory.take`."""
        self.asked.append(nbytes)
        return super().take(nbytes)


def request_of(world: World) -> StreamRequest:
    """A whole epoch of a world."""
    return StreamRequest("train", world.fingerprint, START, SHARE)


def read_all(transport: MemoryTransport, world: World, memory: ReceiveMemory | None = None) -> Read:
    """Every batch that the client's stream yields until the epoch has ended: its place, and all bytes of its tensors.

    This is all of the client that judges bytes; what lies behind it makes tensors of what is returned here.
    """
    order = Order(world.description(), SHARE, START)
    stream = EpochStream(transport, Failover(("http://a",), 60.0, NO_WAIT), order, memory=memory)
    got: Read = []
    try:
        while (received := stream.next()) is not None:
            frame, _ = received
            assert isinstance(frame.header, BatchHeader)
            got.append((frame.header.cursor, bytes(frame.payload)))
    finally:
        stream.close()
    assert order.complete
    return got
