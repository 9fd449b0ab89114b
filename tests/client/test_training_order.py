"""Batches that are trained on in another order than they came in are told of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from owl_client import BatchMeta
from owl_client.training_order import Place, TrainingOrder

STEPS, MICROS = 3, 2
EPOCH = [*product((0,), range(STEPS), range(MICROS))]
NEXT = (1, 0, 0)


def meta_of(place: Place, *, rank: int = 0, fingerprint: str = "f") -> BatchMeta:
    """What a batch at `place` says of itself."""
    epoch, step, micro = ([*EPOCH, NEXT])[EPOCH.index(place) + 1] if place != NEXT else (1, 0, 1)
    state = {"dataset": "train", "fingerprint": fingerprint, "epoch": epoch, "step": step, "micro": micro}
    return BatchMeta(*place, rank, 2, (), 0, 0, 0, 0, 0, MICROS, state)


def warned(places: Sequence[Place], caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said when these are trained on in turn."""
    caplog.clear()
    order = TrainingOrder()
    for place in places:
        order.note(meta_of(place))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("places", [[*EPOCH, NEXT], EPOCH[3:], [place for place in EPOCH for _ in range(2)]])
def test_nothing_is_said_of_batches_in_their_order(places: list[Place], caplog: pytest.LogCaptureFixture) -> None:
    """From the beginning, from a resume, and where each is asked of twice, for a log."""
    assert warned(places, caplog) == []


@pytest.mark.parametrize(
    "places",
    [EPOCH[::2], EPOCH[:3] + EPOCH[4:], [*EPOCH[2:4], *EPOCH[:2]], [*EPOCH, *EPOCH], EPOCH[::-1]],
    ids=["sharded", "dropped", "shuffled", "repeated", "backwards"],
)
def test_another_order_is_told_once(places: list[Place], caplog: pytest.LogCaptureFixture) -> None:
    """With what came, what was expected, and what may do this."""
    (message,) = warned(places, caplog)
    assert "shuffles, drops or repeats batches" in message


def test_the_message_names_both_places(caplog: pytest.LogCaptureFixture) -> None:
    """The batch before, this one, and the one that should have come."""
    (message,) = warned([(0, 0, 0), (0, 2, 1)], caplog)
    assert message.startswith(
        "after epoch 0, step 0, micro-batch 0 comes epoch 0, step 2, micro-batch 1; "
        "expected epoch 0, step 0, micro-batch 1"
    )


def test_a_dataset_that_was_made_or_moved_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Two trainings of one process, and a state that is loaded again; what is wrong afterwards is told again."""
    order = TrainingOrder()
    for place in [*EPOCH, *EPOCH[2:]]:
        if place == EPOCH[2]:
            order.begin()
        order.note(meta_of(place))
    assert not caplog.records
    for _ in range(2):
        order.note(meta_of(EPOCH[0]))
        order.note(meta_of(EPOCH[3]))
        order.begin()
    assert len(caplog.records) == 2


def test_other_data_and_other_ranks_have_an_order_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """One process may train on several."""
    order = TrainingOrder()
    for place in EPOCH:
        for rank, fingerprint in product((0, 1), "fg"):
            order.note(meta_of(place, rank=rank, fingerprint=fingerprint))
    assert not caplog.records
