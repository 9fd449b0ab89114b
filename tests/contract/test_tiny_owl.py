"""Tiny Owl learns: its loss falls on a mixed batch, and what it learns comes through its eyes too."""

from __future__ import annotations

import torch

from tests.contract.batches import make_model
from tests.contract.conftest import Stage

KINDS = ("text", "single", "multi", "video")


def test_gradients_reach_every_weight_of_the_vision_path(stage: Stage) -> None:
    """The vision stub, the visual projections and the gate are trained, and so is all else."""
    model = make_model(stage.layout, stage.tokenizer.inner.get_vocab_size())
    model(**stage.batch(*KINDS)).loss.backward()
    untouched = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not untouched


def test_gradients_of_a_text_step_leave_the_vision_path_alone(stage: Stage) -> None:
    """A step without images gives vision weights no gradient: what ranks must agree on (`modality: pure`)."""
    model = make_model(stage.layout, stage.tokenizer.inner.get_vocab_size())
    model(**stage.batch("text", "long text")).loss.backward()
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert untouched == {
        name for name, _ in model.named_parameters() if name.startswith("vision") or "visual" in name or "gate" in name
    }


def test_it_learns_one_mixed_batch_by_heart(stage: Stage) -> None:
    """Thirty steps on one batch bring the loss down to a small part of what it was."""
    model = make_model(stage.layout, stage.tokenizer.inner.get_vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, losses = stage.batch(*KINDS), []
    for _ in range(30):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
