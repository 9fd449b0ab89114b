"""Both releases, number by number: what their processors made of real pictures and texts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owl_stream.layouts import EncodedRow, Image, Tokenizer, Video
from tests.layouts.batches import collated
from tests.layouts.characters import Say, encode, make, owl3, recipe

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


ROWS_240728 = _read("owl3_240728.jsonl")
ROWS_241101 = _read("owl3_241101.jsonl")
BATCHES = _read("owl3_240728_batches.jsonl")

Size = Callable[[str], Image]


def _encode(golden: dict[str, Any], tokenizer: Tokenizer, size: Size) -> EncodedRow:
    """Encode a golden row. The 240728 rows asked to cut hold one image or none: that is `cut: single`."""
    layout = f"owl3-{golden['version']}"
    asked = "single" if golden["version"] == "240728" else "all"
    settings = recipe(layout=layout, image_size=golden["image_size"], cut=asked if golden["cut"] else "off")
    media = [
        Video(tuple(size(frame) for frame in medium)) if isinstance(medium, list) else size(medium)
        for medium in golden["media" if "media" in golden else "images"]
    ]
    messages = [Say(**message) for message in golden["messages"]]
    return encode(settings, messages, media, tokenizer)


def _name(golden: dict[str, Any]) -> str:
    return f"{golden['id']}-{golden['image_size']}"


@pytest.mark.parametrize("golden", ROWS_240728, ids=_name)
def test_every_row_of_240728_is_what_its_processor_made(golden: Any, qwen2: Tokenizer, picture_size: Size) -> None:
    """Ids, labels, offsets and crop counts are those of the released processor, bit for bit."""
    row = _encode(golden, qwen2, picture_size)
    out = collated(make("owl3-240728"), [row])
    assert row.input_ids.tolist() == golden["input_ids"]
    assert row.labels.tolist() == golden["labels"]
    assert out["media_offset"][0].tolist() == golden["media_offset"]
    assert sum(visual.rows for visual in row.visuals) == row.image_units == golden["pixel_shape"][0]
    assert not row.truncated


@pytest.mark.parametrize("golden", ROWS_241101, ids=_name)
def test_every_row_of_241101_is_what_its_processor_made(golden: Any, qwen2: Tokenizer, picture_size: Size) -> None:
    """Ids, labels, offsets and crop counts follow the published processor, fused tokens between prompts included."""
    row = _encode(golden, qwen2, picture_size)
    out = collated(make("owl3-241101"), [row])
    assert row.input_ids.tolist() == golden["input_ids"]
    assert row.labels.tolist() == golden["labels"]
    assert out["media_offset"].tolist() == golden["media_offset"]
    assert out["media_offset_lengths"].tolist() == [len(golden["media_offset"])]
    assert sum(visual.rows for visual in row.visuals) == row.image_units == golden["pixel_shape"][0]


@pytest.mark.parametrize("golden", BATCHES, ids=lambda golden: "+".join(golden["ids"]))
def test_every_batch_is_what_the_released_model_accepted(golden: Any, qwen2: Tokenizer, picture_size: Size) -> None:
    """A padded batch has the ids, labels, mask and offsets that gave the logits of the single samples."""
    by_id = {row["id"]: row for row in ROWS_240728 if row["image_size"] == 384}
    rows = [_encode(by_id[name], qwen2, picture_size) for name in golden["ids"]]
    layout = owl3("owl3-240728")
    out = collated(layout, rows)
    for name in ("input_ids", "labels", "attention_mask", "media_offset"):
        assert out[name].tolist() == golden[name], name
    assert [row.image_units for row in rows] == golden["images_per_sample"]
    assert layout.check_offsets(out, golden["total_images"]).crops == golden["total_images"]


@pytest.mark.parametrize("golden", BATCHES, ids=lambda golden: "+".join(golden["ids"]))
def test_a_batch_in_any_order_is_its_single_rows(golden: Any, qwen2: Tokenizer, picture_size: Size) -> None:
    """In every order of rows, each row is its golden single shifted by the crops before it and padded as it ends."""
    by_id = {row["id"]: row for row in ROWS_240728 if row["image_size"] == 384}
    rows = {name: _encode(by_id[name], qwen2, picture_size) for name in golden["ids"]}
    layout = owl3("owl3-240728")
    for order in itertools.permutations(golden["ids"]):
        out = collated(layout, [rows[name] for name in order])
        layout.check_offsets(out, golden["total_images"])
        before = 0
        for b, name in enumerate(order):
            single = np.array(by_id[name]["media_offset"])
            length, crops = len(single), by_id[name]["pixel_shape"][0]
            shifted = single + np.array([before, before if crops else 0])
            assert (out["media_offset"][b, :length] == shifted).all()
            assert (out["media_offset"][b, length:] == shifted[-1]).all()
            assert out["input_ids"][b, :length].tolist() == by_id[name]["input_ids"]
            before += crops


def test_the_grid_of_a_golden_row_is_in_its_views(qwen2: Tokenizer, picture_size: Size) -> None:
    """The view of a cut picture names the grid that its prompt spells out."""
    golden = next(row for row in ROWS_240728 if row["id"] == "wide-cut")
    [visual] = _encode(golden, qwen2, picture_size).visuals
    assert (visual.medium, visual.frame, visual.form, visual.rows) == (0, 0, (2, 3), 7)
