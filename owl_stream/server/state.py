"""What every route may use of the running server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from fastapi import Request

from owl_stream.blocking import STORAGE, Running, Threads
from owl_stream.config import Config
from owl_stream.engine import Engine
from owl_stream.errors import OwlStreamError, ReadError
from owl_stream.server.access import Tokens
from owl_stream.server.background import Background
from owl_stream.server.bottleneck import Bottleneck, find_bottleneck
from owl_stream.server.catalogue import Catalogue
from owl_stream.server.connections import Connections
from owl_stream.server.streams import Streams
from owl_stream.server.tracing import Tracing


@dataclass
class ServerState:
    """One running server. `draining` is set once it is about to stop, `statuses` counts its answers."""

    config: Config
    catalogue: Catalogue
    engine: Engine
    streams: Streams
    tokens: Tokens = field(default_factory=lambda: Tokens({}))
    connections: Connections = field(default_factory=lambda: Connections(1 << 30))
    tracing: Tracing = field(default_factory=Tracing)
    background: Background = field(default_factory=Background)
    statuses: Counter[int] = field(default_factory=Counter)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    opening: Threads = field(default_factory=lambda: Threads("opening datasets", 1, None))
    """Indexing may take hours, and has no deadline."""

    @property
    def failures(self) -> dict[str, OwlStreamError]:
        """Why parts of the server work no more, by what they did: background work, the engine, and what is stuck.

        Not the datasets that could not be opened.
        """
        engine = {} if self.engine.failure is None else {"assembly": self.engine.failure}
        stuck = {each.what: ReadError(f"waits for {each.seconds:.0f} s; {STORAGE}") for each in self.stuck()}
        return {**stuck, **self.background.failures, **engine}

    def stuck(self) -> list[Running]:
        """What waits for storage past its deadline."""
        datasets = [each for dataset in self.catalogue.datasets() for each in dataset.stuck()]
        return [*self.catalogue.stuck(), *datasets, *self.engine.stuck()]

    def running(self) -> list[Running]:
        """What may wait for storage now, within its deadline or not."""
        threads = [each for dataset in self.catalogue.datasets() for each in dataset.threads]
        return [*self.engine.running(), *(each for part in (self.opening, *threads) for each in part.running())]

    @property
    def bottleneck(self) -> Bottleneck | None:
        """What most of the open streams wait for, if that is this server; None where trainers are the slower side."""
        slower = Counter(record.slower for record in self.streams.open.values())
        if slower["server"] <= slower["trainer"]:
            return None
        engine = self.engine.statistics()
        return find_bottleneck(engine.seconds, engine.workers)


async def server_state(request: Request) -> ServerState:
    """Dependency: the server that a request came to. A coroutine, because anything else would take a thread."""
    state: ServerState = request.app.state.server
    return state
