"""Bytes of a text or JSON document -> what they say, or a reason why they cannot be used.

Whether a document is good depends on its bytes alone: never on the Python version or on how deep the caller's stack is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from owl_stream.errors import SampleError

MAX_DOCUMENT_BYTES = 16 << 20
MAX_DEPTH = 64
"""Nested lists and objects; a conversation needs 3. Far below what any Python's parser can take."""
MAX_INNER_DEPTH = MAX_DEPTH - 8
"""Of JSON inside of a record: of tools, and of the arguments of calls. Packed as objects they fit into a document."""

_UTF8_BOM = b"\xef\xbb\xbf"
_NAMES_TURNS = re.compile(
    r'"(?:messages|conversations)"\s*:\s*\[|"(?:role|from)"\s*:\s*"(?:user|assistant|system|human|gpt)"', re.IGNORECASE
)


def read_text(data: memoryview) -> str:
    """A caption as text; a byte order mark in front is no part of it.

    Raises:
        SampleError: empty, too long, invalid UTF-8, or a NUL.
    """
    text = _decoded(_whole(data).removeprefix(_UTF8_BOM))
    check_text(text, lambda: "the text")
    return text


def parse_json(data: memoryview) -> object:
    """A JSON value. Numbers that JSON does not have (NaN, Infinity) are refused.

    Raises:
        SampleError: as `read_text`; a byte order mark; malformed, or nested deeper than 64.
    """
    raw = _whole(data)
    if raw.startswith(_UTF8_BOM):
        raise SampleError("text_bom", "starts with a byte order mark; write plain UTF-8")
    text = _decoded(raw)
    check_text(text, lambda: "the text")
    try:
        document = _JSON.decode(text)
        too_deep = text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(document, MAX_DEPTH)
    except RecursionError as exc:
        raise _nesting() from exc
    except json.JSONDecodeError as exc:
        raise SampleError("json_malformed", f"not JSON: {exc.msg} at character {exc.pos}") from exc
    except ValueError as exc:
        raise SampleError("json_malformed", f"not JSON: {exc}") from exc
    if too_deep:
        raise _nesting()
    return document


def parse_inner(text: str, where: str) -> object:
    """A JSON value that a document holds as a text; `where` names it. Refused is what `parse_json` refuses.

    Raises:
        SampleError: `tools_malformed`; only tools are written so.
    """
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError) as exc:
        detail = f"{where}: expected JSON in the text, got {text[:40]!r}: {str(exc)[:200]}"
        raise SampleError("tools_malformed", detail) from exc


def check_inner(value: object, where: str) -> None:
    """A chat template can take this JSON value, and what it writes of it is text.

    Raises:
        SampleError: `json_nesting`; `json_malformed`, a number without end; or a key or text as `check_text` has it.
    """
    if _deeper_than(value, MAX_INNER_DEPTH):
        raise SampleError("json_nesting", f"{where}: lists and objects are nested deeper than {MAX_INNER_DEPTH}")
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            check_text(node, lambda: where)
        elif isinstance(node, float) and not math.isfinite(node):
            raise SampleError("json_malformed", f"{where}: expected numbers that are finite, got {node}")
        elif isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list):
            waiting += node


def find_conversation(data: memoryview, is_conversation: Callable[[object], bool]) -> object | None:
    """The JSON value of a document beside a caption if it is a conversation; None where it is anything else.

    Downloaders write metadata there: not always UTF-8, not always JSON. None of that is the caption's fault.

    Raises:
        SampleError: it is a conversation, or was meant as one, and is damaged.
    """
    raw = bytes(data[:MAX_DOCUMENT_BYTES]).removeprefix(_UTF8_BOM)
    try:
        found = is_conversation(json.loads(raw.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        found = any(_NAMES_TURNS.search(raw.decode(form, "replace")) for form in ("utf-8", "utf-16"))
    return parse_json(data) if found else None


def check_text(text: str, where: Callable[[], str]) -> None:
    """A tokenizer can take it.

    Raises:
        SampleError: half a surrogate pair, or a NUL (JSON can spell both with escapes).
    """
    if "\0" in text:
        raise SampleError("text_nul", f"{where()} holds a NUL at character {text.index(chr(0))}")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        detail = f"{where()} holds half a surrogate pair at character {exc.start}"
        raise SampleError("text_surrogate", detail) from exc


def kind(value: object) -> str:
    """What JSON calls the type of a value."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _whole(data: memoryview) -> bytes:
    size = len(data)
    if size == 0:
        raise SampleError("member_empty", "the member has zero bytes")
    if size > MAX_DOCUMENT_BYTES:
        raise SampleError("text_too_long", f"{size} bytes of text, more than {MAX_DOCUMENT_BYTES}")
    return bytes(data)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SampleError("text_utf8", f"byte {raw[exc.start]:#04x} at {exc.start} is not UTF-8") from exc


def _nesting() -> SampleError:
    return SampleError("json_nesting", f"lists and objects are nested deeper than {MAX_DEPTH}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def key_that_comes_twice(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """The first key of an object that comes more than once. Parsers keep the last value; nobody knows which counts."""
    if len(dict(pairs)) == len(pairs):
        return None
    return next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := key_that_comes_twice(pairs)) is not None:
        raise ValueError(f"the key {twice[:64]!r} comes twice in one object")
    return dict(pairs)


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_with_each_key_once)


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
