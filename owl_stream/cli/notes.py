"""Notes about good samples, as lines for people: a field that means nothing here, an image put in front."""

from __future__ import annotations

from collections.abc import Mapping

from owl_stream.records import describe_note


def note_lines(notes: Mapping[str, int]) -> list[str]:
    """One line a note, the most frequent first."""
    most_first = sorted(notes.items(), key=lambda counted: (-counted[1], counted[0]))
    return [f"  note: {count} x {describe_note(note)}" for note, count in most_first]
