"""The examination: from the trainer's host to its batches, step by step, up to a fault that blocks later ones."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from owl_client.doctor.asking import Address, Reply
from owl_client.doctor.clock import clock
from owl_client.doctor.data import asked, chosen
from owl_client.doctor.finding import Case, Finding
from owl_client.doctor.reach import proxies, reach
from owl_client.doctor.road import road, shared_directory
from owl_client.doctor.server import admitted, condition, identified


def examine(case: Case) -> Iterator[Finding]:
    """Look at all that lies between a trainer and its batches; findings come as they are made.

    Nothing of the server changes, and no batch is used up. The token is in no finding, should a server repeat it.
    """
    for finding in _examine(case):
        masked = case.token.masked if case.token is not None else str
        yield replace(finding, said=masked(finding.said), remedy=masked(finding.remedy))


def _examine(case: Case) -> Iterator[Finding]:
    address = Address.of(case.url)
    context = case.tls.context() if address.scheme == "https" else None
    yield from shared_directory()
    yield from proxies(address)
    answered = yield from reach(case, address)
    if answered is None or not (yield from identified(address, answered)):
        return
    yield clock(answered)
    listed = yield from admitted(case, address, context)
    if listed is None:
        return
    yield from condition(_health(case, address, answered))
    description = yield from chosen(case, address, context, listed)
    if description is None:
        return
    wanted = yield from asked(case, description)
    if wanted is not None and case.seconds:
        yield from road(case, wanted)


def _health(case: Case, address: Address, answered: Reply) -> dict[str, object]:
    """All that the server says of itself; without its token it only says its status."""
    found: dict[str, object] = answered.content
    if "version" not in found and case.token is not None:
        context = case.tls.context() if address.scheme == "https" else None
        with suppress(OSError, http.client.HTTPException):
            full = address.ask("/health", context, case.token).content
            if isinstance(full, dict) and "status" in full:
                found = full
    return found
