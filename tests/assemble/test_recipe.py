"""What a data set's settings make of its frames and of its name: sizes by layout, and the form of the chat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from owl_stream.assemble.fingerprint import components, drawing_id
from owl_stream.assemble.tokenizer import TokenizerFile, load_tokenizer
from owl_stream.config import DatasetConfig
from owl_stream.errors import ConfigError
from owl_stream.layouts import Image, Recipe, settle_all, settle_recipe
from owl_stream.layouts.owl3 import TOKENS, Owl3Settings
from tests.layouts.characters import Say, encode, recipe
from tests.support.assembly import make_dataset, reopen, run_at
from tests.support.tars import chat, picture

LAYOUTS = ("owl3-240728", "owl3-241101")


def configure(**settings: Any) -> DatasetConfig:
    """The configuration of a data set with these settings; `image_size` and `cut` go under `vision`."""
    vision = {key: settings.pop(key) for key in ("image_size", "cut") if key in settings}
    return DatasetConfig(**{"shards": ("s.tar",), "tokenizer": "t.json", "vision": vision, **settings})


def settled(**settings: Any) -> Owl3Settings:
    """What a layout of mPLUG-Owl3 makes of these settings."""
    settings_of_layout = settle_recipe(configure(**settings)).settings
    assert isinstance(settings_of_layout, Owl3Settings)
    return settings_of_layout


def parts(**settings: Any) -> dict[str, str]:
    """The components of a fingerprint of a data set with these settings."""
    config = configure(**settings)
    tokenizer = cast(TokenizerFile, SimpleNamespace(digest="d"))
    return components("m", "c", tokenizer, settle_recipe(config), config.plan)


def test_every_layout_has_the_side_of_its_release() -> None:
    """A layout without one would have no default."""
    assert {layout: settled(layout=layout).image_size for layout in LAYOUTS} == {"owl3-240728": 384, "owl3-241101": 378}


def test_a_recipe_holds_what_was_chosen_and_the_layouts_defaults() -> None:
    """Every setting of the configuration that makes rows, and under `settings` what is the layout's own."""
    chosen = configure(layout="owl3-241101", image_size=56, max_length=99, on_too_long="skip", max_image_pixels=7)
    assert settle_recipe(chosen) == Recipe(
        layout="owl3-241101",
        settings=Owl3Settings(image_size=56, cut="single", chat="release"),
        tokenizer="t.json",
        resize="simd",
        max_length=99,
        on_too_long="skip",
        max_image_pixels=7,
    )
    assert settled(chat="swift") == Owl3Settings(image_size=384, cut="all", chat="swift")
    assert settled(vision={"cut": False}).cut == "off"  # so YAML reads `off`


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layout": "owl4"}, r"`layout`: expected owl3-240728.*, got 'owl4'"),
        ({"vision": {"image_sise": 28}}, r"unknown key `vision\.image_sise`; did you mean `image_size`\?"),
        ({"vision": {"max_pixels": 28}}, r"unknown key `vision\.max_pixels`"),
        ({"vision": {"image_size": 13}}, r"`vision\.image_size`: expected a whole number from 14 to 4096, got 13"),
        ({"vision": {"image_size": 4097}}, r"`vision\.image_size`: expected a whole number from 14 to 4096, got 4097"),
        ({"vision": {"image_size": "28"}}, r"`vision\.image_size`: expected a whole number from 14 to 4096, got '28'"),
        ({"vision": {"image_size": True}}, r"`vision\.image_size`: expected a whole number"),
        ({"vision": {"cut": "both"}}, r"`vision\.cut`: expected off or single or all, got 'both'"),
        ({"chat": "chatml"}, r"`chat`: expected release or swift, got 'chatml'"),
    ],
)
def test_a_choice_that_the_layout_does_not_offer_is_refused_by_name(settings: dict[str, Any], told: str) -> None:
    """Key, what was expected and what was got; of a whole configuration, where it is and the data set's name too."""
    with pytest.raises(ConfigError, match=told):
        settle_recipe(configure(**settings))
    with pytest.raises(ConfigError, match=rf"^here: datasets\.second: {told}"):
        settle_all({"first": configure(), "second": configure(**settings)}, "here")


