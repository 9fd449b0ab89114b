"""The login for people: a form that takes a token and leaves a cookie, so that browsers can show the pages."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Annotated
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import ClientDisconnect

from owl_stream.server.sessions import COOKIE, begin_session, set_cookie
from owl_stream.server.state import ServerState, server_state

router = APIRouter(tags=["login"], include_in_schema=False)

State = Annotated[ServerState, Depends(server_state)]

STYLE = """:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:22rem;margin:15vh auto;padding:0 1rem}
label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}
input,button{padding:.5rem;margin:.25rem 0 1rem}
[role=alert]{color:light-dark(#a40000,#ff9b9b)}"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>owl-stream: log in</title><style>{style}</style></head>
<body><main><h1>owl-stream</h1>{fault}
<form method="post" action="/login?next={after}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button></form></main></body></html>
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; form-action 'self'; "
    f"frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/login")
async def form(state: State, next: str = "/") -> Response:
    """The form; where no tokens are asked for, the page itself."""
    return _page(_local(next)) if state.tokens else RedirectResponse(_local(next), 303)


@router.post("/login")
async def login(request: Request, state: State, next: str = "/") -> Response:
    """Take a token, leave a cookie, go on to the page that was asked for."""
    try:
        body = await request.body()
    except ClientDisconnect:  # or it was too long, and has been refused
        return Response(status_code=400)
    name = state.tokens.name_of(_token(body))
    if name is None:
        return _page(_local(next), 401, '<p role="alert">This is not a token of this server.</p>')
    response = RedirectResponse(_local(next), 303, {"Cache-Control": "no-store"})
    set_cookie(response, begin_session(state.tokens, name), secure=request.url.scheme == "https")
    return response


@router.post("/logout")
async def logout() -> Response:
    """Take the cookie back."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _token(body: bytes) -> bytes:
    """The field `token` of a form, as it was sent; empty where there is none."""
    try:
        given = parse_qs(body.decode("latin-1"), encoding="latin-1", max_num_fields=8)
    except ValueError:
        return b""
    return given.get("token", [""])[0].strip().encode("latin-1")


def _page(after: str, status: int = 200, fault: str = "") -> HTMLResponse:
    text = PAGE.format(style=STYLE, fault=fault, after=html.escape(quote(after, safe="")))
    return HTMLResponse(text, status, HEADERS)


def _local(target: str) -> str:
    """A path on this server, never an address elsewhere: browsers read `//host` and `/\\host` as one."""
    plain = target.isprintable() and target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if plain else "/"
