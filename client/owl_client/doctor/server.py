"""Who answers: an owl-stream server, which version, how it is, and whether it lets us in."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from owl_client.doctor.asking import Address, Reply
from owl_client.doctor.finding import Case, Finding
from owl_stream import __version__

_STATES = ("ok", "indexing", "degraded")
_REFUSED = (401, 403)


def identified(address: Address, reply: Reply) -> Generator[Finding, None, bool]:
    """Whether the one that answered is an owl-stream server."""
    content = reply.content
    if isinstance(content, dict) and content.get("status") in _STATES:
        return True
    kind = reply.headers.get("Server") or reply.headers.get_content_type()
    yield Finding(
        "server",
        "fault",
        f"{address} is no owl-stream server: /health answers {reply.status} ({kind})",
        "check host and port, and the path of a proxy in front of it",
    )
    return False


def admitted(case: Case, address: Address, context: ssl.SSLContext | None) -> Generator[Finding, None, Reply | None]:
    """The list of datasets, with the token where the server asks for one; None where it refuses us."""
    path, token = "/v1/datasets", case.token
    try:
        reply = address.ask(path, context)
        if reply.status not in _REFUSED:
            if token is not None:
                yield Finding("token", "ok", "a token is set, and the server asks for none")
            return reply
        if token is None:
            yield Finding(
                "token", "fault", "the server asks for a token", "set OWL_TOKEN, or give --token; token= in the trainer"
            )
            return None
        reply = address.ask(path, context, token)
    except (OSError, http.client.HTTPException) as exc:
        yield Finding("server", "fault", f"{path}: no whole answer: {exc}", "look at the server's log")
        return None
    if reply.status in _REFUSED:
        yield Finding(
            "token",
            "fault",
            "the token is none of this server's",
            "compare it with the server's `tokens`: OWL_TOKEN may be of another server, or of an older configuration",
        )
        return None
    yield Finding("token", "ok", "the server accepts the token")
    if context is None and not address.is_loopback:
        yield Finding(
            "token", "note", "the token goes over the network unencrypted", "use https, or a network that is yours"
        )
    return reply


def condition(health: Mapping[str, Any]) -> Iterator[Finding]:
    """Its version, and whether it works."""
    yield _version(health.get("version"))
    failures = health.get("failures")
    causes = [f"{what}: {why}" for what, why in failures.items()] if isinstance(failures, dict) else []
    causes += [f"dataset {name}: {each['error']}" for name, each in _datasets(health).items() if each.get("error")]
    if health["status"] == "degraded":
        remedy = "look at the server's log; it answers again once that has passed"
        yield Finding(
            "health", "fault", f"batches cannot be assembled: {'; '.join(causes) or 'the server is stopping'}", remedy
        )
    elif health["status"] == "indexing":
        told = [each.get("progress") for each in _datasets(health).values()]
        shares = [share for share in told if isinstance(share, int | float)]
        yield Finding("health", "note", f"the server is still indexing ({min(shares, default=0):.0%})", "wait for it")
    else:
        yield Finding("health", "ok", "batches can be assembled")


def _datasets(health: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = health.get("datasets")
    return (
        {str(name): each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}
    )


def _version(theirs: object) -> Finding:
    remedy = "install the same version on both sides"
    if theirs == __version__:
        return Finding("version", "ok", f"both sides are {__version__}")
    if not isinstance(theirs, str) or not theirs:
        return Finding("version", "fault", f"the server does not say its version; this client is {__version__}", remedy)
    if _numbers(theirs) < _numbers(__version__):
        return Finding("version", "fault", f"the server is {theirs}, older than this client's {__version__}", remedy)
    return Finding("version", "note", f"the server is {theirs}, newer than this client's {__version__}", remedy)


def _numbers(version: str) -> list[int]:
    return [int(part) if re.fullmatch("[0-9]{1,9}", part) else 0 for part in version.split(".")]
