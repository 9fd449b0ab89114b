"""What every route may use of the running server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from fastapi import Request

from owl_stream.config import Config
from owl_stream.engine import Engine
from owl_stream.server.catalogue import Catalogue
from owl_stream.server.streams import Streams


@dataclass
class ServerState:
    """One running server. `draining` is set once it is about to stop."""

    config: Config
    catalogue: Catalogue
    engine: Engine
    streams: Streams
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)


def server_state(request: Request) -> ServerState:
    """Dependency: the server that a request came to."""
    state: ServerState = request.app.state.server
    return state
