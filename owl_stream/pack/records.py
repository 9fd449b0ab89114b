"""Foreign records -> drafts: LLaVA, ShareGPT and ms-swift spell one thing, a conversation about images, differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from owl_stream.errors import SampleError
from owl_stream.pack.entry import Draft
from owl_stream.shards import IMAGE_MARKER

Fields = Mapping[str, Any]
Turns = list[tuple[str, str]]

_ROLES = {"human": "user", "gpt": "assistant"}
_FOREIGN_MARKER = "<image>"
_OTHER_MEDIA = ("video", "videos", "audio", "audios")


def read_llava(record: Fields) -> Draft:
    """`{id, image: name or names, conversations: [{from, value}]}`; without `image` it is text only."""
    return _draft(record, _spoken(record, "conversations", "from", "value"), _names(record, "image"))


def read_sharegpt(record: Fields) -> Draft:
    """`{conversations: [{from, value}], images: [...], system}`."""
    return _draft(record, _spoken(record, "conversations", "from", "value"), _names(record, "images"))


def read_swift(record: Fields) -> Draft:
    """`{messages: [{role, content}], images: [...]}`, or `{query, response, history: [[q, r]], system, images}`."""
    if "messages" in record or not {"query", "response"} & set(record):
        return _draft(record, _spoken(record, "messages", "role", "content"), _names(record, "images"))
    turns: Turns = []
    for at, pair in enumerate(_list(record.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise SampleError("record_type", f"history[{at}]: expected [query, response]")
        turns += [("user", _text(pair[0], f"history[{at}][0]")), ("assistant", _text(pair[1], f"history[{at}][1]"))]
    turns += [("user", _field(record, "query", "")), ("assistant", _field(record, "response", ""))]
    return _draft(record, turns, _names(record, "images"))


def read_any(record: Fields) -> Draft:
    """Whichever of the three it is, by its fields."""
    if "conversations" in record:
        return (read_sharegpt if "images" in record else read_llava)(record)
    if {"messages", "query", "response"} & set(record):
        return read_swift(record)
    shown = ", ".join(f"`{name[:40]}`" for name in list(record)[:8]) or "no field at all"
    raise SampleError("record_field", f"expected `conversations`, `messages` or `query` and `response`, got {shown}")


FORMATS: Mapping[str, Callable[[Fields], Draft]] = {
    "auto": read_any,
    "llava": read_llava,
    "sharegpt": read_sharegpt,
    "swift": read_swift,
}


def _draft(record: Fields, turns: Sequence[tuple[str, str]], images: tuple[str, ...]) -> Draft:
    for name in _OTHER_MEDIA:
        if record.get(name):
            raise SampleError("media_unsupported", f"`{name}`: only images can be packed; extract frames as images")
    system = record.get("system")
    if system and turns[:1] and turns[0][0] != "system":
        turns = [("system", _text(system, "system")), *turns]
    own = record.get("id")
    marked = [(role, _marked(content) if role == "user" else content) for role, content in turns]
    return Draft(tuple(marked), images, own if isinstance(own, str | int) and not isinstance(own, bool) else None)


def _marked(content: str) -> str:
    return content.replace(_FOREIGN_MARKER, IMAGE_MARKER)


def _spoken(record: Fields, name: str, role_name: str, text_name: str) -> Turns:
    if name not in record:
        shown = ", ".join(f"`{given[:40]}`" for given in list(record)[:8]) or "no field at all"
        raise SampleError("record_field", f"expected the field `{name}`, got {shown}")
    turns: Turns = []
    for at, turn in enumerate(_list(record[name], name)):
        if not isinstance(turn, dict):
            raise SampleError("record_type", f"{name}[{at}]: expected an object, got {type(turn).__name__}")
        role = _field(turn, role_name, f"{name}[{at}].")
        turns.append((_ROLES.get(role, role), _field(turn, text_name, f"{name}[{at}].")))
    return turns


def _names(record: Fields, name: str) -> tuple[str, ...]:
    """Names of images: one, a list of them, or a list of objects with `path`."""
    given = record.get(name)
    if given is None or given == "":
        return ()
    names = []
    for at, value in enumerate([given] if isinstance(given, str) else _list(given, name)):
        path = value.get("path") if isinstance(value, dict) else value
        if not isinstance(path, str) or not path:
            raise SampleError("record_type", f"{name}[{at}]: expected the name of an image file")
        names.append(path)
    return tuple(names)


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise SampleError("record_type", f"`{where}`: expected a list, got {type(value).__name__}")
    return value


def _field(record: Fields, name: str, where: str) -> str:
    if name not in record:
        raise SampleError("record_field", f"expected the field `{where}{name}`")
    return _text(record[name], where + name)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise SampleError("record_type", f"`{where}`: expected text, got {type(value).__name__}")
    return value
