"""Sample -> conversation and media. Three forms of writing one become one form of reading it.

1. `json` with `messages: [{role, content}]`; media stand as `<|image|>` and `<|video|>`.
2. `json` with `conversations: [{from, value}]` (LLaVA, ShareGPT); media stand as `<image>` and `<video>`.
3. Images and a `txt` or `caption` member: every image, then the caption as the answer. A `json` that has neither field
   nor anything spelt like one is metadata here, as image downloaders write it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from owl_stream.errors import SampleError
from owl_stream.shards.document import check_text, fault, kind, read_json, read_text
from owl_stream.shards.media import choose_images, choose_videos, image_members
from owl_stream.shards.sample import Member, Sample

IMAGE_MARKER = "<|image|>"
VIDEO_MARKER = "<|video|>"

_ROLES = ("system", "user", "assistant")
_IN_TURN = ("user", "assistant")
_FROM = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_LLAVA_MARKERS = {"<image>": IMAGE_MARKER, "<video>": VIDEO_MARKER}
_FIELDS = ("messages", "conversations")
_At = tuple[str, int]
"""Which turn of which field; put into words only where something is wrong with it."""


class Message(NamedTuple):
    """One turn. `role` is system, user or assistant; a user's `content` holds the markers of media."""

    role: str
    content: str
    learned: bool = True


class Record(NamedTuple):
    """A conversation: optionally system, then user and assistant in turns, the assistant last.

    `images` are consumed by `<|image|>` and `videos` (their frames) by `<|video|>`, in order; the numbers agree.
    """

    messages: tuple[Message, ...]
    images: tuple[Member, ...]
    videos: tuple[tuple[Member, ...], ...]


def read_record(sample: Sample) -> Record:
    """The sample's conversation and media.

    Raises:
        SampleError: with shard, key and, where one is to blame, member and offset.
    """
    try:
        return _read(sample)
    except SampleError as exc:
        raise exc.at(shard=sample.shard, key=sample.key) from exc.__cause__


def _read(sample: Sample) -> Record:
    document = next((member for member in sample.members if member.ext == "json"), None)
    captions = [member for member in sample.members if member.ext in ("txt", "caption")]
    if document is not None:
        fields = read_json(document)
        if any(name in fields for name in _FIELDS) or not captions or _nearest(_FIELDS, fields):
            return _from_json(sample, document, fields)
    if not captions:
        found = ", ".join(member.ext for member in sample.members[:10])
        raise SampleError("record_missing", f"expected a member json, txt or caption, got {found}")
    if len(captions) > 1:
        raise fault(captions[1], "record_ambiguous", "both a txt and a caption member; keep one")
    return _from_caption(sample, captions[0])


def _from_caption(sample: Sample, caption: Member) -> Record:
    images = image_members(sample)
    if not images:
        raise fault(caption, "image_count", "a caption needs at least one image member, got none")
    answer = read_text(caption).strip()
    if not answer:
        raise fault(caption, "record_empty", "the caption is empty")
    messages = (Message("user", IMAGE_MARKER * len(images)), Message("assistant", answer))
    return _checked(Record(messages, images, ()), caption)


def _from_json(sample: Sample, document: Member, fields: Mapping[str, Any]) -> Record:
    present = [name for name in _FIELDS if name in fields]
    if len(present) > 1:
        raise fault(document, "record_ambiguous", "both `messages` and `conversations`; keep one")
    if not present:
        near = _nearest(_FIELDS, fields)
        hint = f"got `{near[0]}`: did you mean `{near[1]}`?" if near else f"got {_names(fields)}"
        raise fault(document, "record_field", f"expected the field `messages` or `conversations`, {hint}")
    turns = fields[present[0]]
    if not isinstance(turns, list):
        raise fault(document, "record_type", f"`{present[0]}`: expected a list, got {kind(turns)}")
    if not turns:
        raise fault(document, "record_empty", f"`{present[0]}` is empty")
    read_turn = _message if present[0] == "messages" else _llava_message
    messages = tuple([read_turn(turn, (present[0], at), document) for at, turn in enumerate(turns)])
    videos = choose_videos(sample, fields, document)
    return _checked(Record(messages, choose_images(sample, fields, document, videos), videos), document)


