"""The cookie that a login leaves: a name, an end, and a signature that needs the token. Servers keep nothing of it.

Every server with the same tokens takes it, and taking a token away ends its sessions.
"""

from __future__ import annotations

import hmac
import time

from starlette.responses import Response

from owl_stream.server.access import Tokens

COOKIE = "owl_stream_session"
LIFETIME_S = 12 * 3600


def begin_session(tokens: Tokens, name: str, *, now_s: float | None = None) -> str:
    """The cookie's value for the bearer of the token `name`."""
    ends = f"{int(time.time() if now_s is None else now_s) + LIFETIME_S}"
    return f"{name}:{ends}:{tokens.sign(name, _message(name, ends)).hex()}"


def open_session(tokens: Tokens, value: str, *, now_s: float | None = None) -> str | None:
    """Whose session a cookie stands for; None if it is over, forged or no cookie of ours."""
    name, _, rest = value.partition(":")
    ends, _, given = rest.partition(":")
    expected = tokens.sign(name, _message(name, ends))
    if not expected or not hmac.compare_digest(given.encode("utf-8", "replace"), expected.hex().encode()):
        return None
    return name if float(ends) > (time.time() if now_s is None else now_s) else None


def set_cookie(response: Response, value: str, *, secure: bool) -> None:
    """Leave the cookie with a browser: out of reach of scripts and of other sites' requests."""
    response.set_cookie(COOKIE, value, LIFETIME_S, httponly=True, samesite="strict", secure=secure)


def _message(name: str, ends: str) -> bytes:
    return f"session\0{name}\0{ends}".encode("utf-8", "replace")
