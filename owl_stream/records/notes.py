"""Notes: what is worth telling about a good sample. A note is a stable word, counted per shard; it is never an error.

`unknown_field:NAME`, `unknown_turn_field:NAME`, `unused_member:EXT`, `image_in_front`, `video_in_front`.
"""

from __future__ import annotations

_MOST_CHARACTERS = 64

_WORDS = {
    "unknown_field": "a field `{}` that owl-stream does not know: not used",
    "unknown_turn_field": "a field `{}` of a turn that owl-stream does not know: not used",
    "unused_member": "a member `.{}` beside the record: not used",
    "image_in_front": "images without a marker: put in front of the first user turn",
    "video_in_front": "videos without a marker: put in front of the first user turn",
    "other": "other notes: too many kinds to list",
}


def note(word: str, name: str = "") -> str:
    """The note of that word, about a field or member of that name."""
    if not name:
        return word
    short = name if len(name) <= _MOST_CHARACTERS else name[: _MOST_CHARACTERS - 1] + "…"
    return f"{word}:{short.encode('utf-8', 'backslashreplace').decode()}"


def describe_note(written: str) -> str:
    """A note in words, for people."""
    word, _, name = written.partition(":")
    return _WORDS.get(word, word).format(name)
