"""The contract of `media_offset`: right batches pass, and each wrong one is named by row, position, expected, got."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import MediaOffsetError
from owl_stream.layouts import EncodedRow, OffsetReport, check_media_offset
from owl_stream.layouts.owl3.offsets import NO_IMAGE, _counts_hold, _name_wrong_count
from tests.layouts.batches import collated, row
from tests.layouts.characters import make, owl3

NONE = -1_000_000


@st.composite
def batches(draw: st.DrawFn) -> list[EncodedRow]:
    """Rows of any length with crops that at least one token sees."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 12))
        starts = draw(st.sets(st.integers(0, length - 2))) if length > 1 else set()
        rows.append(row(length, *sorted(starts)))
    return rows


def _good() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows of 5, 2 and 3 tokens with 2, 0 and 1 crops: offsets and mask."""
    out = collated(make("owl3-240728"), [row(5, 1, 3), row(2), row(3, 0)])
    return out["media_offset"], out["attention_mask"]


def _refused(layout: str, offset: Any, crops: int = 3, **more: Any) -> MediaOffsetError:
    with pytest.raises(MediaOffsetError) as caught:
        check_media_offset(offset, layout=layout, crops=crops, **more)
    return caught.value


@given(batches(), st.sampled_from(["owl3-240728", "owl3-241101"]))
def test_what_collation_makes_passes(rows: list[EncodedRow], name: str) -> None:
    """The check accepts every batch that a layout makes, and counts it rightly."""
    crops = [r.image_units for r in rows]
    with_images = sum(1 for n in crops if n)
    report = owl3(name).check_offsets(collated(make(name), rows), sum(crops))
    assert report == OffsetReport(with_images, len(rows) - with_images, sum(crops), with_images)


def test_the_three_wrong_paddings_are_refused() -> None:
    """Zeros, -100 and unshifted repeats break or silently misread the released model; the check names the cell."""
    first, third = row(5, 1, 3), row(3, 0)
    out = collated(make("owl3-240728"), [first, third])["media_offset"]
    zeros, minus, unshifted = out.copy(), out.copy(), out.copy()
    zeros[1, 3:, 1], minus[1, 3:, 1] = 0, -100
    unshifted[1] -= 2
    error = _refused("owl3-240728", zeros)
    assert (error.row, error.position, error.got) == (1, 3, "0")
    error = _refused("owl3-240728", minus)
    assert (error.row, error.position, error.got) == (1, 3, "-100")
    error = _refused("owl3-240728", unshifted)
    assert (error.row, error.position, error.got) == (1, 0, "0")
    assert "crops in earlier rows" in error.expected
    assert "(2)" in error.expected


@pytest.mark.parametrize(
    ("cell", "value", "place", "expected"),
    [
        ((0, 4, 1), 3, (0, 4), "the value before it, or that plus 1"),
        ((0, 4, 1), 0, (0, 4), "the value before it, or that plus 1"),
        ((1, 4, 1), -100, (1, 4), "-1000000 all along a row without images"),
        ((1, 4, 1), 0, (1, 4), "a row all >= 0 or all negative"),
        ((2, 1, 0), 0, (2, 1), "crops in earlier rows in [..., 0] (2)"),
        ((0, slice(None), 1), 0, (1, 0), "crops in earlier rows in [..., 0] (0)"),
        ((0, slice(None), 1), [0, 0, 1, 1, 1], (1, 0), "crops in earlier rows in [..., 0] (1)"),
        ((2, slice(None), 1), 2, (2, 4), "at least one crop seen (3)"),
        ((2, slice(None), 1), [3, 3, 3, 3, 4], (2, 0), "crops in earlier rows (2)"),
        ((2, slice(None), 1), [2, 3, 3, 3, 4], (-1, -1), "the batch's 3 crops"),
        ((1, slice(None), 1), 2, (1, 4), "at least one crop seen (3)"),
    ],
)
def test_a_wrong_cell_of_240728_is_named(cell: Any, value: Any, place: tuple[int, int], expected: str) -> None:
    """Each clause of the contract has a batch that breaks it and no other."""
    offset, _ = _good()
    check_media_offset(offset, layout="owl3-240728", crops=3)
    offset[cell] = value
    error = _refused("owl3-240728", offset)
    assert (error.row, error.position) == place
    assert expected in error.expected


def test_with_a_mask_padding_must_repeat_the_last_value() -> None:
    """A crop that only padding sees is invisible to the loss, and never what was meant."""
    offset, mask = _good()
    check_media_offset(offset, layout="owl3-240728", crops=3, attention_mask=mask)
    offset[2, :, 1] = [2, 2, 2, 2, 3]
    check_media_offset(offset, layout="owl3-240728", crops=3)
    error = _refused("owl3-240728", offset, attention_mask=mask)
    assert (error.row, error.position, error.got) == (2, 4, "3")
    assert "padding to repeat" in error.expected


@pytest.mark.parametrize("mask", [[[1, 1, 0, 1, 1]] * 3, [[0, 0, 0, 0, 0]] * 3, [[1] * 5] * 2, [[1] * 4] * 3])
def test_a_mask_is_right_padded_and_of_the_same_shape(mask: list[list[int]]) -> None:
    """Left padding, an unattended row or another shape is not what these offsets stand for."""
    error = _refused("owl3-240728", _good()[0], attention_mask=np.array(mask))
    assert "attention_mask" in error.expected


@pytest.mark.parametrize(
    ("offset", "got"),
    [
        (np.zeros((2, 3, 2), dtype=np.int32), "int32 [2, 3, 2]"),
        (np.zeros((2, 3), dtype=np.int64), "shape [2, 3]"),
        (np.zeros((0, 3, 2), dtype=np.int64), "shape [0, 3, 2]"),
        (np.zeros((2, 3, 3), dtype=np.int64), "shape [2, 3, 3]"),
    ],
)
def test_240728_has_a_type_and_a_shape(offset: Any, got: str) -> None:
    """int64 [B, L, 2] and nothing else; the error is the tensor's, not a cell's."""
    error = _refused("owl3-240728", offset, crops=0)
    assert (error.row, error.position, error.got) == (-1, -1, got)


def test_241101_is_flat_with_lengths_or_one_array_per_row() -> None:
    """Both forms give the same report: the wire has the one, the trainer the other."""
    flat, lengths = np.array([1, 3, 0]), np.array([2, 0, 1])
    rows = [np.array([1, 3]), np.array([], dtype=np.int64), np.array([0])]
    expected = OffsetReport(rows_with_images=2, text_only_rows=1, crops=3, query_rows=2)
    assert check_media_offset(flat, layout="owl3-241101", crops=3, lengths=lengths) == expected
    assert check_media_offset(rows, layout="owl3-241101", crops=3) == expected


@pytest.mark.parametrize(
    ("flat", "lengths", "place", "expected"),
    [
        ([1, 1, 0], [2, 0, 1], (0, 1), "a position behind the one before it"),
        ([1, 3, -1], [2, 0, 1], (2, 0), "a position >= 0"),
        ([1, 3, 3], [2, 0, 1], (2, 0), "within the row's attended tokens"),
        ([1, 3, 0], [2, 0, 2], (-1, -1), "lengths that sum to the 3 entries"),
        ([1, 3, 0], [2, -1, 2], (1, -1), "a length >= 0"),
        ([1, 3], [2, 0, 0], (-1, -1), "the batch's 3 crops"),
        ([1, 3, 0], [2, 1], (-1, -1), "an attention_mask of 2 rows"),
        ([1, 3, 0], [], (-1, -1), "an entry for each of B >= 1 rows"),
    ],
)
def test_a_wrong_entry_of_241101_is_named(
    flat: list[int], lengths: list[int], place: tuple[int, int], expected: str
) -> None:
    """Each clause of the contract has a batch that breaks it; a missing row shows against the mask."""
    mask = np.array([[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    as_int64 = (np.array(flat, dtype=np.int64), np.array(lengths, dtype=np.int64))
    error = _refused("owl3-241101", as_int64[0], lengths=as_int64[1], attention_mask=mask)
    assert (error.row, error.position) == place
    assert expected in error.expected


def test_a_tensor_of_torch_is_accepted() -> None:
    """A trainer may check what it received: CPU tensors go in as they are."""
    torch = pytest.importorskip("torch")
    offset, mask = (torch.from_numpy(array) for array in _good())
    assert check_media_offset(offset, layout="owl3-240728", crops=3, attention_mask=mask).crops == 3
    rows = [torch.tensor([1, 3]), torch.tensor([], dtype=torch.int64)]
    assert check_media_offset(rows, layout="owl3-241101", crops=2).text_only_rows == 1


def test_the_check_needs_no_image_at_all() -> None:
    """A text-only batch is -1000000 throughout in [..., 1] and 0 in [..., 0]."""
    offset = np.zeros((2, 3, 2), dtype=np.int64)
    offset[:, :, 1] = NONE
    assert check_media_offset(offset, layout="owl3-240728", crops=0) == OffsetReport(0, 2, 0, 0)


@given(st.data())
def test_the_quick_test_and_the_naming_one_agree(data: st.DataObject) -> None:
    """On tensors that hold and on ones with any few cells changed: what one refuses the other names."""
    rows, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    offset = np.zeros((rows, length, 2), np.int64)
    mask = np.zeros((rows, length), np.int64)
    first = 0
    for b in range(rows):
        attended = data.draw(st.integers(1, length))
        grows = np.array(
            data.draw(st.lists(st.booleans(), min_size=attended - 1, max_size=attended - 1)), dtype=np.int64
        )
        counts = np.concatenate([[0], np.cumsum(grows)])
        mask[b, :attended] = 1
        offset[b, :, 0] = first
        offset[b, :attended, 1] = first + counts
        offset[b, attended:, 1] = first + counts[-1]
        if not counts[-1]:
            offset[b, :, 1] = NO_IMAGE
        first += int(counts[-1])
    values = st.sampled_from([-1, 0, 1, 2, NO_IMAGE, 2**63 - 1, -(2**63)])
    for _ in range(data.draw(st.integers(0, 2))):
        cell = tuple(data.draw(st.integers(0, n - 1)) for n in offset.shape)
        offset[cell] = data.draw(values)
    crops = first + data.draw(st.sampled_from([0, 0, 0, 1]))
    given_mask = data.draw(st.sampled_from([None, mask]))
    seen = offset[:, :, 1]
    arguments = (offset[:, :, 0], seen, seen[:, 0] >= 0)
    counts = np.where(arguments[2], seen[:, -1] - seen[:, 0], 0)
    holds = _counts_hold(*arguments, counts, crops, given_mask)
    with pytest.raises(AssertionError if holds else MediaOffsetError):
        _name_wrong_count(*arguments, crops, given_mask)