def _message(turn: object, at: _At, document: Member) -> Message:
    role = _string(turn, "role", at, document)
    if role not in _ROLES:
        raise fault(document, "record_role", f"{_where(at)}.role: expected {_one_of(_ROLES, role)}")
    return Message(role, _string(turn, "content", at, document))


def _llava_message(turn: object, at: _At, document: Member) -> Message:
    role = _string(turn, "from", at, document)
    if role not in _FROM:
        raise fault(document, "record_role", f"{_where(at)}.from: expected {_one_of(tuple(_FROM), role)}")
    content = _string(turn, "value", at, document)
    for written, marker in _LLAVA_MARKERS.items():
        content = content.replace(written, marker)
    return Message(_FROM[role], content)


def _string(turn: object, name: str, at: _At, document: Member) -> str:
    if not isinstance(turn, dict):
        raise fault(document, "record_type", f"{_where(at)}: expected an object, got {kind(turn)}")
    if name not in turn:
        near = _nearest((name,), turn)
        hint = f"got `{near[0]}`: did you mean `{name}`?" if near else f"got {_names(turn)}"
        raise fault(document, "record_field", f"{_where(at)}: expected the field `{name}`, {hint}")
    value = turn[name]
    if not isinstance(value, str):
        raise fault(document, "record_type", f"{_where(at)}.{name}: expected a string, got {kind(value)}")
    check_text(value, document, lambda: f"{_where(at)}.{name}")
    return value


def _where(at: _At) -> str:
    return f"{at[0]}[{at[1]}]"


def _checked(record: Record, document: Member) -> Record:
    _check_order([message.role for message in record.messages], document)
    images = videos = 0
    for at, (role, content, _) in enumerate(record.messages):
        here = content.count(IMAGE_MARKER), content.count(VIDEO_MARKER)
        if role != "user" and any(here):
            raise fault(document, "marker_role", f"turn {at} ({role}) holds a media marker; only a user's may")
        images, videos = images + here[0], videos + here[1]
    if images != len(record.images):
        raise fault(document, "image_count", f"{images} markers `{IMAGE_MARKER}`, but {len(record.images)} images")
    if videos != len(record.videos):
        raise fault(document, "video_count", f"{videos} markers `{VIDEO_MARKER}`, but {len(record.videos)} videos")
    return record


def _check_order(roles: Sequence[str], document: Member) -> None:
    behind_system = roles[1:] if roles[0] == "system" else roles
    first = len(roles) - len(behind_system)
    for at, got in enumerate(behind_system):
        if got != _IN_TURN[at % 2]:
            raise fault(document, "record_order", f"turn {first + at}: expected {_IN_TURN[at % 2]}, got {got}")
    if roles[-1] != "assistant":
        raise fault(document, "record_order", f"expected the last turn to be the assistant's, got {roles[-1]}")


def _nearest(valid: Sequence[str], fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what was written, what was meant), for a field that looks like a valid one."""
    written = [name for name in list(fields)[:64] if len(name) <= 64]
    for name in valid:
        for candidate in written:
            if _folded(candidate) == name:
                return candidate, name
        near = difflib.get_close_matches(name, written, n=1, cutoff=0.7)
        if near:
            return near[0], name
    return None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _names(fields: Mapping[str, Any]) -> str:
    shown = ", ".join(f"`{name[:40]}`" for name in list(fields)[:8])
    return shown or "no field at all"


def _one_of(valid: Sequence[str], got: str) -> str:
    near = difflib.get_close_matches(got[:64].lower(), valid, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"{', '.join(valid)}, got {got[:64]!r}{hint}"
