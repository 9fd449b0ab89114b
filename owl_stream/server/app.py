"""Puts the parts together: catalogue, engine, streams and routes, opened and closed in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from owl_stream import __version__
from owl_stream.blocking import Threads
from owl_stream.config import Config
from owl_stream.engine import Engine, InlineEngine, ProcessEngine
from owl_stream.engine.cores import usable_cores
from owl_stream.errors import OwlStreamError, ReadError
from owl_stream.server import health, login, pages, refusals, routes
from owl_stream.server.access import read_tokens
from owl_stream.server.catalogue import Catalogue
from owl_stream.server.connections import Connections, descriptors, places
from owl_stream.server.ending import EndsQuietly
from owl_stream.server.framing import CloseDelimited, HeadAsGet, UnreadAnswers
from owl_stream.server.gate import Gate
from owl_stream.server.metrics import Metrics
from owl_stream.server.opening import open_datasets
from owl_stream.server.proxies import Proxies
from owl_stream.server.state import ServerState
from owl_stream.server.streams import Streams
from owl_stream.server.tracing import EXPORT_TIMEOUT_S, begin_tracing

log = logging.getLogger("owl_stream.server")

SHARE_FOR_OPENING = 0.1
"""Of `grace_s`: for a data set that is being indexed to notice that the server stops."""


def create_app(
    config: Config,
    *,
    index_dir: Path | None = None,
    on_failure: Callable[[OwlStreamError], None] = lambda error: None,
    on_ready: Callable[[Sequence[str]], None] = lambda names: None,
) -> FastAPI:
    """The ASGI app for a configuration.

    Datasets are opened in the background once the app starts: it answers at once, and says how far it is. Once all
    have been tried, `on_ready` hears the names of those that are served, or `on_failure` why there are none.

    Raises:
        ConfigError: the tokens cannot be read, traces cannot be sent, or too few files may be open.
    """
    state = ServerState(
        config=config,
        catalogue=Catalogue(config, index_dir, processes=usable_cores()),
        engine=_make_engine(config),
        streams=Streams(config.server.max_streams, config.server.max_streams_per_token),
        tokens=read_tokens(config),
        connections=Connections(places(config.server.max_connections, descriptors())),
        tracing=begin_tracing(),
        opening=Threads("opening datasets", len(config.datasets), None),
    )
    app = FastAPI(
        title="owl-stream",
        version=__version__,
        description="Batches that are right, streamed to trainers. The stream's format is described in docs/wire.md.",
        lifespan=_lifespan(state, on_failure, on_ready),
        docs_url=None,  # FastAPI's pages run scripts of other hosts
        redoc_url=None,
    )
    app.state.server = state
    app.state.metrics = Metrics(state)
    open_metrics = config.server.access.metrics == "open"
    app.add_middleware(Gate, tokens=state.tokens, open_metrics=open_metrics, statuses=state.statuses)
    app.add_middleware(UnreadAnswers, idle_timeout_s=config.server.idle_timeout_s, on_drop=state.connections.note_stuck)
    app.add_middleware(CloseDelimited)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Proxies, trusted=config.server.trusted_proxies)
    app.add_middleware(EndsQuietly, draining=state.draining)
    refusals.install(app)
    app.include_router(health.router)
    app.include_router(login.router)
    app.include_router(routes.router)
    app.include_router(pages.router)
    return app


def _make_engine(config: Config) -> Engine:
    if config.server.workers == 0:
        return InlineEngine(job_timeout_s=config.server.job_timeout_s)
    return ProcessEngine(
        config.server.workers,
        job_timeout_s=config.server.job_timeout_s,
        sample_cpu_s=config.server.sample_cpu_s,
        share_bytes=config.server.share_bytes,
    )


def _lifespan(
    state: ServerState, on_failure: Callable[[OwlStreamError], None], on_ready: Callable[[Sequence[str]], None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(state.catalogue.close)
            stack.push_async_callback(state.engine.aclose)
            stack.push_async_callback(_end_traces, state)
            watch = state.connections.drop_stuck(state.config.server.idle_timeout_s)
            stack.callback(state.background.begin("dropping stuck connections", watch).cancel)
            opening = state.background.begin("opening datasets", open_datasets(state, on_failure, on_ready))
            stack.push_async_callback(_give_up, state, opening)
            yield

    return lifespan


async def _give_up(state: ServerState, opening: asyncio.Task[None]) -> None:
    """Indexing stops at its next report of progress; what does not come back in time is left behind."""
    state.catalogue.stop()
    await asyncio.wait({opening}, timeout=state.config.server.grace_s * SHARE_FOR_OPENING)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def _end_traces(state: ServerState) -> None:
    sending = Threads("sending traces", 1, EXPORT_TIMEOUT_S, remedy="the collector seems to be away: the last are lost")
    try:
        await sending.run("sending traces", state.tracing.close)
    except ReadError as exc:
        log.warning("%s", exc)
