"""The pages' routes, all on one router, so that one dependency or middleware can guard them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.routing import APIRoute

from owl_stream.assemble import Dataset
from owl_stream.plan import valid_micro_batch_sizes, valid_world_sizes
from owl_stream.server import routes
from owl_stream.server.pages.files import HEADERS, send_file
from owl_stream.server.pages.overview import Overview
from owl_stream.server.routes import Number, Size, State

MAX_IDS = 1024
"""Of one request for pieces; their digits fit well into a request's head."""


class PageRoute(APIRoute):
    """Every answer carries the pages' headers, so none can be taken for another kind of content."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, and the headers."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            response = await handle(request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guarded


@asynccontextmanager
async def _sampling(app: FastAPI) -> AsyncIterator[None]:
    app.state.overview = overview = Overview(app.state.server)
    sampling = app.state.server.background.begin("sampling for the dashboard", overview.history.run())
    try:
        yield
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)  # an error has been told when it came


router = APIRouter(route_class=PageRoute, include_in_schema=False, lifespan=_sampling)


@router.get("/")
async def dashboard(request: Request) -> Response:
    """Datasets, live streams, throughput, bad samples."""
    return send_file("dashboard.html", request)


@router.get("/inspect/{dataset}/{epoch}/{step}/{rank}")
async def inspector(request: Request) -> Response:
    """One micro-batch: tokens, pictures, what each token sees, and where each row came from."""
    return send_file("inspect.html", request)


@router.get("/inspect/{dataset}/{epoch}/{step}")
async def step_page(request: Request) -> Response:
    """One global step over all ranks."""
    return send_file("step.html", request)


@router.get("/quarantine/{dataset}")
async def quarantine_page(request: Request) -> Response:
    """Every sample that was found bad at indexing."""
    return send_file("quarantine.html", request)


@router.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    """A style sheet, script or picture of the pages."""
    return send_file(name, request)


@router.get("/pages/overview")
async def overview(request: Request, since: Number = 0) -> dict[str, Any]:
    """What the dashboard shows, with the history from sample `since` on."""
    shown: dict[str, Any] = await request.app.state.overview.show(since)
    return shown


@router.get("/pages/datasets/{name}")
async def dataset_facts(name: str, state: State, world_size: Size = 1) -> dict[str, Any]:
    """What a dataset is, and which micro-batch sizes go with a world size."""
    dataset = state.catalogue.get(name)
    sizes = valid_micro_batch_sizes(dataset.global_batch_size, world_size)
    return {**dataset.describe(), "world_sizes": valid_world_sizes(dataset.global_batch_size), "sizes": sizes}


router.get("/pages/datasets/{name}/looks/{epoch}/{step}/{micro}", response_model=dict[str, Any])(routes.look)
"""The inspector shows what the data route serves: the same function, the same batch."""


@router.get("/pages/datasets/{name}/steps/{epoch}/{step}", response_model=dict[str, Any])
async def step_facts(
    name: str, epoch: int, step: int, state: State, world_size: Size = 1, micro_batch_size: Size | None = None
) -> Response:
    """A global step's samples, and how they are dealt to ranks and micro-batches."""
    dataset = state.catalogue.get(name)
    size = micro_batch_size or max(1, dataset.global_batch_size // world_size)
    what = f"epoch {epoch}, step {step} of {name}"
    return await dataset.pages.run(what, lambda: routes.json_answer(_step(dataset, epoch, step, world_size, size)))


def _step(dataset: Dataset, epoch: int, step: int, world_size: int, micro_batch_size: int) -> dict[str, Any]:
    deal = dataset.describe_deal(epoch, step, world_size, micro_batch_size)
    return {**dataset.describe_step(epoch, step), "deal": deal}


@router.get("/pages/datasets/{name}/members/{epoch}/{step}/{place}")
async def members(name: str, epoch: int, step: int, place: int, state: State) -> list[dict[str, Any]]:
    """The members of one sample of a step, as they lie in the tar."""
    dataset = state.catalogue.get(name)
    what = f"members of sample {place} of {name}, epoch {epoch}, step {step}"
    return await dataset.pages.run(what, dataset.members, epoch, step, place)


@router.get("/pages/datasets/{name}/pieces")
async def pieces(
    name: str, state: State, ids: Annotated[str, Query(pattern=r"^\d{1,9}(,\d{1,9})*$", max_length=MAX_IDS * 10)]
) -> dict[str, str]:
    """The bytes, in hexadecimal, that token ids stand for."""
    numbers = {int(number) for number in ids.split(",")}
    dataset = state.catalogue.get(name)
    return await dataset.pages.run(f"the vocabulary of {name}", _pieces, dataset, sorted(numbers))


def _pieces(dataset: Dataset, ids: list[int]) -> dict[str, str]:
    return {str(number): piece.hex() for number, piece in zip(ids, dataset.pieces.of(ids), strict=True)}


@router.get("/pages/datasets/{name}/quarantine")
async def quarantine(
    name: str,
    request: Request,
    state: State,
    reason: Annotated[str, Query(max_length=64)] = "",
    offset: Number = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Samples found bad at indexing, of one reason or all, and how many there are of each."""
    dataset = state.catalogue.get(name)
    overview: Overview = request.app.state.overview
    reasons = await overview.reasons(dataset)
    samples = await dataset.pages.run(f"the quarantine of {name}", _quarantine, dataset, reason, offset, limit)
    return {"quarantined": dataset.quarantined, "reasons": reasons, "offset": offset, "samples": samples}


def _quarantine(dataset: Dataset, reason: str, offset: int, limit: int) -> list[dict[str, Any]]:
    if not reason:
        return dataset.quarantine(offset, limit)
    chosen = (bad for bad in dataset.quarantine() if bad["reason"] == reason)
    return list(islice(chosen, offset, offset + limit))
