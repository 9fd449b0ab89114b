"""Rows -> text tensors."""

from __future__ import annotations

import numpy as np
import pytest

from owl_stream.errors import ConfigError
from owl_stream.layouts import Image, TensorShape, get_layout
from tests.layouts.batches import RUBBISH, collated, row
from tests.layouts.characters import Characters, recipe, talk

LAYOUTS = ("owl3-240728", "owl3-241101")


def test_tensors_are_known_before_anything_is_encoded() -> None:
    """Names, dtypes and shapes follow from row lengths and crop counts alone."""
    text = [TensorShape(name, "int64", (3, 9)) for name in ("input_ids", "labels", "attention_mask")]
    assert get_layout("owl3-240728").tensors([4, 9, 1], [2, 0, 0]) == (
        *text,
        TensorShape("media_offset", "int64", (3, 9, 2)),
    )
    assert get_layout("owl3-241101").tensors([4, 9, 1], [2, 0, 3]) == (
        *text,
        TensorShape("media_offset", "int64", (5,)),
        TensorShape("media_offset_lengths", "int64", (3,)),
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_element_is_written(name: str) -> None:
    """Shared memory holds the last batch's rubbish: none of it is left."""
    rows = [row(6, 2), get_layout(name).filler(Characters()), row(9), row(4, 0, 1)]
    assert all((tensor != RUBBISH).all() for tensor in collated(get_layout(name), rows).values())


def test_240728_shifts_and_repeats() -> None:
    """Counts are shifted by the crops of earlier rows, strictly before the token; padding repeats the last value."""
    out = collated(get_layout("owl3-240728"), [row(5, 1, 3), row(2), row(3, 0)])
    none = -1_000_000
    assert out["media_offset"][:, :, 0].tolist() == [[0] * 5, [2] * 5, [2] * 5]
    assert out["media_offset"][:, :, 1].tolist() == [[0, 0, 1, 1, 2], [none] * 5, [2, 3, 3, 3, 3]]
    assert out["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert out["input_ids"][1].tolist() == [0, 1, 151643, 151643, 151643]
    assert out["labels"][1].tolist() == [-100, 1, -100, -100, -100]


def test_241101_keeps_positions_of_each_row() -> None:
    """Starts are the row's own, in one flat tensor, with as many lengths as rows."""
    out = collated(get_layout("owl3-241101"), [row(5, 1, 3), row(2), row(3, 0)])
    assert out["media_offset"].tolist() == [1, 3, 0]
    assert out["media_offset_lengths"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_filler_is_one_attended_pad_token(name: str) -> None:
    """It has no crop and nothing to learn, and a batch of nothing else still holds the contract."""
    layout = get_layout(name)
    filler = layout.filler(Characters(pad_id=7))
    assert (filler.input_ids.tolist(), filler.labels.tolist(), filler.views) == ([7], [-100], ())
    out = collated(layout, [filler, filler])
    assert out["attention_mask"].tolist() == [[1], [1]]
    assert layout.check(out, 0).text_only_rows == 2


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_masked_row_keeps_everything_but_its_labels(name: str) -> None:
    """Neighbours see no difference: ids, offsets and shape stay."""
    layout = get_layout(name)
    good = layout.encode(talk("<|image|>Q", "A"), [Image(40, 30)], Characters(), recipe(layout=name))
    before, after = collated(layout, [good, row(3, 0)]), collated(layout, [good.masked(), row(3, 0)])
    assert good.masked().supervised_tokens == 0
    assert good.masked().views == good.views
    assert (after["labels"][0] == -100).all()
    assert all(np.array_equal(before[key], after[key]) for key in before if key != "labels")
    assert np.array_equal(before["labels"][1], after["labels"][1])


def test_an_unknown_layout_is_a_configuration_error() -> None:
    """The message names the layouts that there are."""
    with pytest.raises(ConfigError, match="expected owl3-240728 or owl3-241101, got 'owl4'"):
        get_layout("owl4")
