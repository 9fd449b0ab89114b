"""The paddings that people tried before: each fails as the released 240728 model fails (docs/owl3.md).

Fault 123 of docs/faults.md.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from examples.tiny_owl3 import select_query
from tests.contract.batches import check_same
from tests.contract.conftest import Stage

KINDS = ("multi", "single", "text")


def padded_with(stage: Stage, value: int) -> dict[str, Any]:
    """A batch in which the padding of image rows holds `value` in place of the row's last offset."""
    batch = stage.batch(*KINDS)
    batch["media_offset"][:2][batch["attention_mask"][:2] == 0] = value
    return batch


def test_both_image_rows_would_be_right_without_the_fault(stage_240728: Stage) -> None:
    """The rows that the other tests break pass the check as the layout made them."""
    batch = stage_240728.batch(*KINDS)
    check_same(stage_240728.answers(batch, *KINDS), [stage_240728.alone[kind] for kind in KINDS])


def test_padding_with_zeros_raises_in_the_vision_mask(stage_240728: Stage) -> None:
    """An offset that falls back to 0 takes away crops that the row has already been given."""
    with pytest.raises(RuntimeError, match="repeats"):
        stage_240728.model(**padded_with(stage_240728, 0))


def test_padding_text_only_rows_with_zeros_raises_in_select_query(stage_240728: Stage) -> None:
    """Zeros are counts: a row without images that ends in them is partly one with images."""
    batch = stage_240728.batch(*KINDS)
    batch["media_offset"][2][batch["attention_mask"][2] == 0] = 0
    with pytest.raises(AssertionError, match="cells see images"):
        stage_240728.model(**batch)


@pytest.mark.parametrize("kinds", [("multi", "text"), ("text", "multi"), ("video", "single", "text", "long text")])
def test_padding_all_rows_with_zeros_raises_one_or_the_other(stage_240728: Stage, kinds: tuple[str, ...]) -> None:
    """Which of the two comes first depends on the rows; none of them gets through."""
    batch = stage_240728.batch(*kinds)
    batch["media_offset"][batch["attention_mask"] == 0] = 0
    with pytest.raises((RuntimeError, AssertionError)):
        stage_240728.model(**batch)


def test_padding_with_minus_100_raises_in_select_query(stage_240728: Stage) -> None:
    """A row that is partly negative is no run of L queries."""
    with pytest.raises(AssertionError, match="cells see images"):
        stage_240728.model(**padded_with(stage_240728, -100))


def test_rows_that_are_not_shifted_silently_read_other_rows_crops(stage_240728: Stage) -> None:
    """The model runs, the first row is right, and the second is wrong by far more than rounding."""
    batch = stage_240728.batch(*KINDS)
    batch["media_offset"][1] -= stage_240728.pieces["multi"].row.image_units
    got = stage_240728.answers(batch, *KINDS)
    alone = [stage_240728.alone[kind] for kind in KINDS]
    check_same([got[0], got[2]], [alone[0], alone[2]])
    assert (got[1].logits - alone[1].logits).abs().max() > 1e-3
    with pytest.raises(AssertionError, match="logits differ"):
        check_same(got, alone)


def test_a_missing_crop_raises_in_cross_attention(stage_240728: Stage) -> None:
    """Offsets that name more crops than the batch has pixels for do not go unnoticed."""
    batch = stage_240728.batch(*KINDS)
    batch["pixel_values"] = batch["pixel_values"][:-1]
    with pytest.raises(RuntimeError, match="size"):
        stage_240728.model(**batch)


def test_select_query_names_the_rows_that_see_images() -> None:
    """Rows of nothing but counts are queries, rows of nothing but negatives are not."""
    offsets = torch.zeros(4, 5, 2, dtype=torch.int64)
    offsets[1] = offsets[3] = -1_000_000
    assert list(select_query(offsets)) == [0, 2]


def test_select_query_refuses_a_run_that_crosses_rows() -> None:
    """Two half rows add up to a multiple of L, and are still not one row."""
    offsets = torch.zeros(2, 4, 2, dtype=torch.int64)
    offsets[0, 2:] = offsets[1, :2] = -100
    with pytest.raises(AssertionError, match="crosses from row 0 into row 1"):
        list(select_query(offsets))
