"""Cursor arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from owl_stream.errors import RequestError
from owl_stream.plan import check_cursor


@dataclass
class Epoch:
    """What a cursor needs to know of a plan."""

    steps_per_epoch: int


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [((0, 0, 0), (0, 0, 0)), ((3, 9, 1), (3, 9, 1)), ((3, 10, 0), (4, 0, 0)), ((0, 5, 0), (0, 5, 0))],
)
def test_every_cursor_has_one_name(cursor: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    """The end of an epoch is the start of the next."""
    assert check_cursor(Epoch(10), *cursor, 2) == expected


@pytest.mark.parametrize(
    "cursor",
    [
        (-1, 0, 0),
        (1 << 63, 0, 0),
        (0, -1, 0),
        (0, 11, 0),
        (0, 10, 1),
        (0, 0, -1),
        (0, 0, 2),
        ("0", 0, 0),
        (0, 1.5, 0),
        (0, float("nan"), 0),
        (True, 0, 0),
        (0, None, 0),
    ],
)
def test_fault_20_a_cursor_that_cannot_be_is_refused(cursor: tuple[Any, Any, Any]) -> None:
    """Negative, past the end, or not a whole number; the message names the part and its range."""
    with pytest.raises(RequestError, match=r"cursor, (epoch|step|micro): expected a whole number from 0 to \d+"):
        check_cursor(Epoch(10), *cursor, 2)


def test_a_micro_of_a_larger_world_is_not_taken_for_the_next_step() -> None:
    """Micro 2 of 4 is not `the end of the step` where a rank has 2: rows would be lost silently."""
    with pytest.raises(RequestError, match="2 micro-batches per step"):
        check_cursor(Epoch(10), 0, 3, 2, 2)
