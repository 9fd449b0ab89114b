"""The data routes: what datasets there are, what their plans hold, and the batches themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel

from owl_stream.assemble import Dataset
from owl_stream.engine import Coordinate
from owl_stream.errors import DrainingError, ProtocolVersionError, RequestError, StateMismatchError
from owl_stream.plan import check_cursor, check_deal
from owl_stream.server.answer import STREAM_HEADERS, Answer, Look, SingleFrame
from owl_stream.server.delivery import Delivery
from owl_stream.server.framing import only_head
from owl_stream.server.gate import reader_of
from owl_stream.server.journey import Journey
from owl_stream.server.reports import MAX_HEADER_CHARS, read_report
from owl_stream.server.state import ServerState, server_state
from owl_stream.wire import MEDIA_TYPE, PROTOCOL_VERSION, Cursor, MemoryOffer

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

MAX_PLAN_ROWS = 100_000
"""Of one answer about the plan: a row is made of 200 bytes of JSON and much more memory."""

MAX_NUMBER = 2**53
"""The largest whole number that every JSON reader keeps exact; no cursor comes near it."""

State = Annotated[ServerState, Depends(server_state)]
Number = Annotated[int, Query(ge=0, le=MAX_NUMBER)]
Size = Annotated[int, Query(ge=1, le=1 << 20)]


class Refusal(BaseModel):
    """The body of every error: `{"error": {"code", "message", "retryable"}}`, with `differences` on 409."""

    error: dict[str, Any]


REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "No such dataset; the message names those there are"},
    422: {"model": Refusal, "description": "No such coordinate; the message names valid values"},
    503: {"model": Refusal, "description": "Not now; Retry-After says when"},
}


@router.get("")
async def list_datasets(state: State) -> dict[str, Any]:
    """The datasets' names and states."""
    return {"datasets": {name: {"status": entry.status} for name, entry in state.catalogue.entries.items()}}


@router.get("/{name}", responses=REFUSALS)
async def describe_dataset(
    name: str, state: State, world_size: Size | None = None, micro_batch_size: Size | None = None
) -> dict[str, Any]:
    """Fingerprint, sizes and schema; with a world size also the micro-batches of a step and the heaviest of them."""
    dataset = state.catalogue.get(name)
    if world_size is None:  # nothing is read for that
        return dataset.describe()
    what = f"describing {name} for {world_size} ranks"
    return await dataset.describing.run(what, _describe, dataset, world_size, micro_batch_size)


def _describe(dataset: Dataset, world_size: int, micro_batch_size: int | None) -> dict[str, Any]:
    size = _micro_batch_size(dataset, world_size, micro_batch_size)
    return {
        **dataset.describe(),
        "micro_batch_size": size,
        "micros_per_step": check_deal(dataset.global_batch_size, world_size, size),
        "heaviest": asdict(dataset.heaviest(world_size, size)),
    }


def _micro_batch_size(dataset: Dataset, world_size: int, asked: int | None) -> int:
    """The micro-batch size that was asked for; by default a rank gets its share of a step at once."""
    return asked or max(1, dataset.global_batch_size // world_size)


@router.get(
    "/{name}/stream",
    responses={
        **REFUSALS,
        200: {"content": {MEDIA_TYPE: {}}, "description": "A sequence of frames, see docs/wire.md"},
        409: {"model": Refusal, "description": "Another fingerprint; the differences are named"},
        426: {"model": Refusal, "description": "Another protocol version"},
        429: {"model": Refusal, "description": "Too many streams; Retry-After says when to ask again"},
    },
    response_class=Response,
)
async def stream(
    name: str,
    request: Request,
    state: State,
    rank: Number = 0,
    world_size: Size = 1,
    micro_batch_size: Size | None = None,
    epoch: Number = 0,
    step: Number = 0,
    micro: Number = 0,
    epochs: Annotated[int, Query(ge=1, le=1 << 20)] = 1,
    stride: Size = 1,
    fingerprint: Annotated[str, Query(max_length=128)] = "",
    protocol: Number = PROTOCOL_VERSION,
    owl_client_stats: Annotated[str, Header(max_length=MAX_HEADER_CHARS)] = "",
    owl_memory: Annotated[str, Header(max_length=MAX_HEADER_CHARS)] = "",
) -> Response:
    """Batches from a cursor on, for one rank, until the end of `epochs` epochs."""
    if protocol != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"expected protocol {PROTOCOL_VERSION}, got {protocol}; install the client that belongs to this server"
        )
    dataset = state.catalogue.get(name)
    _check_fingerprint(dataset, fingerprint)
    size = _micro_batch_size(dataset, world_size, micro_batch_size)
    micros = _check_place(dataset, rank, world_size, size)
    cursor = Cursor(*check_cursor(dataset, epoch, step, micro, micros))
    if stride > 1 and epochs > 1:
        raise RequestError(f"stride {stride} with {epochs} epochs: readers that share an epoch ask for one at a time")
    if state.draining.is_set():
        raise DrainingError("the server is stopping: ask another one, or ask again")
    reader = reader_of(request)
    state.streams.check(reader)
    if only_head(request):
        return _without_body(MEDIA_TYPE)
    journey = Journey(dataset, rank, world_size, size, micros, cursor, epochs, stride)
    return Delivery(journey, state, reader, read_report(owl_client_stats), MemoryOffer.from_header(owl_memory))


