"""Where media go in a conversation. Every tool marks the place in its own way; `<|image|>` and `<|video|>` are ours.

In a record that has media, every known marker means one, in a user's or a tool's turn. In a record that has none, a
marker is an error, unless the record says that it is text (`"literal_markers": true`). Media that nothing marks go in
front of the first question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from owl_stream.errors import SampleError
from owl_stream.records.tools import Json
from owl_stream.records.turns import Message

IMAGE_MARKER = "<|image|>"
VIDEO_MARKER = "<|video|>"
WITH_MEDIA = ("user", "tool")
"""Whose turns have media."""

_OURS = {IMAGE_MARKER: IMAGE_MARKER, VIDEO_MARKER: VIDEO_MARKER}
_MEANS = {**_OURS, "<image>": IMAGE_MARKER, "<video>": VIDEO_MARKER}
_MARKER = re.compile("|".join(map(re.escape, _MEANS)))
_OUR_MARKER = re.compile("|".join(map(re.escape, _OURS)))
_PLACEHOLDER = re.compile(
    r"<\|?audio\|?>|<\|(?:AUDIO|IMAGE|VIDEO)\|>|<speech>"  # no layout takes audio; Qwen's processors in capitals
    r"|<\|(?:begin|end)_of_(?:image|video)\|>|<\|media_(?:pad|start|end|begin|content)\|>|<\|(?:image_token|img)\|>"
    r"|<im_(?:start|end|patch)>|\[IMG(?:_BREAK|_END)?\]|<fake_token_around_image>|<__media__>"
    r"|<(?:image|video)_(?:pad|start|end|newline|token)>|<vi_(?:start|end)>"
    r"|<img>[^<>]{1,512}</img>"  # Qwen-VL
    r"|<\|(?:image|video|audio|vision)_(?:pad|start|end|bos|eos|\d{1,3})\|>"  # Qwen, Phi
    r"|<(?:image|video|audio|img|frame|Image|IMAGE|Video|VIDEO)[ _-]?\d{1,4}>"  # numbered: MMMU and others
    r"|<(?:IMG_CONTEXT|ImageHere|start_of_image|end_of_image|image_soft_token|(?:image|video)[_-]placeholder)>"
    r"|<(?:ref-object|bbox|quad|point)>"  # grounding, to be filled in from `objects`
)
_BESIDE_MEDIA = re.compile(r"<\|?(?:image|video|audio)\|?>|</(?:image|video)>|<(?:image|video) ?/>", re.IGNORECASE)
_AS_TEXT = 'to mean the text itself, add `"literal_markers": true` to the record or to the settings'


def place_media(
    messages: Sequence[Message], images: int, videos: int, literal: bool, tools: Sequence[Json] = ()
) -> tuple[list[Message], list[str]]:
    """The turns with our markers, one for each medium in order, and notes about media that were put in front.

    Raises:
        SampleError: markers and media do not agree, or a marker where none may be.
    """
    marker, means = (_OUR_MARKER, _OURS) if literal else (_MARKER, _MEANS)
    placed = []
    for at, message in enumerate(messages):
        if not _may_mark(message.content):
            placed.append(message)
            continue
        where = f"turn {at} ({message.role})"
        if not literal:
            _check_placeholders(message.content, where, has_media=bool(images or videos))
        if message.role not in WITH_MEDIA and (found := marker.search(message.content)):
            raise _misplaced(found.group(), where)
        content = marker.sub(lambda found: means[found.group()], message.content)
        placed.append(message if content == message.content else message._replace(content=content))
    for text, where in _beside(messages, tools):
        if not literal:
            _check_placeholders(text, where, has_media=bool(images or videos))
        if found := marker.search(text):
            raise _misplaced(found.group(), where)
    notes = []
    for word, mark, media in (("image", IMAGE_MARKER, images), ("video", VIDEO_MARKER, videos)):
        marked = sum([message.content.count(mark) for message in placed])
        if media and not marked:
            notes.append(f"{word}_in_front")
            _put_in_front(placed, mark * media)
        elif marked != media:
            hint = "" if media else f": {_no_media(messages, word, mark)}"
            raise SampleError(f"{word}_count", f"{marked} markers `{mark}`, but {media} {word}s{hint}")
    return placed, notes


def _put_in_front(messages: list[Message], markers: str) -> None:
    first = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if first is not None:  # an order without a user's turn is refused anyway
        messages[first] = messages[first]._replace(content=markers + messages[first].content)


def _no_media(messages: Sequence[Message], word: str, mark: str) -> str:
    if any(mark in message.content for message in messages):
        return f"add the {word}; `{mark}` always stands for one, so text must spell it otherwise, say with a space"
    return f"add the {word}; {_AS_TEXT}"


def _may_mark(text: str) -> bool:
    return "<" in text or "[IMG" in text


def _beside(messages: Sequence[Message], tools: Sequence[Json]) -> Iterator[tuple[str, str]]:
    """Texts that no medium may be in, and where they are: thoughts, calls and tools."""
    for at, message in enumerate(messages):
        if _may_mark(message.reasoning):
            yield message.reasoning, f"the reasoning of turn {at}"
        if message.calls:
            yield json.dumps(message.calls, ensure_ascii=False), f"a call of turn {at}"
    if tools:
        yield json.dumps(tools, ensure_ascii=False), "`tools`"


def _misplaced(found: str, where: str) -> SampleError:
    remedy = "text must spell it otherwise, say with a space" if found in _OURS else _AS_TEXT
    detail = f"{where} holds the media marker `{found}`; only a user's or a tool's turn may; {remedy}"
    return SampleError("marker_role", detail)


def _check_placeholders(text: str, where: str, *, has_media: bool) -> None:
    found = _PLACEHOLDER.search(text)
    if found is None and has_media:
        found = next((each for each in _BESIDE_MEDIA.finditer(text) if each.group() not in _MEANS), None)
    if found is not None:
        meant = "write `<image>` or `<video>` where a medium goes, and boxes as the text that is to be learned"
        raise SampleError(
            "marker_unknown", f"{where} holds `{found.group()}`, which stands for nothing here; {meant}; {_AS_TEXT}"
        )
