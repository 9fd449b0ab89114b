"""Where a chat template has put a conversation's media.

A template writes a placeholder per medium (`<|image_pad|>`), and any text of the conversation may spell out the same
characters. What the template writes when each medium is an empty text holds the latter and not the former. So a
conversation is right when that text has no placeholder, and the real one has as many as there are media.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from owl_stream.errors import SampleError
from owl_stream.layouts.template_turns import ChatMessage, MediumKind


class MediumPlace(NamedTuple):
    """Characters [begin, end) of the placeholder that the template wrote for a medium."""

    kind: MediumKind
    begin: int
    end: int


def find_media(
    text: str, bare: str, messages: Sequence[ChatMessage], placeholders: Mapping[MediumKind, str]
) -> tuple[MediumPlace, ...]:
    """The placeholders in `text`, in its order. `bare`: the text of the same conversation without its media.

    Raises:
        SampleError: `template_placeholder`, a text of the conversation spells one out. `template_media`, a kind of
            media has no placeholder, or not as many are there as the conversation has media.
    """
    for placeholder in placeholders.values():
        if placeholder in bare:
            raise SampleError("template_placeholder", _spelt_out(placeholder, messages))
    places = _places(text, placeholders)
    kinds = [kind for message in messages for kind in message.media]
    for kind in sorted(set(kinds) | placeholders.keys()):
        got = sum(1 for place in places if place.kind == kind)
        if got != kinds.count(kind):
            detail = f"expected a placeholder for each {kind} ({kinds.count(kind)}), the chat template wrote {got}"
            raise SampleError("template_media", detail)
    return places


def _places(text: str, placeholders: Mapping[MediumKind, str]) -> tuple[MediumPlace, ...]:
    kinds: dict[str, MediumKind] = {placeholder: kind for kind, placeholder in placeholders.items()}
    pattern = "|".join(re.escape(placeholder) for placeholder in sorted(kinds, key=len, reverse=True))
    if not pattern:
        return ()
    return tuple(MediumPlace(kinds[found.group()], *found.span()) for found in re.finditer(pattern, text))


def _spelt_out(placeholder: str, messages: Sequence[ChatMessage]) -> str:
    at = next((at for at, message in enumerate(messages) if placeholder in message.text), None)
    place = "the conversation" if at is None else f"message {at} ({messages[at].role})"
    return f"{place}: its text spells out {placeholder!r}, which stands for a medium; write it in another way"
