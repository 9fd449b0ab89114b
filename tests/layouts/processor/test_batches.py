"""Whole batches of models without a layout of ours, from tars to the client's tensors, against their own processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from owl_stream.errors import ContractError
from owl_stream.layouts import check_batch
from tests.layouts.processor.stage import Stage


def _steps(stage: Stage) -> range:
    return range(stage.dataset.steps_per_epoch)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_tensor_is_what_the_processor_makes(stage: Stage, world_size: int) -> None:
    """Ids, masks, sizes and counts are equal, pixels to 1e-6; labels are those of an independent prefix computation."""
    seen = set()
    for step in _steps(stage):
        for rank in range(world_size):
            made, tensors = stage.made(step, rank, world_size)
            keys = [row.key for row in made.header.rows if row.status == "ok"]
            if len(keys) < len(made.header.rows):
                continue  # a filler is no sample, so no processor knows it
            seen |= {*keys}
            expected = stage.expected(keys)
            assert set(expected) == set(tensors) - {"labels"}
            for name, want in expected.items():
                if name == "pixel_values":
                    assert tensors[name].shape == want.shape
                    assert (tensors[name] - want).abs().max() <= 1e-6
                else:
                    assert torch.equal(tensors[name], want), name
            for b, key in enumerate(keys):
                labels = stage.labels(key)
                assert tensors["labels"][b, : len(labels)].tolist() == labels
                assert (tensors["labels"][b, len(labels) :] == -100).all()
    assert len(seen) > len(stage.samples) - stage.dataset.global_batch_size


def test_every_kind_of_picture_is_served(stage: Stage) -> None:
    """None of the samples is quarantined, and in no batch is a row masked."""
    assert stage.dataset.quarantined == 0
    statuses = [row.status for step in _steps(stage) for row in stage.made(step, 0, 1)[0].header.rows]
    assert {*statuses} <= {"ok", "filler"}
    assert statuses.count("ok") == len(stage.samples)


@torch.no_grad()
def test_a_batch_gives_the_logits_of_its_rows_alone(stage: Stage) -> None:
    """On a tiny random model of the released class, with text-only, single and many images mixed."""
    model, mixed = stage.family.model(), 0
    for step in _steps(stage):
        made, tensors = stage.made(step, 0, 1)
        together = model(**tensors).logits
        mixed += len({bool(stage.samples[row.key][1]) for row in made.header.rows if row.status == "ok"}) == 2
        for b, row in enumerate(made.header.rows):
            if row.status == "ok":
                alone = model(**stage.expected([row.key])).logits[0]
                assert (together[b, : len(alone)] - alone).abs().max() <= 1e-5
    assert mixed


@torch.no_grad()
def test_pictures_change_the_logits(stage: Stage) -> None:
    """The tiny model is not blind: with a picture's pixels changed, the tokens that see it have other logits."""
    model, changed = stage.family.model(), 0
    for step in _steps(stage):
        _, tensors = stage.made(step, 0, 1)
        if "pixel_values" in tensors:
            other = tensors | {"pixel_values": tensors["pixel_values"] * 0.5}
            changed += bool((model(**tensors).logits - model(**other).logits).abs().max() > 1e-3)
    assert changed


def test_what_is_seen_of_a_batch_is_its_units(stage: Stage) -> None:
    """Each placeholder belongs to a unit, a token sees those that begin at it or before, and pictures are tiles."""
    shown = 0
    for step in _steps(stage):
        made, tensors = stage.made(step, 0, 1)
        looks = stage.dataset.layout.look(made.tensors)
        for look, ids in zip(looks, tensors["input_ids"].numpy(), strict=True):
            placeholders = np.isin(ids, stage.dataset.layout.placeholder_ids)
            assert np.array_equal(look.unit >= 0, placeholders)
            assert np.array_equal(look.sees, np.maximum.accumulate(look.unit) + 1)
        units = [int(look.sees[-1]) for look in looks]
        if stage.family.name == "smolvlm":  # of LLaVA-OneVision's pictures, those side by side have one run of tokens
            assert [len(look.pictures) for look in looks] == units
            assert sum(units) == made.header.units
            tiles = [picture for look in looks for picture in look.pictures]
            assert np.array_equal(tiles, made.tensors["pixel_values"].transpose(0, 2, 3, 1) if tiles else [])
        shown += sum(len(look.pictures) for look in looks)
    assert shown


@pytest.fixture(scope="module")
def batch(stage: Stage) -> dict[str, torch.Tensor]:
    """One with several pictures in a row, beside others."""
    found = [stage.made(step, 0, 1) for step in _steps(stage)]
    ((_, tensors),) = [pair for pair in found if "many" in [row.key for row in pair[0].header.rows]]
    return tensors


def test_the_processors_own_batch_passes_the_check(stage: Stage, batch: dict[str, torch.Tensor]) -> None:
    """Also one that no server has made."""
    model, layout = str(stage.family.directory), "processor"
    report = check_batch(batch, model=model, layout=layout)
    keys = [key for key in stage.samples if key.startswith(("size-31", "text", "many"))]
    own = stage.expected(keys)
    own["labels"] = torch.full_like(own["input_ids"], -100)
    assert check_batch(dict(own), model=model, layout=layout).text_only_rows == 4
    assert report.rows_with_media >= 1


def _without(name: str) -> Any:
    return lambda batch: {key: value for key, value in batch.items() if key != name}


def _changed(name: str, change: Any) -> Any:
    return lambda batch: {**batch, name: change(batch[name].clone())}


def _one_placeholder_less(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = batch["input_ids"].clone()
    mask = batch["attention_mask"].bool()
    counts = [int((row == row[keep].mode().values).sum()) for row, keep in zip(ids, mask, strict=True)]
    row = int(np.argmax(counts))
    ids[row, int((ids[row] == ids[row][mask[row]].mode().values).nonzero()[0, 0])] = 0
    return {**batch, "input_ids": ids}


WRONG = {
    "smolvlm": {
        "no_pixels": (_without("pixel_values"), "pixel_values: expected it where rows have <image>"),
        "no_mask": (_without("pixel_attention_mask"), "pixel_attention_mask: expected it beside pixel_values"),
        "tiles_of_another_row": (_changed("pixel_attention_mask", lambda mask: mask.flip(0)), "tiles of each row"),
        "a_tile_less": (_changed("pixel_values", lambda pixels: pixels[:, 1:]), "rows and tiles: expected"),
        "a_placeholder_less": (_one_placeholder_less, "expected <image> in whole tiles of 4"),
        "padded_left": (_changed("attention_mask", lambda mask: mask.flip(1)), "padding on the right"),
    },
    "llava_onevision": {
        "no_pixels": (_without("pixel_values"), "pixel_values: expected it where rows have <image>"),
        "no_sizes": (_without("image_sizes"), "image_sizes: expected it beside pixel_values"),
        "a_picture_less": (_changed("pixel_values", lambda pixels: pixels[1:]), "pictures: expected one number"),
        "a_size_less": (_changed("image_sizes", lambda sizes: sizes[1:]), "pictures: expected one number"),
        "one_count_more": (_changed("batch_num_images", lambda n: torch.cat([n, n[:1]])), "rows with pictures"),
        "padded_left": (_changed("attention_mask", lambda mask: mask.flip(1)), "padding on the right"),
    },
}


def test_wrong_batches_are_refused(stage: Stage, batch: dict[str, torch.Tensor]) -> None:
    """By the tensor or the row that is wrong."""
    for spoil, message in WRONG[stage.family.name].values():
        with pytest.raises(ContractError, match=message):
            check_batch(spoil(batch), model=str(stage.family.directory), layout="processor")
