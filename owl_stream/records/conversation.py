"""A document's fields -> a conversation and the names of its media. One reading for every spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.records import fields as vocabulary
from owl_stream.records.document import check_text, kind
from owl_stream.records.options import RecordOptions
from owl_stream.records.order import check_order, merge_calls
from owl_stream.records.tools import Json, read_tools
from owl_stream.records.turns import Message, looks_like_turns, read_turns

_PICTURE = re.compile(r"\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif)$", re.IGNORECASE)
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".gifv")


class Conversation(NamedTuple):
    """What a document says, its markers as they were written.

    `images`: names in order; None where it names none, an empty tuple where it says that there are none. `videos`:
    names of each video's frames. `remote`: a field that tells of images elsewhere. `literal`: markers of other tools
    are text. `notes`: see `notes.py`. `tools`: schemas of functions that the assistant may call.
    """

    messages: tuple[Message, ...]
    images: tuple[str, ...] | None
    videos: tuple[tuple[str, ...], ...]
    remote: str
    literal: bool
    notes: tuple[str, ...]
    tools: tuple[Json, ...] = ()


def read_conversation(document: object, options: RecordOptions) -> Conversation:
    """Read an object with `messages`, `conversations`, or `query` and `response`; or a bare list of turns.

    Raises:
        SampleError: what it says cannot be honoured; the detail names the field.
    """
    if isinstance(document, list) and document and all(isinstance(turn, dict) for turn in document):
        document = {"conversations" if any("from" in turn for turn in document) else "messages": document}
    if not isinstance(document, dict):
        raise SampleError("json_malformed", f"expected a JSON object or a list of turns, got {kind(document)}")
    notes = dict.fromkeys(vocabulary.judge_record(document, options))
    messages = _with_system(_messages(document, options, notes), document)
    check_order(messages)
    messages = merge_calls(messages)
    literal = _flag(document, vocabulary.LITERAL) or options.literal_markers
    remote = next((name for name in vocabulary.REMOTE_IMAGES if not vocabulary.is_empty(document.get(name))), "")
    remote = remote or next((name for name in vocabulary.FILE_NAMES if _is_picture(document.get(name))), "")
    tools = read_tools(document.get(vocabulary.TOOLS))
    return Conversation(tuple(messages), _images(document), _videos(document), remote, literal, tuple(notes), tools)


def _messages(fields: Mapping[str, Any], options: RecordOptions, notes: dict[str, None]) -> list[Message]:
    given = [name for name in vocabulary.CONVERSATIONS if fields.get(name) is not None]
    present = [name for name in given if not vocabulary.is_empty(fields[name])] or given[:1]
    asked = any(not vocabulary.is_empty(fields.get(name)) for name in ("query", "response"))
    if asked:
        present = [name for name in present if not vocabulary.is_empty(fields[name])]
    if present and not vocabulary.is_empty(fields.get("history")):
        raise SampleError("record_ambiguous", f"both `{present[0]}` and `history`; keep one")
    if len(present) + asked > 1:
        both = [*present, *["query"] * asked]
        raise SampleError("record_ambiguous", f"both `{both[0]}` and `{both[1]}`; keep one")
    if asked:
        return _asked(fields)
    if present:
        return read_turns(fields[present[0]], present[0], options, notes)
    near = vocabulary.nearest(vocabulary.CONVERSATIONS, fields)
    hint = f"got `{near[0]}`: did you mean `{near[1]}`?" if near else f"got {vocabulary.names(fields)}"
    raise SampleError("record_field", f"expected the field `messages` or `conversations`, {hint}")


def _asked(fields: Mapping[str, Any]) -> list[Message]:
    """ms-swift's older form: `{query, response, history: [[query, response], ...]}`."""
    history = [] if vocabulary.is_empty(fields.get("history")) else fields["history"]
    if not isinstance(history, list):
        raise SampleError("record_type", f"`history`: expected a list, got {kind(history)}")
    pairs = []
    for at, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise SampleError("record_type", f"history[{at}]: expected [query, response]")
        pairs.append((pair, f"history[{at}]"))
    pairs.append(([fields.get("query"), fields.get("response")], "query and response"))
    messages = []
    for (query, response), where in pairs:
        messages += [Message("user", _text(query, where)), Message("assistant", _text(response, where))]
    return messages


