"""What the trainer asks for, beside what the server has: dataset, share of a step, and a checkpoint's state."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from owl_client.answers import error_from_answer
from owl_client.description import read_description
from owl_client.doctor.asking import Address, Reply
from owl_client.doctor.finding import Case, Finding
from owl_client.doctor.saved import read_state
from owl_client.identity import resolve_rank, resolve_share
from owl_client.order import describe_differences, name_differences
from owl_client.state import State, start_cursor
from owl_client.transport import Description, Share
from owl_stream.errors import OwlStreamError, RequestError
from owl_stream.wire import Cursor

DEFAULT_DATASET = "train"
"""`OwlStreamDataset`'s, where nothing is said."""


@dataclass(frozen=True)
class Asked:
    """What batches can be read: of which dataset, for which share, from where on."""

    description: Description
    share: Share
    start: Cursor


def chosen(
    case: Case, address: Address, context: ssl.SSLContext | None, listed: Reply
) -> Generator[Finding, None, Description | None]:
    """The dataset's description, or None where there is none."""
    content = listed.content
    names = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(names, Mapping):
        yield Finding("dataset", "fault", "the server lists no datasets", "check the address, and the server's version")
        return None
    there = ", ".join(sorted(map(str, names)))
    name = case.dataset if case.dataset is not None else next(iter(names)) if len(names) == 1 else None
    if name is None:
        yield Finding("dataset", "fault", f"there are several: {there}", "choose one with --dataset")
        return None
    if name not in names:
        yield Finding("dataset", "fault", f"no dataset {name!r}; there is: {there}", "choose one of those")
        return None
    try:
        reply = address.ask(f"/v1/datasets/{quote(name, safe='', errors='replace')}", context, case.token)
        if reply.status != 200:
            raise error_from_answer(str(address), reply.status, None, reply.body)
        description = read_description(str(address), reply.body, name)
    except (OwlStreamError, OSError, http.client.HTTPException) as exc:
        yield Finding("dataset", "fault", f"{name}: {exc}", "wait until it is indexed, or look at the server's log")
        return None
    if case.dataset is None and name != DEFAULT_DATASET:
        yield Finding(
            "dataset", "note", f"the server's only dataset is {name}", f"the trainer must say dataset={name!r}"
        )
    yield Finding(
        "dataset",
        "ok",
        f"{name}: layout {description.layout}, {description.steps_per_epoch} steps of {description.global_batch_size} "
        f"rows an epoch, fingerprint {description.fingerprint[:12]}",
    )
    return description


def asked(case: Case, description: Description) -> Generator[Finding, None, Asked | None]:
    """Whether a step can be divided so, and whether the checkpoint's state belongs to these data."""
    share = yield from _share(case, description)
    start = Cursor(0, 0, 0)
    if case.state is not None:
        found = yield from _resumed(case, description, share)
        if found is None:
            return None
        start = found
    return None if share is None else Asked(description, share, start)


def _share(case: Case, description: Description) -> Generator[Finding, None, Share | None]:
    try:
        rank, world = (0, case.world_size) if case.world_size is not None else resolve_rank(None, None)
    except OwlStreamError as exc:
        remedy = "set RANK and WORLD_SIZE as torchrun does, or give --world-size"
        yield Finding("share", "fault", str(exc), remedy)
        return None
    try:
        if world < 1:
            raise RequestError(f"world_size: expected at least 1, got {world}")
        share = resolve_share(rank, world, case.micro_batch_size, description.global_batch_size)
    except OwlStreamError as exc:
        remedy = "change world size, micro_batch_size, or the server's global_batch_size"
        yield Finding("share", "fault", str(exc), remedy)
        return None
    micros = description.global_batch_size // (share.world_size * share.micro_batch_size)
    where = "" if case.world_size is not None or "WORLD_SIZE" not in os.environ else " (by WORLD_SIZE)"
    yield Finding(
        "share",
        "ok",
        f"{share.world_size} rank{'s' * (share.world_size > 1)}{where} x {micros} micro-batch"
        f"{'es' * (micros > 1)} of {share.micro_batch_size} rows: accumulate gradients over {micros}",
    )
    return share


def _resumed(case: Case, description: Description, share: Share | None) -> Generator[Finding, None, Cursor | None]:
    assert case.state is not None
    try:
        file, state = read_state(case.state, description)
    except OwlStreamError as exc:
        yield Finding("state", "fault", str(exc), "give the checkpoint that you would resume from")
        return None
    if state.fingerprint != description.fingerprint:
        yield _other_data(state, description)
        return None
    if state.part is not None:
        said = f"{file}: of these data; the state of DataLoader worker {state.part.worker}, of its part of an epoch"
        yield Finding("state", "note", said, "load it through the StatefulDataLoader that kept it")
        return Cursor(0, 0, 0)
    try:
        cursor = state.cursor if share is None else start_cursor(state, description, share)
    except OwlStreamError as exc:
        yield Finding("state", "fault", str(exc), "resume at the old share, or from a checkpoint between steps")
        return None
    said = f"{file}: of these data; the next is epoch {cursor.epoch}, step {cursor.step}"
    if state.assembly == description.assembly:
        yield Finding("state", "ok", said)
    else:
        yield Finding(
            "state",
            "note",
            f"{said}; it was written with other versions of decoders (assembly {state.assembly}, now "
            f"{description.assembly}): pixels may differ by a grey level",
            "install the versions on the server that the run began with, if that matters",
        )
    return cursor


def _other_data(state: State, description: Description) -> Finding:
    differences = name_differences(
        (state.fingerprint, dict(state.components)), (description.fingerprint, dict(description.components))
    )
    return Finding(
        "state",
        "fault",
        f"the checkpoint was written with other data: {describe_differences(differences)}",
        "ask the server that has those data, or give this one the same shards, recipe, seed and plan",
    )
