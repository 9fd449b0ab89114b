"""One model per layout, its rows, and what it says of each of them alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from examples.tiny_owl3 import TinyOwl3
from tests.contract.batches import (
    LAYOUTS,
    Answer,
    Piece,
    SmallTokenizer,
    answers,
    make_batch,
    make_model,
    make_pieces,
)


@dataclass(frozen=True)
class Stage:
    """A layout's model and rows; `alone` holds what the model says of each row as a batch of one."""

    layout: str
    tokenizer: SmallTokenizer
    model: TinyOwl3
    pieces: dict[str, Piece]
    alone: dict[str, Answer]

    def batch(self, *kinds: str) -> dict[str, Any]:
        """The padded batch of these rows, in this order."""
        return make_batch(self.layout, [self.pieces[kind] for kind in kinds], self.tokenizer.pad_id)

    def answers(self, batch: dict[str, Any], *kinds: str) -> list[Answer]:
        """What the model says of a batch of these rows."""
        return answers(self.model, batch, [self.pieces[kind] for kind in kinds])


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """A stage for every layout."""
    tokenizer = SmallTokenizer(tmp_path_factory.mktemp("tokenizer"))
    vocab_size = tokenizer.inner.get_vocab_size()
    return {layout: _stage(layout, tokenizer, make_model(layout, vocab_size)) for layout in LAYOUTS}


def _stage(layout: str, tokenizer: SmallTokenizer, model: TinyOwl3) -> Stage:
    pieces = make_pieces(layout, tokenizer)
    alone = {
        kind: answers(model, make_batch(layout, [piece], tokenizer.pad_id), [piece])[0]
        for kind, piece in pieces.items()
    }
    return Stage(layout, tokenizer, model, pieces, alone)


@pytest.fixture(params=LAYOUTS)
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    """Each layout in turn."""
    return stages[request.param]


@pytest.fixture
def stage_240728(stages: dict[str, Stage]) -> Stage:
    """The layout whose offsets count crops."""
    return stages["owl3-240728"]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small matrices are quicker on one thread, and the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
