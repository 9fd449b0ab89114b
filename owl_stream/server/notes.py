"""Notes about good samples, in words: a field that was not used, an image put in front."""

from __future__ import annotations

from collections.abc import Mapping

from owl_stream.records import describe_note


def note_words(notes: Mapping[str, int]) -> list[str]:
    """`12 x a field ...` for each note, the most frequent first."""
    most_first = sorted(notes.items(), key=lambda counted: (-counted[1], counted[0]))
    return [f"{count} x {describe_note(note)}" for note, count in most_first]
