"""Too long a row: keep its beginning, split no medium."""

from __future__ import annotations

from collections.abc import Sequence


def cut_position(groups: Sequence[tuple[int, int]], max_length: int) -> tuple[int, int]:
    """Return (tokens to keep, groups to keep) so that at most `max_length` tokens stay and no group is split.

    `groups` are token ranges [first, end) in order; neighbours may share a token, which then counts for both. A cut
    inside a group moves back to its first token, and on from there while that splits the group before.
    """
    cut, kept = max_length, len(groups)
    for index in range(len(groups) - 1, -1, -1):
        first, end = groups[index]
        if end > cut:
            cut, kept = min(cut, first), index
    return cut, kept
