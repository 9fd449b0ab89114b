"""Pixels that are cut into pieces: the client pads them to the longest, with zeros, once they are normalised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from owl_client import Batch
from owl_client.batch import Raw, pad_pieces
from owl_client.contract import Contract
from owl_stream.errors import FrameError
from owl_stream.wire import BatchHeader, RowInfo, SchemaEntry, lay_out
from tests.client.world import PIXELS

LENGTHS = {"pixel_values": [2, 0, 1]}
SCHEMA = (
    SchemaEntry("input_ids", "int64", ("B", "L"), False, None, None),
    SchemaEntry("tiles", "int64", ("N",), True, None, None),
    SchemaEntry("pixel_values", "uint8", ("T", 3, 2, 2), True, PIXELS, "tiles"),
)


def test_pieces_end_in_zeros() -> None:
    """Where a piece is shorter than the longest, also where it is empty; other tensors stay."""
    flat = torch.arange(1.0, 7.0).reshape(3, 2)
    padded = pad_pieces({"pixel_values": flat, "input_ids": flat}, LENGTHS)
    assert padded["pixel_values"].tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[5, 6], [0, 0]]]
    assert padded["input_ids"] is flat


def test_raw_pixels_are_normalised_before_they_are_padded() -> None:
    """In a DataLoader worker they stay flat and raw; black is -1 and padding 0 when they are moved."""
    raw = Batch(
        {"pixel_values": torch.zeros(3, 3, 2, 2, dtype=torch.uint8)},
        None,
        Raw(torch.float32, {"pixel_values": PIXELS}, LENGTHS),
    )
    moved = raw.to("cpu")["pixel_values"]
    assert moved.shape == (3, 2, 3, 2, 2)
    assert moved[:, :, 0, 0, 0].tolist() == [[-1, -1], [0, 0], [-1, 0]]


def _checked(lengths: list[int], tiles: int) -> None:
    tensors = [
        ("input_ids", "int64", (1, 1)),
        ("tiles", "int64", (len(lengths),)),
        ("pixel_values", "uint8", (tiles, 3, 2, 2)),
    ]
    specs, nbytes = lay_out(tensor for tensor in tensors if 0 not in tensor[2])
    payload = bytearray(nbytes)
    cut = next((spec for spec in specs if spec.name == "tiles"), None)
    if cut is not None:
        np.frombuffer(payload, np.int64, len(lengths), cut.offset)[:] = lengths
    letters = {"B": 1, "L": 1, "N": len(lengths), "T": tiles}
    header: Any = SimpleNamespace(tensors=specs, rows=(RowInfo("a", "b", "ok", "", None),), lengths=letters)
    contract = Contract(cast(Any, SimpleNamespace(schema=SCHEMA)))
    contract.check(cast(BatchHeader, header), memoryview(payload))


def test_lengths_that_fit_are_taken() -> None:
    """Empty pieces among them, and a batch without any."""
    _checked([2, 0, 1], 3)
    _checked([], 0)


@pytest.mark.parametrize(
    ("lengths", "tiles", "message"),
    [
        ([2, 2], 3, "'tiles': expected lengths from 0 with the sum 3, got 2 from 2 with the sum 4"),
        ([4, -1], 3, "'tiles': expected lengths from 0"),
        ([], 3, "'tiles': expected it beside 'pixel_values'"),
        ([20_000, *[0] * 20_000], 20_000, "'tiles': expected lengths whose pieces have at most 4294967295 elements"),
    ],
    ids=["sum", "negative", "missing", "vast"],
)
def test_fault_134_lengths_that_lie_are_refused(lengths: list[int], tiles: int, message: str) -> None:
    """Before any memory is taken for them: a few lengths could ask for any amount."""
    with pytest.raises(FrameError, match=message):
        _checked(lengths, tiles)