def _without_body(media_type: str) -> Response:
    """The answer to a HEAD of batches: how many bytes they have is known only once they are made."""
    answer = Response(media_type=media_type, headers=STREAM_HEADERS)
    del answer.headers["content-length"]
    return answer


def _check_fingerprint(dataset: Dataset, asked: str) -> None:
    if asked and asked != dataset.fingerprint:
        raise StateMismatchError(
            f"dataset {dataset.name!r}: expected fingerprint {asked}, this server has {dataset.fingerprint}; its data, "
            f"recipe, seed or plan differ",
            {"fingerprint": (asked, dataset.fingerprint)},
        )


def _check_place(dataset: Dataset, rank: int, world_size: int, micro_batch_size: int) -> int:
    micros = check_deal(dataset.global_batch_size, world_size, micro_batch_size)
    if rank >= world_size:
        raise RequestError(f"rank {rank} of world size {world_size}: expected a rank from 0 to {world_size - 1}")
    return micros


async def _coordinate(
    name: str,
    epoch: int,
    step: int,
    micro: int,
    state: State,
    rank: Number = 0,
    world_size: Size = 1,
    micro_batch_size: Size | None = None,
) -> tuple[Dataset, Coordinate]:
    """The micro-batch that a request names."""
    dataset = state.catalogue.get(name)
    size = _micro_batch_size(dataset, world_size, micro_batch_size)
    return dataset, Coordinate(epoch, step, micro, rank, world_size, size)


Place = Annotated[tuple[Dataset, Coordinate], Depends(_coordinate)]
ONE_BATCH: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    429: {"model": Refusal, "description": "Too many streams; Retry-After says when to ask again"},
}


@router.get(
    "/{name}/batches/{epoch}/{step}/{micro}",
    responses={**ONE_BATCH, 200: {"content": {MEDIA_TYPE: {}}, "description": "One frame"}},
    response_class=Response,
)
async def batch(request: Request, state: State, place: Place) -> Response:
    """One micro-batch: the same bytes as in a stream. It takes a stream's place for as long as it is sent."""
    return await _one_batch(SingleFrame, request, state, place)


@router.get("/{name}/looks/{epoch}/{step}/{micro}", responses=ONE_BATCH, response_model=dict[str, Any])
async def look(request: Request, state: State, place: Place) -> Response:
    """One micro-batch for people: its tokens, what each of them sees, and pictures. Takes a stream's place."""
    return await _one_batch(Look, request, state, place)


async def _one_batch(
    answer: type[Answer], request: Request, state: ServerState, place: tuple[Dataset, Coordinate]
) -> Response:
    dataset, at = place
    if only_head(request):
        await dataset.describing.run(f"looking for {at} of {dataset.name}", dataset.job, *at)
        return _without_body(answer.media_type)
    return answer(state, dataset, at, reader_of(request), {})


@router.get("/{name}/plan", responses=REFUSALS, response_model=dict[str, Any])
async def plan(
    name: str, state: State, epoch: Number = 0, step: Number = 0, count: Annotated[int, Query(ge=1, le=100)] = 1
) -> Response:
    """Which samples are in which global steps, at what cost."""
    dataset = state.catalogue.get(name)
    what = f"the plan of {name}, epoch {epoch}, step {step}"
    return await dataset.pages.run(what, lambda: json_answer(_plan(dataset, epoch, step, count)))


def json_answer(content: object) -> Response:
    """An answer that may be long, as FastAPI would write it, but made where it is called: not on the event loop."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), media_type="application/json")


def _plan(dataset: Dataset, epoch: int, step: int, count: int) -> dict[str, Any]:
    most = max(1, MAX_PLAN_ROWS // dataset.global_batch_size)
    if count > most:
        raise RequestError(
            f"count {count}: expected at most {most}, as steps have {dataset.global_batch_size} rows and one answer at "
            f"most {max(MAX_PLAN_ROWS, dataset.global_batch_size)}; ask for the steps behind them afterwards"
        )
    last = min(step + count, dataset.steps_per_epoch)
    if step >= last:
        raise RequestError(f"step {step}: expected a step from 0 to {dataset.steps_per_epoch - 1}")
    steps = [dataset.describe_step(epoch, number) for number in range(step, last)]
    return {"fingerprint": dataset.fingerprint, "steps_per_epoch": dataset.steps_per_epoch, "steps": steps}


@router.get("/{name}/quarantine", responses=REFUSALS, response_model=dict[str, Any])
async def quarantine(
    name: str, request: Request, state: State, offset: Number = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> Response:
    """Every sample that was found bad at indexing: shard, key, member, byte offset, reason."""
    dataset = state.catalogue.get(name)
    what = f"the quarantine of {name}"
    return await dataset.pages.run(what, lambda: json_answer(_quarantine(dataset, offset, limit)))


def _quarantine(dataset: Dataset, offset: int, limit: int) -> dict[str, Any]:
    return {"quarantined": dataset.quarantined, "offset": offset, "samples": dataset.quarantine(offset, limit)}
