"""Servers that talk and say nothing, in front of a healthy one: heartbeats without end, single bytes, interim answers.

Each is a harm to the answers of a healthy server, see `tests.faults.harms`. So what it does say (description,
`hello`) is right; only a batch never comes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import torch

from owl_client import Backoff, OwlStreamDataset
from owl_stream.errors import OwlStreamError
from owl_stream.wire import Header, Heartbeat, Stats, pack_frame
from tests.faults.harms import Harm, Pieces, Struck, chunk, head_apart, split_frames, unchunk
from tests.faults.large import ROWS
from tests.faults.proxy import FaultProxy
from tests.support.hashes import batch_line

EVERY_S = 0.5
"""Between two words of a talker: below every deadline for silence."""
GIVE_UP_AFTER_S = 60.0
"""Half of it is the talker's. In the other half a healthy server, however busy, gives a batch."""
HUNG_S = 200.0
"""A client that has not come to the end of its epoch by then hangs."""


@dataclass(frozen=True)
class Chatter:
    """`hello`, then the same frame for ever."""

    header: Header

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        async for piece in _hello(pieces):
            yield piece
        struck()
        async for piece in _for_ever(chunk(pack_frame(self.header))):
            yield piece


@dataclass(frozen=True)
class Drip:
    """The head, or the whole answer from behind `hello` on, comes a byte at a time."""

    head: bool

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        if not self.head:
            async for piece in _hello(pieces):
                yield piece
        struck()
        async for piece in pieces:
            for byte in piece:
                yield bytes((byte,))
                await asyncio.sleep(EVERY_S)


@dataclass(frozen=True)
class Interim:
    """`100 Continue` for ever, and no answer."""

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        struck()
        async for piece in _for_ever(b"HTTP/1.1 100 Continue\r\n\r\n"):
            yield piece


@dataclass(frozen=True)
class Trailers:
    """`hello`, the last chunk, and trailers for ever."""

    async def __call__(self, pieces: Pieces, struck: Struck) -> Pieces:
        """See `Harm`."""
        async for piece in _hello(pieces):
            yield piece
        struck()
        yield b"0\r\n"
        async for piece in _for_ever(b"X-More: to come\r\n"):
            yield piece


TALKERS: Mapping[str, tuple[str, Callable[[], Harm]]] = {
    "heartbeats": ("/stream", lambda: Chatter(Heartbeat())),
    "statistics": ("/stream", lambda: Chatter(Stats({"queued": 1.0}))),
    "a dripping head": ("/stream", lambda: Drip(head=True)),
    "a dripping body": ("/stream", lambda: Drip(head=False)),
    "a dripping description": ("/v1/datasets/train", lambda: Drip(head=True)),
    "interim answers": ("/stream", Interim),
    "trailers": ("/stream", Trailers),
}
"""Which answers are harmed (those whose path has this in it or ends so), and how."""


async def _hello(pieces: Pieces) -> Pieces:
    """The head and the first frame."""
    apart = head_apart(pieces)
    yield await anext(apart)
    async for frame in split_frames(unchunk(apart)):
        yield chunk(frame)
        return


async def _for_ever(piece: bytes) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(EVERY_S)


class Listeners:
    """Clients whose first server is a talker and whose second is healthy, one after the other; each reads an epoch."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        kinds = list(TALKERS)
        random.Random(seed).shuffle(kinds)
        self._kinds = itertools.cycle(kinds)
        self.over: Counter[str] = Counter()
        self.epochs: list[list[str]] = []
        self.failures: list[str] = []

    def __call__(self, stopping: threading.Event) -> None:
        """One client."""
        kind = next(self._kinds)
        path, harm = TALKERS[kind]
        with FaultProxy(self._url, lambda asked: harm() if asked.partition("?")[0].endswith(path) else None) as talker:
            dataset = OwlStreamDataset(
                [talker.url, self._url],
                dtype=torch.uint8,
                micro_batch_size=ROWS,
                backoff=Backoff(0.02, 0.2),
                give_up_after_s=GIVE_UP_AFTER_S,
            )
            lines: list[str] = []
            hung = threading.Timer(HUNG_S, dataset.close)
            hung.start()
            try:
                lines += (batch_line(batch) for batch in dataset)
            except OwlStreamError as exc:
                self.failures.append(f"{kind}: a client with a healthy second server ended after {len(lines)}: {exc}")
            else:
                self.over[kind] += 1
                self.epochs.append(lines)
            finally:
                hung.cancel()
