"""A batch keeps its meta through all that frameworks do to it."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch.utils.data import default_convert

from owl_client import Batch, BatchMeta
from owl_client.batch import _KNOWN_BY_IDS, Raw
from owl_stream.errors import ConfigError, RequestError
from owl_stream.wire import RowInfo
from tests.client.world import PIXELS

META = BatchMeta(
    1, 2, 0, 0, 1, (RowInfo("a.tar", "0", "ok", "", None),), 3, 2, 8, 4, 1, 2, {"epoch": 1, "step": 3, "micro": 0}
)


def raw_batch() -> Batch:
    """A batch as a worker yields it for a device that is not the CPU."""
    tensors = {"input_ids": torch.ones(1, 3), "media_offset": [torch.zeros(2)]}
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    return Batch({**tensors, "pixel_values": pixels}, META, Raw(torch.float32, {"pixel_values": PIXELS}))


@pytest.mark.parametrize(
    "through",
    [lambda b: pickle.loads(pickle.dumps(b)), copy.copy, copy.deepcopy, default_convert],
    ids=["pickle", "copy", "deepcopy", "default_convert"],
)
def test_meta_and_what_is_still_to_do_survive(through: object) -> None:
    """Pickling, copying and a DataLoader's conversion keep meta, and `to` still finishes."""
    batch = through(raw_batch())  # type: ignore[operator]
    assert batch.meta == META
    assert batch.to("cpu")["pixel_values"].unique().tolist() == [1.0]


def test_to_moves_lists_too() -> None:
    """The ragged offsets of owl3-241101 go to the device with the rest."""
    moved = raw_batch().to("meta")
    assert moved["media_offset"][0].device.type == moved["input_ids"].device.type == "meta"
    assert moved["pixel_values"].dtype == torch.float32
    assert moved.meta is META


def test_a_batch_goes_into_a_model_by_keyword() -> None:
    """`model(**batch)` sees the tensors and nothing else."""

    def model(**tensors: object) -> list[str]:
        return sorted(tensors)

    assert model(**raw_batch()) == ["input_ids", "media_offset", "pixel_values"]


def test_a_batch_whose_pixels_a_library_has_cast_is_still_known() -> None:
    """Lightning builds one anew from its items under precision="bf16-true"; `input_ids` is the same tensor then."""
    raw = raw_batch()
    for batch in (raw, raw.to("cpu"), raw, pickle.loads(pickle.dumps(raw)), copy.deepcopy(raw)):
        cast = Batch(OrderedDict((name, value) for name, value in batch.items()))
        assert cast.meta == META
        assert cast.to("cpu")["pixel_values"].unique().tolist() == [1.0]


def test_pieces_that_are_padded_already_are_not_padded_again() -> None:
    """A finished batch that a library has built anew is not taken for the raw one that it was made of."""
    pixels, how = torch.ones(3, 3, 2, 2, dtype=torch.uint8), {"pixel_values": PIXELS}
    raw = Batch(
        {"input_ids": torch.ones(2, 3), "pixel_values": pixels}, META, Raw(torch.float32, how, {"pixel_values": [1, 2]})
    )
    finished = raw.to("cpu")
    assert finished["pixel_values"].shape == (2, 2, 3, 2, 2)
    for batch in (finished, Batch(OrderedDict(finished)), Batch(OrderedDict(raw))):
        assert batch.to("cpu")["pixel_values"].equal(finished["pixel_values"])


def test_a_batch_is_forgotten_with_its_tensors() -> None:
    """Nothing grows, and tensors that somebody saves bring nothing of ours along."""
    gc.collect()  # what tests before have left
    before = len(_KNOWN_BY_IDS)
    batch = raw_batch()
    assert len(_KNOWN_BY_IDS) == before + 1
    saved = io.BytesIO()
    torch.save(batch["input_ids"], saved)
    assert torch.load(io.BytesIO(saved.getvalue()), weights_only=True).equal(batch["input_ids"])
    del batch
    gc.collect()
    assert len(_KNOWN_BY_IDS) == before


class Trainers:
    """What is asked of each."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__ |= attributes


def accelerate(batches: int, *, ends: bool = True) -> Trainers:
    """An Accelerator."""
    return Trainers(gradient_accumulation_steps=batches, sync_gradients=ends, step=1)


def deepspeed(batches: int, *, ends: bool = True) -> Trainers:
    """DeepSpeed's engine."""
    return Trainers(gradient_accumulation_steps=lambda: batches, is_gradient_accumulation_boundary=lambda: ends)


