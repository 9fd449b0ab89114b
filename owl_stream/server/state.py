"""What every route may use of the running server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from fastapi import Request

from owl_stream.config import Config
from owl_stream.engine import Engine
from owl_stream.errors import OwlStreamError
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

    @property
    def failures(self) -> dict[str, OwlStreamError]:
        """Why parts of the server work no more, by what they did: background work, and the engine. Not the datasets."""
        engine = {} if self.engine.failure is None else {"assembly": self.engine.failure}
        return {**self.background.failures, **engine}

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
