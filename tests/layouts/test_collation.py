"""Rows -> text tensors."""

from __future__ import annotations

import numpy as np
import pytest

from owl_stream.assemble.payload import lay_out_payload
from owl_stream.errors import ConfigError
from owl_stream.layouts import Chat, Image, get_layout
from owl_stream.shards import RowSize
from tests.layouts.batches import RUBBISH, collated, row
from tests.layouts.characters import Characters, make, recipe, talk

LAYOUTS = ("owl3-240728", "owl3-241101")


def test_tensors_are_known_before_anything_is_encoded() -> None:
    """Names, dtypes and shapes follow from the sizes of rows alone."""
    sizes = [RowSize(4, 1, 2, 1458), RowSize(9, 1), RowSize(1, 0, 3, 2187)]
    names = ("input_ids", "labels", "attention_mask")
    text = [(name, "int64", (3, 9)) for name in names]
    for layout, offsets, side in (
        ("owl3-240728", [("media_offset", "int64", (3, 9, 2))], 384),
        ("owl3-241101", [("media_offset", "int64", (5,)), ("media_offset_lengths", "int64", (3,))], 378),
    ):
        specs, _ = lay_out_payload(make(layout), sizes)
        pixels = ("pixel_values", "uint8", (5, 3, side, side))
        assert [(spec.name, spec.dtype, spec.shape) for spec in specs] == [*text, *offsets, pixels]
        without, _ = lay_out_payload(make(layout), [RowSize(9, 1)] * 3)
        assert [spec.name for spec in without] == [*names, *(name for name, _, _ in offsets)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_element_is_written(name: str) -> None:
    """Shared memory holds the last batch's rubbish: none of it is left."""
    rows = [row(6, 2), make(name).filler(Characters()), row(9), row(4, 0, 1)]
    assert all((tensor != RUBBISH).all() for tensor in collated(make(name), rows).values())


def test_240728_shifts_and_repeats() -> None:
    """Counts are shifted by the crops of earlier rows, strictly before the token; padding repeats the last value."""
    out = collated(make("owl3-240728"), [row(5, 1, 3), row(2), row(3, 0)])
    none = -1_000_000
    assert out["media_offset"][:, :, 0].tolist() == [[0] * 5, [2] * 5, [2] * 5]
    assert out["media_offset"][:, :, 1].tolist() == [[0, 0, 1, 1, 2], [none] * 5, [2, 3, 3, 3, 3]]
    assert out["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert out["input_ids"][1].tolist() == [0, 1, 151643, 151643, 151643]
    assert out["labels"][1].tolist() == [-100, 1, -100, -100, -100]


def test_241101_keeps_positions_of_each_row() -> None:
    """Starts are the row's own, in one flat tensor, with as many lengths as rows."""
    out = collated(make("owl3-241101"), [row(5, 1, 3), row(2), row(3, 0)])
    assert out["media_offset"].tolist() == [1, 3, 0]
    assert out["media_offset_lengths"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_filler_is_one_attended_pad_token(name: str) -> None:
    """It has no crop and nothing to learn, and a batch of nothing else still holds the contract."""
    layout = make(name)
    filler = layout.filler(Characters(pad_id=7))
    assert (filler.input_ids.tolist(), filler.labels.tolist(), filler.visuals) == ([7], [-100], ())
    out = collated(layout, [filler, filler])
    assert out["attention_mask"].tolist() == [[1], [1]]
    assert layout.check(out).text_only_rows == 2


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_masked_row_keeps_everything_but_its_labels(name: str) -> None:
    """Neighbours see no difference: ids, offsets and shape stay."""
    layout = make(name)
    good = layout.encode(Chat(talk("<|image|>Q", "A")), [Image(40, 30)], Characters(), recipe(layout=name))
    before, after = collated(layout, [good, row(3, 0)]), collated(layout, [good.masked(), row(3, 0)])
    assert good.masked().size.supervised_tokens == 0
    assert good.masked().visuals == good.visuals
    assert (after["labels"][0] == -100).all()
    assert all(np.array_equal(before[key], after[key]) for key in before if key != "labels")
    assert np.array_equal(before["labels"][1], after["labels"][1])


def test_an_unknown_layout_is_a_configuration_error() -> None:
    """The message names the layouts that there are."""
    with pytest.raises(ConfigError, match=r"expected owl3-240728, .*, or MODULE:CLASS, got 'owl4'"):
        get_layout("owl4")
