"""A batch of N says of every row what N batches of one say: in every order, for both layouts."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from tests.contract.batches import answers, check_same, make_batch, make_pieces
from tests.contract.conftest import Stage

ORDERS = list(permutations(("text", "long text", "single", "multi")))


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_a_mixed_batch_equals_its_rows_alone(stage: Stage, order: tuple[str, ...]) -> None:
    """Logits within 1e-5 and equal sums of token losses, whatever stands before, behind and beside a row."""
    batch = stage.batch(*order)
    assert (batch["attention_mask"] == 0).any(dim=1).sum() == len(order) - 1
    check_same(stage.answers(batch, *order), [stage.alone[kind] for kind in order])


@pytest.mark.parametrize(
    "order",
    [
        ("filler", "multi", "masked", "video", "filler", "single"),
        ("video", "masked", "filler", "single", "multi"),
        ("multi", "multi", "single", "single"),
        ("text", "long text", "filler"),
    ],
    ids=", ".join,
)
def test_fillers_masked_rows_videos_and_twins_change_nothing(stage: Stage, order: tuple[str, ...]) -> None:
    """The rows that only a server adds are as invisible to their neighbours as any other."""
    check_same(stage.answers(stage.batch(*order), *order), [stage.alone[kind] for kind in order])


@pytest.mark.parametrize("cut", ["single", "all"])
def test_rows_as_ms_swift_spells_them_hold_the_contract_too(stage: Stage, cut: str) -> None:
    """`chat: swift` changes text, labels and crops, and not what a batch is: every row equals itself alone."""
    kinds = ("text", "multi", "masked", "video", "single", "long text", "filler")
    pieces = make_pieces(stage.layout, stage.tokenizer, "swift", cut)
    pad_id = stage.tokenizer.pad_id
    alone = [answers(stage.model, make_batch(stage.layout, [pieces[k]], pad_id), [pieces[k]])[0] for k in kinds]
    rows = [pieces[kind] for kind in kinds]
    check_same(answers(stage.model, make_batch(stage.layout, rows, pad_id), rows), alone)


def test_rows_without_images_need_no_pixels(stage: Stage) -> None:
    """A text-only batch has no `pixel_values`, and the model takes it as it is."""
    assert "pixel_values" not in stage.batch("text", "long text")


def test_pixels_reach_only_the_rows_they_belong_to(stage: Stage) -> None:
    """New pixels for one row change that row and leave every other bit for bit as it was."""
    kinds = ("text", "single", "multi")
    batch = stage.batch(*kinds)
    before = stage.answers(batch, *kinds)
    batch["pixel_values"][: stage.pieces["single"].row.image_units] = 1.0
    after = stage.answers(batch, *kinds)
    same = [torch.equal(a.logits, b.logits) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True]


def test_a_crop_is_seen_from_its_place_on(stage: Stage) -> None:
    """240728 shows a crop to the tokens behind its first piece, 241101 to the first piece as well; neither earlier."""
    batch = stage.batch("single", "multi")
    before = stage.model(**batch).logits
    second = stage.pieces["single"].row.image_units + 1
    batch["pixel_values"][second] = 1.0
    changed = (stage.model(**batch).logits != before).any(dim=-1)
    assert not changed[0].any()
    start = int(stage.pieces["multi"].row.unit_starts[1])
    assert int(changed[1].nonzero()[0]) == start + (stage.layout == "owl3-240728")


def test_the_loss_is_the_mean_over_supervised_tokens(stage: Stage) -> None:
    """`loss` times the supervised tokens is the sum over rows that a trainer weighs micro-batches by."""
    kinds = ("single", "masked", "long text")
    batch = stage.batch(*kinds)
    supervised = sum(stage.pieces[kind].row.size.supervised_tokens for kind in kinds)
    total = sum(stage.alone[kind].loss_sum for kind in kinds)
    assert float(stage.model(**batch).loss.detach()) * supervised == pytest.approx(total, rel=1e-5)
