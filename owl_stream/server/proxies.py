"""What a proxy in front says of a request. It is believed only of proxies that the configuration declares.

All that counts is whether the browser came over TLS (`X-Forwarded-Proto`): the login's cookie and redirects follow it.
Addresses and names that were forwarded (`X-Forwarded-For`, `X-Forwarded-Host`, `Forwarded`) are never read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from owl_stream.config import Network

_PROTO = b"x-forwarded-proto"


class Proxies:
    """ASGI middleware: a request's scheme is what a declared proxy says, if its connection comes from one."""

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app, self._trusted = app, tuple(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        if scope["type"] == "http" and self._trusted and self._is_trusted(scope["client"]):
            said = [value for name, value in scope["headers"] if name == _PROTO]
            nearest = said[-1].rpartition(b",")[2].strip().lower() if said else b""  # what the proxy itself has added
            if nearest in (b"http", b"https"):
                scope = {**scope, "scheme": nearest.decode()}
        await self._app(scope, receive, send)

    def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        try:
            address = ipaddress.ip_address(client[0].partition("%")[0] if client else "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._trusted)