def _with_system(messages: list[Message], fields: Mapping[str, Any]) -> list[Message]:
    said = [name for name in vocabulary.SYSTEM if not _says_nothing(fields.get(name))]
    if not said:
        return messages
    texts = {_text(fields[name], f"`{name}`") for name in said}
    if messages[0].role == "system":
        said, texts = [*said, "a system turn"], texts | {messages[0].content}
        messages = messages[1:]
    if len(texts) > 1:
        raise SampleError("record_ambiguous", f"{' and '.join(said)} say different things; keep one")
    return [Message("system", texts.pop()), *messages]


def _images(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    said = [name for name in vocabulary.IMAGES if fields.get(name) == [] or not vocabulary.is_empty(fields.get(name))]
    given = {name: _name_list(fields[name], name) for name in said}
    if len(set(given.values())) > 1:
        first, second = list(given)[:2]
        raise SampleError("record_ambiguous", f"both `{first}` and `{second}`; keep one")
    return next(iter(given.values()), None)


def _is_picture(name: object) -> bool:
    return isinstance(name, str) and _PICTURE.search(name) is not None


def _videos(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    given = [name for name in vocabulary.VIDEOS if not vocabulary.is_empty(fields.get(name))]
    if len(given) > 1:
        raise SampleError("record_ambiguous", "both `videos` and `video`; keep one")
    if not given:
        empty = fields.get("videos")
        if isinstance(empty, list) and empty:
            raise SampleError("video_empty", "`videos[0]` lists no frame")
        return ()
    name, value = given[0], fields[given[0]]
    for path in value if isinstance(value, list) else [value]:
        if isinstance(path, str) and (path.lower().endswith(VIDEO_SUFFIXES) or (value == path and name == "video")):
            remedy = 'extract frames as images, and list them as `"videos": [["0.jpg", "1.jpg"]]`'
            raise SampleError("media_unsupported", f"`{name}` names {path[:200]!r}: video files are not read; {remedy}")
    if name == "video":
        return (_frames(value, "video"),)
    if not isinstance(value, list):
        raise SampleError("record_type", f"`videos`: expected a list of lists of names, got {kind(value)}")
    return tuple(_frames(frames, f"videos[{at}]") for at, frames in enumerate(value))


def _frames(frames: object, where: str) -> tuple[str, ...]:
    if not isinstance(frames, list):
        raise SampleError("record_type", f"`{where}`: expected a list of member names, got {kind(frames)}")
    if not frames:
        raise SampleError("video_empty", f"`{where}` lists no frame")
    return _name_list(frames, where)


def _name_list(value: object, field: str) -> tuple[str, ...]:
    """Names of images: one, a list of them, or a list of objects with `path`."""
    names = []
    for given in value if isinstance(value, list) else [value]:
        name = given.get("path") if isinstance(given, dict) else given
        if not isinstance(name, str) or not name:
            got = "an empty one" if name == "" else kind(given)
            raise SampleError("record_type", f"`{field}`: expected names of images, got {got}")
        names.append(name)
    return tuple(names)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not vocabulary.is_empty(value) and not isinstance(value, bool):
        raise SampleError("record_type", f"`{name}`: expected true or false, got {kind(value)}")
    return value is True


def _says_nothing(value: object) -> bool:
    """As `is_empty`, but of a text that is to be used: `null` in quotes is one."""
    return not value.strip() if isinstance(value, str) else vocabulary.is_empty(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise SampleError("record_type", f"{where}: expected a string, got {kind(value)}")
    check_text(value, lambda: where)
    return value


def is_conversation(document: object) -> bool:
    """Whether a JSON value is a conversation, however its fields are spelt, and not metadata of a picture."""
    if isinstance(document, list):
        return looks_like_turns(document)
    if not isinstance(document, dict):
        return False
    if any(isinstance(document.get(name), list) and document[name] for name in vocabulary.CONVERSATIONS):
        return True
    if isinstance(document.get("query"), str) and isinstance(document.get("response"), str):
        return True
    near = vocabulary.nearest(vocabulary.CONVERSATIONS, document)
    return near is not None and looks_like_turns(document[near[0]])
