"""For orchestrators: is it alive, is it ready, how is it, and what has it counted."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from owl_stream import __version__
from owl_stream.server.gate import reader_of
from owl_stream.server.state import ServerState, server_state

router = APIRouter(tags=["health"])

State = Annotated[ServerState, Depends(server_state)]


class DatasetHealth(BaseModel):
    """How one dataset is. `progress` is the share of its bytes that are indexed."""

    status: Literal["indexing", "ready", "failed"]
    progress: float
    fingerprint: str | None = None
    samples: int | None = None
    quarantined: int | None = None
    error: str | None = None


class PublicHealth(BaseModel):
    """What everyone may know of a server: how it is, and nothing of what is in it."""

    status: Literal["ok", "indexing", "degraded"]


class Health(PublicHealth):
    """How the server is. `degraded`: batches cannot be assembled, now or of some dataset.

    `failures`: parts of the server that have failed or are stuck, and why.
    """

    version: str
    uptime_s: float
    streams: int
    datasets: dict[str, DatasetHealth]
    failures: dict[str, str] = {}


@router.get("/health", responses={503: {"model": Health | PublicHealth, "description": "Batches cannot be assembled"}})
async def health(request: Request, state: State, response: Response) -> Health | PublicHealth:
    """Status, version, uptime and datasets; 503 only when batches cannot be assembled.

    Where the server asks for tokens, a request without one of them gets the status alone.
    """
    entries = state.catalogue.entries
    datasets = {
        name: DatasetHealth(
            status=entry.status,
            progress=round(entry.progress, 4),
            fingerprint=entry.dataset.fingerprint if entry.dataset else None,
            samples=entry.dataset.samples if entry.dataset else None,
            quarantined=entry.dataset.quarantined if entry.dataset else None,
            error=str(entry.error) if entry.error else None,
        )
        for name, entry in entries.items()
    }
    status: Literal["ok", "indexing", "degraded"] = "ok"
    if state.draining.is_set() or state.catalogue.failures or state.failures:
        status, response.status_code = "degraded", 503
    elif not state.catalogue.ready():
        status = "indexing"
    if state.tokens and not reader_of(request):
        return PublicHealth(status=status)
    return Health(
        status=status,
        version=__version__,
        uptime_s=round(time.monotonic() - state.began, 3),
        streams=len(state.streams.open),
        datasets=datasets,
        failures={what: str(error) for what, error in state.failures.items()},
    )


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop answers."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    responses={503: {"description": "Something is not ready, has failed, or is stopping"}},
)
async def readyz(state: State, response: Response) -> dict[str, str]:
    """Every dataset is indexed, nothing has failed, and the server is not stopping."""
    status = "ok"
    if state.draining.is_set():
        status = "draining"
    elif state.catalogue.failures or state.failures:
        status = "failed"
    elif not state.catalogue.ready():
        status = "indexing"
    if status != "ok":
        response.status_code = 503
    return {"status": status}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Any:
    """Prometheus text format."""
    text, media_type = request.app.state.metrics.render()
    return Response(text, media_type=media_type)
