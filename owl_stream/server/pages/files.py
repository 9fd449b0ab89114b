"""The pages' files: HTML, CSS and scripts that lie in this package, read once and served under strict headers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import xxhash
from fastapi import HTTPException, Request, Response

STATIC = Path(__file__).parent / "static"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""On every answer of the pages: a browser runs our own scripts and nothing that a data set says."""


@dataclass(frozen=True)
class File:
    """One file as it is sent. `tag` names its content."""

    content: bytes
    media_type: str
    tag: str


@cache
def _files() -> dict[str, File]:
    """Every file by name; what is not among these cannot be asked for, whatever a path spells."""
    files = {}
    for path in STATIC.iterdir():
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            files[path.name] = File(content, MEDIA_TYPES[path.suffix], f'"{xxhash.xxh3_64_hexdigest(content)}"')
    return files


def send_file(name: str, request: Request) -> Response:
    """The answer for a file, without its content where the browser has that already.

    Raises:
        HTTPException: 404, there is no such file.
    """
    file = _files().get(name)
    if file is None:
        raise HTTPException(404, f"no file {name!r:.80}")
    # Browsers ask each time whether a file has changed: after an upgrade no page runs with an old script.
    headers = {**HEADERS, "ETag": file.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
