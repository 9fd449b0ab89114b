"""What a data set's settings make of its frames and of its name: sizes by layout, and the form of the chat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest

from owl_stream.assemble.fingerprint import components
from owl_stream.assemble.tokenizer import TokenizerFile, load_tokenizer
from owl_stream.config import RELEASED_SIDE, DatasetConfig, LayoutName
from owl_stream.layouts import Image, get_layout
from tests.layouts.characters import Say, recipe
from tests.support.assembly import make_dataset, reopen, run_at
from tests.support.tars import chat, picture

LAYOUTS = get_args(LayoutName)


def parts(**settings: Any) -> dict[str, str]:
    """The components of a fingerprint of a data set with these settings."""
    config = DatasetConfig(shards=("s.tar",), tokenizer="t.json", **settings)
    tokenizer = cast(TokenizerFile, SimpleNamespace(digest="d"))
    return components("m", "c", tokenizer, config.recipe, config.plan)


def test_every_layout_has_the_side_of_its_release() -> None:
    """A layout without one would have no default."""
    assert dict(RELEASED_SIDE) == {"owl3-240728": 384, "owl3-241101": 378}
    assert set(RELEASED_SIDE) == set(LAYOUTS)


@pytest.mark.parametrize(("layout", "side"), [("owl3-240728", 384), ("owl3-241101", 378)])
def test_crops_are_as_large_as_the_layouts_release_makes_them(tmp_path: Path, layout: str, side: int) -> None:
    """Recipe, plan, schema and frames agree on it, and a size that is given is taken."""
    dataset = make_dataset(
        tmp_path,
        [("1", {"json": chat(("<|image|>What?", "An owl.")), "jpg": picture(60, 40)})],
        layout=layout,
        image_size=None,
        global_batch_size=1,
        cut="off",
    )
    made = run_at(dataset, 0, size=1)
    assert dataset.recipe.image_size == side
    assert {entry.name: entry.dims for entry in dataset.schema}["pixel_values"] == ("C", 3, side, side)
    assert made.tensors["pixel_values"].shape == (1, 3, side, side)
    dataset.close()
    config = DatasetConfig(shards=("s.tar",), tokenizer="t", layout=cast(LayoutName, layout))
    assert config.plan.vision_tokens_per_crop == 27**2
    given = config.model_copy(update={"image_size": 56})
    assert (given.recipe.image_size, given.plan.vision_tokens_per_crop) == (56, 16)


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({}, "3be74e179fbb203b66ee008f9895d603"),
        ({"image_size": 384, "cut": "single", "chat": "release"}, "3be74e179fbb203b66ee008f9895d603"),
        ({"layout": "owl3-241101", "image_size": 384}, "515c18d7e56f8143a218f5bf0669080b"),
        ({"layout": "owl3-241101"}, "3c4148a42d26b8400e0eba6a6299f901"),
        ({"layout": "owl3-241101", "image_size": 378}, "3c4148a42d26b8400e0eba6a6299f901"),
    ],
)
def test_the_recipes_name_is_what_it_was_before_there_was_a_choice(settings: dict[str, Any], digest: str) -> None:
    """Pinned from before: a default that is spelled out, or a new setting left alone, renames nothing."""
    assert parts(**settings)["recipe"] == digest
    assert parts(**settings)["plan"] == "2d46edd7158e1c9a57c3062a06dc19bb"


def test_the_form_of_the_chat_is_part_of_the_recipe() -> None:
    """Its rows are others, so its name is another, whatever the cut."""
    assert len({parts(chat=form, cut=cut)["recipe"] for form in ("release", "swift") for cut in ("single", "all")}) == 4
    assert parts(chat="swift") == parts(chat="swift", cut="all")
    assert parts() == parts(cut="single")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_hold_the_rows_of_their_form(tmp_path: Path, layout: str) -> None:
    """The same shards under both forms: each batch is its form's row, measured and assembled."""
    members = {
        "json": chat(("<|image|> or <|image|>?", "The owl."), ("Sure?", "Yes.")),
        "0.jpg": picture(60, 40),
        "1.jpg": picture(30, 80),
    }
    make_dataset(tmp_path, [("1", members)], layout=layout, global_batch_size=1).close()
    tokenizer = load_tokenizer("tokenizer.json", tmp_path).build()
    ids = {}
    for form, grids in (("release", (1, 1)), ("swift", (7, 4))):
        dataset = reopen(tmp_path, layout=layout, global_batch_size=1, chat=form)
        made = run_at(dataset, 0, size=1)
        messages = [
            Say("user", "<|image|> or <|image|>?"),
            Say("assistant", "The owl."),
            Say("user", "Sure?"),
            Say("assistant", "Yes."),
        ]
        settings = recipe(layout=layout, image_size=28, max_length=512, chat=form, cut=dataset.recipe.cut)
        row = get_layout(layout).encode(messages, [Image(60, 40), Image(30, 80)], tokenizer, settings)
        assert np.array_equal(made.tensors["input_ids"][0], row.input_ids)
        assert np.array_equal(made.tensors["labels"][0], row.labels)
        assert made.header.crops == sum(grids)
        assert made.header.supervised_tokens == row.supervised_tokens
        ids[form] = row.input_ids.tolist()
        dataset.close()
    assert ids["release"] != ids["swift"]
