"""Cursors: arithmetic over (epoch, step, micro)."""

from __future__ import annotations

from owl_stream.wire import Cursor


def test_after_walks_micros_then_steps_then_epochs() -> None:
    """Following `after` from the start visits every micro-batch once, in order, into the next epoch."""
    cursor, seen = Cursor(0, 0, 0), []
    while cursor.epoch == 0:
        seen.append((cursor.step, cursor.micro))
        cursor = cursor.after(steps_per_epoch=3, micros=2)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert cursor == Cursor(1, 0, 0)


def test_strides_divide_an_epoch_between_readers() -> None:
    """Readers that start at i and walk with stride k together visit everything once."""
    seen = []
    for start in range(3):
        cursor = Cursor.at(0, start, 2)
        while cursor.epoch == 0:
            seen.append(cursor.ordinal(2))
            cursor = cursor.after(5, 2, stride=3)
    assert sorted(seen) == list(range(10))
