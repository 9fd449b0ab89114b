"""Bytes of a text member -> text or JSON that is safe to use, or a reason why not.

Whether a document is good depends on its bytes alone: never on the Python version or on how deep the caller's stack is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from owl_stream.errors import SampleError
from owl_stream.shards.sample import Member

MAX_DOCUMENT_BYTES = 16 << 20
MAX_DEPTH = 64
"""Nested lists and objects; a conversation needs 3. Far below what any Python's parser can take."""

_UTF8_BOM = b"\xef\xbb\xbf"


def read_text(member: Member) -> str:
    """The member as text.

    Raises:
        SampleError: empty, too long, a byte order mark, invalid UTF-8, or a NUL.
    """
    size = len(member.data)
    if size == 0:
        raise fault(member, "member_empty", "the member has zero bytes")
    if size > MAX_DOCUMENT_BYTES:
        raise fault(member, "text_too_long", f"{size} bytes of text, more than {MAX_DOCUMENT_BYTES}")
    raw = bytes(member.data)
    if raw.startswith(_UTF8_BOM):
        raise fault(member, "text_bom", "starts with a byte order mark; write plain UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise fault(member, "text_utf8", f"byte {raw[exc.start]:#04x} at {exc.start} is not UTF-8") from exc
    check_text(text, member, lambda: "the text")
    return text


def read_json(member: Member) -> dict[str, Any]:
    """The member as a JSON object. Numbers that JSON does not have (NaN, Infinity) are refused.

    Raises:
        SampleError: as `read_text`; or malformed, nested deeper than 64, or not an object.
    """
    text = read_text(member)
    try:
        document = _JSON.decode(text)
        too_deep = text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(document, MAX_DEPTH)
    except RecursionError as exc:
        raise _nesting(member) from exc
    except json.JSONDecodeError as exc:
        raise fault(member, "json_malformed", f"not JSON: {exc.msg} at character {exc.pos}") from exc
    except ValueError as exc:
        raise fault(member, "json_malformed", f"not JSON: {exc}") from exc
    if too_deep:
        raise _nesting(member)
    if not isinstance(document, dict):
        raise fault(member, "json_malformed", f"expected a JSON object, got {kind(document)}")
    return document


def check_text(text: str, member: Member, where: Callable[[], str]) -> None:
    """A tokenizer can take it.

    Raises:
        SampleError: half a surrogate pair, or a NUL (JSON can spell both with escapes).
    """
    if "\0" in text:
        raise fault(member, "text_nul", f"{where()} holds a NUL at character {text.index(chr(0))}")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        detail = f"{where()} holds half a surrogate pair at character {exc.start}"
        raise fault(member, "text_surrogate", detail) from exc


def kind(value: object) -> str:
    """What JSON calls the type of a value."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def fault(member: Member, reason: str, detail: str) -> SampleError:
    """A `SampleError` that already knows its member."""
    return SampleError(reason, detail, member=member.name, offset=member.offset)


def _nesting(member: Member) -> SampleError:
    return fault(member, "json_nesting", f"lists and objects are nested deeper than {MAX_DEPTH}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _deeper_than(document: object, limit: int) -> bool:
    level = [document]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