@pytest.mark.parametrize(("layout", "side"), [("owl3-240728", 384), ("owl3-241101", 378)])
def test_crops_are_as_large_as_the_layouts_release_makes_them(tmp_path: Path, layout: str, side: int) -> None:
    """Recipe, costs, schema and frames agree on it, and a size that is given is taken."""
    dataset = make_dataset(
        tmp_path,
        [("1", {"json": chat(("<|image|>What?", "An owl.")), "jpg": picture(60, 40)})],
        layout=layout,
        image_size=None,
        global_batch_size=1,
        cut="off",
    )
    made = run_at(dataset, 0, size=1)
    assert dataset.recipe.settings == Owl3Settings(side, "off", "release")
    assert {entry.name: entry.dims for entry in dataset.schema}["pixel_values"] == ("C", 3, side, side)
    assert made.tensors["pixel_values"].shape == (1, 3, side, side)
    (row,) = dataset.job(0, 0, 0, 0, 1, 1).rows
    assert row is not None
    assert made.header.vision_tokens == row.size.vision_tokens == 27**2
    dataset.close()
    given = reopen(tmp_path, layout=layout, image_size=56, global_batch_size=1, cut="off")
    made = run_at(given, 0, size=1)
    assert made.tensors["pixel_values"].shape == (1, 3, 56, 56)
    assert made.header.vision_tokens == 16
    given.close()


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({}, "68175ba5f309592786395623bc7679a0"),
        ({"image_size": 384, "cut": "single", "chat": "release"}, "68175ba5f309592786395623bc7679a0"),
        ({"layout": "owl3-241101", "image_size": 384}, "006e6a06d7d0d0063e34b355024d81d0"),
        ({"layout": "owl3-241101"}, "4d9bb8187d1a99aa0c44f96568bad0b7"),
        ({"layout": "owl3-241101", "image_size": 378}, "4d9bb8187d1a99aa0c44f96568bad0b7"),
    ],
)
def test_the_recipes_name_stays_what_it_was(settings: dict[str, Any], digest: str) -> None:
    """A default that is spelled out, or a new setting left alone, renames nothing.

    Pinned when settings became a layout's own and costs came to hold vision tokens, which renamed everything once.
    """
    assert parts(**settings)["recipe"] == digest
    assert parts(**settings)["plan"] == "7c2144e0af6431126c2db83b5c3dca7a"


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
    tokenizer = load_tokenizer("tokenizer.json", tmp_path, TOKENS).build()
    ids = {}
    for form, cut, grids in (("release", "single", (1, 1)), ("swift", "all", (7, 4))):
        dataset = reopen(tmp_path, layout=layout, global_batch_size=1, chat=form)
        assert dataset.recipe.settings == Owl3Settings(28, cut, form)  # type: ignore[arg-type] # strings
        made = run_at(dataset, 0, size=1)
        messages = [
            Say("user", "<|image|> or <|image|>?"),
            Say("assistant", "The owl."),
            Say("user", "Sure?"),
            Say("assistant", "Yes."),
        ]
        settings = recipe(layout=layout, image_size=28, max_length=512, chat=form, cut=cut)
        row = encode(settings, messages, [Image(60, 40), Image(30, 80)], tokenizer)
        assert np.array_equal(made.tensors["input_ids"][0], row.input_ids)
        assert np.array_equal(made.tensors["labels"][0], row.labels)
        assert made.header.units == sum(grids)
        assert made.header.supervised_tokens == row.size.supervised_tokens
        ids[form] = row.input_ids.tolist()
        dataset.close()
    assert ids["release"] != ids["swift"]


def test_another_source_of_a_layout_is_another_name_for_its_pixels() -> None:
    """Else a cache would hand out what the layout drew before its module was changed."""
    before = replace(settle_recipe(configure()), source="a")
    assert drawing_id(before) == drawing_id(replace(before, source="a"))
    assert drawing_id(before) != drawing_id(replace(before, source="b"))