def lightning(
    batches: int, *, automatic: bool = True, twice: bool = False, ends: bool = True, training: bool = True
) -> Trainers:
    """A Trainer of Lightning's."""
    module, strategy = Trainers(automatic_optimization=automatic), Trainers(handles_gradient_accumulation=twice)
    loop = Trainers(epoch_loop=Trainers(_should_accumulate=lambda: not ends))
    stage = {"training": training, "fast_dev_run": False}
    return Trainers(accumulate_grad_batches=batches, lightning_module=module, strategy=strategy, fit_loop=loop, **stage)


@pytest.mark.parametrize(
    ("trainer", "times"),
    [
        (None, 1),
        (accelerate(2), 2),
        (deepspeed(2), 2),
        (lightning(2), 2),
        (lightning(2, twice=True), 4),
        (lightning(1, automatic=False), 1),
        (lightning(2, training=False), 1),
    ],
    ids=[
        "plain",
        "accelerate",
        "deepspeed",
        "lightning",
        "lightning-deepspeed",
        "lightning-manual",
        "lightning-validates",
    ],
)
def test_a_loss_is_weighed_by_tokens_and_by_what_the_trainer_divides_by(trainer: object, times: int) -> None:
    """Two supervised tokens of eight, on one rank. The real trainers are in tests/trainers."""
    assert raw_batch().step_loss(torch.tensor(3.0), trainer).item() == 3.0 * 2 / 8 * times


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (accelerate(8), "expected gradient_accumulation_steps=2.* got 8.*micros_per_step"),
        (accelerate(2, ends=False), r"expected the trainer to step .* about to accumulate.*accelerator\.step = 0"),
        (deepspeed(1), "expected gradient_accumulation_steps=2.* got 1"),
        (deepspeed(2, ends=False), "expected the trainer to step"),
        (lightning(2, ends=False), "expected the trainer to step"),
        (lightning(3), "expected accumulate_grad_batches=2.* got 3"),
        (object(), "expected an Accelerator, a DeepSpeed engine.* got a object; leave it out"),
    ],
)
def test_a_wrong_accumulation_is_refused(trainer: object, message: str) -> None:
    """Steps would be others than the plan's."""
    with pytest.raises(ConfigError, match=message):
        raw_batch().step_loss(torch.tensor(3.0), trainer)


@pytest.mark.parametrize("trainer", [accelerate(2), deepspeed(2), lightning(2)])
def test_an_optimizer_that_would_step_within_a_step_is_refused(trainer: object) -> None:
    """Before it has done so."""
    within = Batch(raw_batch(), dataclasses.replace(META, state={**META.state, "micro": 1}))
    with pytest.raises(ConfigError, match=r"expected the trainer to accumulate .* about to step"):
        within.step_loss(torch.tensor(3.0), trainer)


def test_a_loop_that_steps_where_it_likes_is_left_alone() -> None:
    """Accelerate counts within `accumulate` only."""
    within = Batch(raw_batch(), dataclasses.replace(META, state={**META.state, "micro": 1}))
    unused = Trainers(gradient_accumulation_steps=2, sync_gradients=True, step=0)
    assert within.step_loss(torch.tensor(3.0), unused).item() == 3.0 * 2 / 8 * 2


def test_a_batch_whose_labels_are_others_is_not_taken_for_what_it_was() -> None:
    """Its counts of learned tokens would be wrong."""
    batch = Batch({"input_ids": torch.ones(1, 3), "labels": torch.ones(1, 3)}, META)
    assert Batch(OrderedDict(batch)).meta is META
    with pytest.raises(RequestError, match="has no meta"):
        _ = Batch({**batch, "labels": torch.full((1, 3), -100)}).meta


def test_a_batch_without_supervised_tokens_adds_nothing_to_a_loss() -> None:
    """The mean over none is NaN, and so would be the log of the step."""
    nothing = Batch({}, dataclasses.replace(META, supervised_tokens=0))
    logits = torch.zeros(1, 4, requires_grad=True)
    loss = nothing.step_loss(torch.nn.functional.cross_entropy(logits, torch.tensor([-100])))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_batch_that_was_rebuilt_says_that_its_meta_is_gone() -> None:
    """`type(batch)(mapping)`, as some trainers do, is allowed; asking it for meta is an error with a reason."""
    rebuilt = Batch({"input_ids": torch.ones(1)})
    with pytest.raises(RequestError, match="has no meta"):
        _ = rebuilt.meta
