"""Looks: a batch as JSON for people, read as it was written, damaged and hostile."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from owl_stream.errors import FrameError
from owl_stream.wire import BatchLook, LookPicture, LookRow, LookRun, pack_look, read_look
from tests.wire.test_hostile_headers import changed, places

ROW = LookRow(
    shard="a.tar",
    key="0001",
    status="repeated",
    reason="no supervised token",
    replaces=("b.tar", "0009"),
    ids=(27, 91, 3, 4),
    padding=2,
    supervised=((2, 4),),
    units=((0, 2),),
    runs=(LookRun(0, 1, 0, "media_offset [0, 0]"), LookRun(1, 4, 1, "media_offset [0, 1]")),
    pictures=(LookPicture(2, 3, bytes(range(18))),),
)
LOOK = BatchLook(
    fingerprint="5eed",
    layout="owl3-240728",
    unit="crop",
    epoch=0,
    step=7,
    micro=0,
    rank=1,
    world_size=2,
    attended_tokens=4,
    supervised_tokens=2,
    step_supervised_tokens=300,
    vision_tokens=4,
    units=1,
    nbytes=1000,
    tensors={"input_ids": "int64 [2, 6]"},
    rows=(ROW, replace(ROW, replaces=None, units=(), runs=(), pictures=(), supervised=())),
)
VALUES: list[Any] = [
    None, True, -1, 2**53 + 1, 2**64, 10**400, 0.5, 1e300, "", "x" * 5000, "\ud800", "=", [], [None], [[]], [-1],
    [0, 10**6], [[3, 3]], [[4, 2]], [[0, 5]], [[-1, 2]], {}, {"a": 1}, [{}] * 70_000,
]  # fmt: skip


def test_a_look_is_read_as_it_was_written() -> None:
    """Pictures and all."""
    assert read_look(pack_look(LOOK)) == LOOK


def test_pages_read_it_as_plain_json() -> None:
    """Pictures are base64, spans are lists of two."""
    (row, _) = json.loads(pack_look(LOOK))["rows"]
    assert row["supervised"] == [[2, 4]]
    assert row["pictures"] == [{"width": 2, "height": 3, "rgb": "AAECAwQFBgcICQoLDA0ODxAR"}]


@pytest.mark.parametrize("value", VALUES, ids=[f"{value!r:.20}" for value in VALUES])
def test_no_value_anywhere_does_more_than_a_frame_error(value: Any) -> None:
    """In every place in turn: a frame error, or a look whose spans and pictures are whole."""
    raw = json.loads(pack_look(LOOK))
    for path in places(raw):
        refused = ""
        rows: tuple[LookRow, ...] = ()
        try:
            rows = read_look(json.dumps(changed(raw, path, value)).encode()).rows
        except FrameError as exc:
            refused = str(exc)
        assert len(refused) < 2000
        for row in rows:
            spans = [*row.supervised, *row.units, *((run.begin, run.end) for run in row.runs)]
            assert all(0 <= begin < end <= len(row.ids) for begin, end in spans), path
            assert all(len(each.rgb) == each.width * each.height * 3 for each in row.pictures), path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(ROW, supervised=((2, 5),)), "row 0: expected spans within its 4 tokens"),
        (replace(ROW, units=((2, 2),)), "row 0: expected spans within its 4 tokens"),
        (replace(ROW, runs=(LookRun(3, 1, 0, ""),)), "row 0: expected spans within its 4 tokens"),
        (replace(ROW, pictures=(LookPicture(2, 3, bytes(17)),)), "row 0: expected 3 bytes for each pixel"),
        (replace(ROW, pictures=(LookPicture(2**53, 2**53, b""),)), "row 0: expected 3 bytes for each pixel"),
    ],
    ids=["span_past_the_tokens", "empty_span", "span_backwards", "part_of_a_picture", "huge_picture"],
)
def test_what_does_not_fit_together_is_refused(row: LookRow, message: str) -> None:
    """The message has the row."""
    with pytest.raises(FrameError, match=message):
        read_look(pack_look(replace(LOOK, rows=(row,))))


def test_every_key_of_a_look_is_needed() -> None:
    """A key that is missing is refused by name; one more than there should be is passed over."""
    raw = json.loads(pack_look(LOOK))
    for key in raw:
        with pytest.raises(FrameError, match=key):
            read_look(json.dumps({name: value for name, value in raw.items() if name != key}).encode())
    assert read_look(json.dumps({**raw, "novelty": [{}]}).encode()) == LOOK


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_look_is_a_frame_error(data: bytes) -> None:
    """Other JSON, and no JSON."""
    with pytest.raises(FrameError, match="look of a batch"):
        read_look(data)


def test_a_look_that_was_cut_is_a_frame_error() -> None:
    """At every byte."""
    data = pack_look(LOOK)
    for nbytes in range(len(data)):
        with pytest.raises(FrameError):
            read_look(data[:nbytes])
