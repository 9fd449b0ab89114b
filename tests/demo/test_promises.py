"""The demo's verdict: it holds for a run that kept every promise, and names each promise that a run broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from owl_stream.demo.dataset import CORRUPT_KEY, Place
from owl_stream.demo.ledger import Ledger, Skipped
from owl_stream.demo.promises import Run, judge
from owl_stream.wire import RowInfo

PLACES = [
    Place("demo-0.tar", "cat", "cat.json", 512),
    Place("demo-0.tar", "cat", "cat.jpg", 1536),
    Place("demo-1.tar", CORRUPT_KEY, f"{CORRUPT_KEY}.json", 512),
    Place("demo-1.tar", CORRUPT_KEY, f"{CORRUPT_KEY}.jpg", 2560),
]
REASON = f"shard demo-1.tar, sample {CORRUPT_KEY}, member {CORRUPT_KEY}.jpg @ 2560: JPEG ends early"
CAT = RowInfo("demo-0.tar", "cat", "ok", "", None)
MASKED = RowInfo("demo-1.tar", CORRUPT_KEY, "masked", REASON, None)
FILLER = RowInfo("", "", "filler", "", None)
FALLING = [6.0] * 5 + [2.0] * 5


@dataclass(frozen=True)
class Meta:
    """Where a batch belongs and what its rows are."""

    epoch: int
    step: int
    micro: int
    rows: Sequence[RowInfo]


def batch(rows: int, fill: int = 0) -> dict[str, Any]:
    """Ids of `fill`; row b attends to b + 1 of 4 tokens."""
    mask = (np.arange(4) <= np.arange(rows)[:, None]).astype(np.int64)
    return {"input_ids": np.full((rows, 4), fill), "attention_mask": mask}


def ledger(*rows: RowInfo, fill: int = 0, micro: int = 0) -> Ledger:
    """One epoch of one batch."""
    book = Ledger()
    book.write(batch(len(rows), fill), Meta(0, 0, micro, rows))
    return book


def broken(trained: Ledger, undisturbed: Ledger, losses: Sequence[float] = FALLING, reconnects: int = 1) -> list[int]:
    """The numbers of the promises that did not hold."""
    promises = judge(PLACES, 1, Run(undisturbed, 1.0), Run(trained, 1.0, reconnects, losses))
    return [number for number, promise in enumerate(promises) if not promise.held]


def test_a_run_that_kept_every_promise_passes() -> None:
    """Every sample once, the corrupt one skipped and named, the same order, a falling loss."""
    assert broken(ledger(CAT, MASKED, FILLER), ledger(CAT, MASKED, FILLER)) == []


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (ledger(CAT, CAT, MASKED), [0]),
        (ledger(MASKED), [0]),
        (ledger(CAT), [0, 3]),
        (ledger(RowInfo("demo-0.tar", "cat", "masked", "broken", None), MASKED), [3]),
        (ledger(CAT, RowInfo("demo-1.tar", CORRUPT_KEY, "masked", "no place", None)), [3]),
    ],
    ids=["one sample twice", "one sample lost", "the corrupt one lost", "a good one skipped", "skipped without place"],
)
def test_a_broken_promise_is_noticed(trained: Ledger, expected: list[int]) -> None:
    """Each fault breaks the promise that it is about, even where both runs agree."""
    assert broken(trained, trained) == expected


def test_another_order_is_noticed() -> None:
    """Other ids, another place or other rows: each changes the hash."""
    whole = ledger(CAT, MASKED)
    for other in (ledger(CAT, MASKED, fill=1), ledger(CAT, MASKED, micro=1), ledger(MASKED, CAT)):
        assert broken(other, whole) == [2]


def test_a_kill_that_nobody_felt_is_noticed() -> None:
    """A client that had everything already shows nothing about coming back."""
    assert broken(ledger(CAT, MASKED), ledger(CAT, MASKED), reconnects=0) == [1]


def test_a_loss_that_stays_is_noticed() -> None:
    """A model that learned nothing is not a demo."""
    assert broken(ledger(CAT, MASKED), ledger(CAT, MASKED), losses=[6.0] * 10) == [4]


def test_a_row_repeated_in_place_of_a_masked_one_counts_as_skipped() -> None:
    """The masked sample is named by `replaces`, and the repeated one is not delivered twice."""
    repeated = RowInfo("demo-0.tar", "cat", "repeated", REASON, replaces=("demo-1.tar", CORRUPT_KEY))
    book = ledger(CAT, repeated)
    assert book.skipped == {Skipped("demo-1.tar", CORRUPT_KEY, REASON)}
    assert broken(book, book) == []


def test_padding_efficiency_leaves_fillers_out() -> None:
    """Rows of 1 and 2 of 4 tokens are 3/8; the filler's 3 tokens are nobody's padding."""
    assert ledger(CAT, MASKED, FILLER).padding_efficiency == 3 / 8
