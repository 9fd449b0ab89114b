"""A batch keeps its meta through all that frameworks do to it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.data import default_convert

from owl_client import Batch, BatchMeta
from owl_client.batch import Raw
from owl_stream.errors import RequestError
from owl_stream.wire import RowInfo
from tests.client.world import PIXELS

META = BatchMeta(1, 2, 0, 0, 1, (RowInfo("a.tar", "0", "ok", "", None),), 3, 2, 8, 4, 1, {"epoch": 1})


def raw_batch() -> Batch:
    """A batch as a worker yields it for a device that is not the CPU."""
    tensors = {"input_ids": torch.ones(1, 3), "media_offset": [torch.zeros(2)]}
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    return Batch({**tensors, "pixel_values": pixels}, META, Raw(torch.float32, {"pixel_values": PIXELS}))


@pytest.mark.parametrize(
    "through",
    [lambda b: pickle.loads(pickle.dumps(b)), copy.copy, copy.deepcopy, default_convert],
    ids=["pickle", "copy", "deepcopy", "default_convert"],
)
def test_meta_and_what_is_still_to_do_survive(through: object) -> None:
    """Pickling, copying and a DataLoader's conversion keep meta, and `to` still finishes."""
    batch = through(raw_batch())  # type: ignore[operator]
    assert batch.meta == META
    assert batch.to("cpu")["pixel_values"].unique().tolist() == [1.0]


def test_to_moves_lists_too() -> None:
    """The ragged offsets of owl3-241101 go to the device with the rest."""
    moved = raw_batch().to("meta")
    assert moved["media_offset"][0].device.type == moved["input_ids"].device.type == "meta"
    assert moved["pixel_values"].dtype == torch.float32
    assert moved.meta is META


def test_a_batch_goes_into_a_model_by_keyword() -> None:
    """`model(**batch)` sees the tensors and nothing else."""

    def model(**tensors: object) -> list[str]:
        return sorted(tensors)

    assert model(**raw_batch()) == ["input_ids", "media_offset", "pixel_values"]


def test_a_batch_that_was_rebuilt_says_that_its_meta_is_gone() -> None:
    """`type(batch)(mapping)`, as some trainers do, is allowed; asking it for meta is an error with a reason."""
    rebuilt = Batch({"input_ids": torch.ones(1)})
    with pytest.raises(RequestError, match="has no meta"):
        _ = rebuilt.meta
