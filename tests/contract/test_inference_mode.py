"""Training the release as it was published: its vision tower runs under `torch.inference_mode()` (docs/owl3.md).

Fault 122 of docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from examples.tiny_owl3 import TinyOwl3, VisionStub
from tests.contract.batches import make_batch, make_model, make_pieces
from tests.contract.conftest import Stage

TOWER = {"vision.patches.weight", "vision.patches.bias", "vision.places"}
FORBIDDEN = "Inference tensors cannot be saved for backward"


class GuardedVision(VisionStub):
    """The stub with its tower in a context, as the release's is in `torch.inference_mode()`; the projection is not."""

    guard: Callable[[], AbstractContextManager[Any]] = torch.inference_mode

    def tower(self, crops: Tensor) -> Tensor:
        """As that of the stub."""
        with self.guard():
            return super().tower(crops)


class NoGradVision(GuardedVision):
    """What the documentation tells to put there instead."""

    guard = torch.no_grad


def twin(stage: Stage, vision: type[VisionStub] = GuardedVision) -> TinyOwl3:
    """Tiny Owl of the same weights with another vision stub."""
    model = make_model(stage.layout, stage.tokenizer.inner.get_vocab_size())
    stub = vision(model.vision.places.shape[-1])
    stub.load_state_dict(model.vision.state_dict())
    model.vision = stub
    return model


def crops(stage: Stage, *kinds: str) -> dict[str, Any]:
    """A batch of these rows, their images uncut: as many crops as images."""
    pieces = make_pieces(stage.layout, stage.tokenizer, cut="off")
    return make_batch(stage.layout, [pieces[kind] for kind in kinds], stage.tokenizer.pad_id)


def without_gradient(model: TinyOwl3) -> set[str]:
    """The names of the parameters that a backward pass left without a gradient."""
    return {name for name, weight in model.named_parameters() if weight.grad is None}


@pytest.mark.parametrize("kinds", [("single",), ("single", "text"), ("long text", "single")])
def test_a_batch_of_exactly_one_crop_raises(stage: Stage, kinds: tuple[str, ...]) -> None:
    """The tower's output is a view that the projection saves as it is, and autograd refuses it."""
    batch = crops(stage, *kinds)
    assert len(batch["pixel_values"]) == 1
    with pytest.raises(RuntimeError, match=FORBIDDEN):
        twin(stage)(**batch).loss.backward()


@pytest.mark.parametrize("kinds", [("single", "single"), ("video",), ("multi", "text"), ("single", "multi", "masked")])
def test_more_crops_train_and_the_tower_silently_gets_no_gradient(stage: Stage, kinds: tuple[str, ...]) -> None:
    """The projection copies what it is given, so nothing is refused; all behind the tower is trained, it is not."""
    model, batch = twin(stage), crops(stage, *kinds)
    assert len(batch["pixel_values"]) > 1
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert without_gradient(model) == TOWER
    unchanged = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert unchanged == TOWER


def test_it_says_what_a_model_without_inference_mode_says(stage: Stage) -> None:
    """Nothing in the logits or the loss gives it away."""
    batch = crops(stage, "single", "multi", "text")
    got, expected = twin(stage)(**batch), twin(stage, VisionStub)(**batch)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.loss, expected.loss)


@pytest.mark.parametrize("kinds", [("single",), ("single", "multi")])
def test_no_grad_trains_all_but_the_tower(stage: Stage, kinds: tuple[str, ...]) -> None:
    """With `torch.no_grad()` in its place one crop trains as well, and with neither the tower learns too."""
    for vision, untrained in ((NoGradVision, TOWER), (VisionStub, set())):
        model = twin(stage, vision)
        model(**crops(stage, *kinds)).loss.backward()
        assert without_gradient(model) == untrained


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_real_tower_behaves_as_the_twins_does(count: int) -> None:
    """transformers' SigLIP, which the release is built on: its hidden states for one crop are refused, for more not."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    tower, project = SiglipVisionModel(config), nn.Linear(32, 16)
    with torch.inference_mode():
        hidden = tower(torch.rand(count, 3, 28, 28), output_hidden_states=True).hidden_states[-2]
    if count == 1:
        with pytest.raises(RuntimeError, match=FORBIDDEN):
            project(hidden).sum().backward()
    else:
        project(hidden).sum().backward()
        assert project.weight.grad is not None
        assert all(weight.grad is None for weight in tower.parameters())
