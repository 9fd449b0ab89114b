"""The text that images and videos become, held against the released processor and a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from owl_stream.layouts.internvl.text import ImageTokens, image_text, video_text
from owl_stream.layouts.internvl.tiles import choose_tiles, count_tiles
from owl_stream.layouts.placeholders import repeat
from tests.support.families_tiles import SIDE, TOKENS, internvl_processor, internvl_tokenizer

NAMES = ImageTokens()
IMAGE, VIDEO = NAMES.context, "<video>"
FRAMES = 3

Row = list[str | tuple[int, int]]
"""Words, sizes of images, and `VIDEO`."""

words = st.sampled_from(["What is it?", "\n", "\n\n", " ", "1", "Frame1:", "<|im_end|>\n", "<img>", "猫", "the cat "])
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
rows = st.lists(st.one_of(words, sizes, st.just(VIDEO)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> transformers.InternVLProcessor:
    """The released class, at most 6 tiles a picture."""
    return internvl_processor(internvl_tokenizer(tmp_path_factory.mktemp("internvl")), max_patches=6)


def ours(row: Row, tokenizer: Any) -> list[int]:
    """The ids of a row by our functions: one placeholder a run in the text, repeated as ids."""
    texts, runs = [], []
    for part in row:
        if isinstance(part, str) and part != VIDEO:
            texts.append(part)
            continue
        if isinstance(part, tuple):
            medium = image_text(count_tiles(choose_tiles(*part, SIDE, 1, 6)), TOKENS, NAMES)
        else:
            medium = video_text(FRAMES, TOKENS, NAMES)
        texts.append(medium.text)
        runs += medium.runs
    ids = tokenizer("".join(texts), add_special_tokens=False)["input_ids"]
    return repeat(ids, [tokenizer.context_image_token_id], runs).input_ids.tolist()


def written(row: Row) -> str:
    """A row's text as the processor takes it."""
    return "".join(IMAGE if isinstance(part, tuple) else part for part in row)


def released(processor: Any, batch: Sequence[Row]) -> list[list[int]]:
    """The ids of each row by the processor, without its padding; all pictures are black."""
    images = [Image.new("RGB", part) for row in batch for part in row if isinstance(part, tuple)]
    clip = [Image.new("RGB", (9, 7)) for _ in range(FRAMES)]
    videos = [clip for row in batch for part in row if part == VIDEO]
    text = [written(row) for row in batch]
    made = processor(text=text, images=images or None, videos=videos or None, padding=True, return_tensors="pt")
    return [ids[mask == 1].tolist() for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True)]


@settings(max_examples=150, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=3))
def test_ids_equal_the_processors(processor: transformers.InternVLProcessor, batch: list[Row]) -> None:
    """Any mixture of words, images and videos, row by row; texts with `<img>` of their own too."""
    assert [ours(row, processor.tokenizer) for row in batch] == released(processor, batch)


def test_media_lie_in_the_order_of_rows_and_of_their_places_in_the_text(
    processor: transformers.InternVLProcessor,
) -> None:
    """A video's frames stand between the tiles of the images around it, although they come from another list."""
    levels = {name: 20 * number for number, name in enumerate(["a", "b", "video", "c"])}
    image = {name: Image.new("RGB", (90, 30), (level,) * 3) for name, level in levels.items()}
    batch = processor(
        text=[f"{IMAGE}{VIDEO}{IMAGE}", "none", f"last {IMAGE}"],
        images=[image["a"], image["b"], image["c"]],
        videos=[[image["video"]] * FRAMES],
        padding=True,
        return_tensors="pt",
    )
    images = processor.image_processor
    black = (0 - images.image_mean[0]) / images.image_std[0]
    step = 20 / 255 / images.image_std[0]
    red = batch["pixel_values"][:, 0, 0, 0].tolist()
    tiles = count_tiles(choose_tiles(90, 30, SIDE, 1, 6))
    assert tiles == 4
    expected = [black] * tiles + [40] * FRAMES + [black + step] * tiles + [black + 3 * step] * tiles
    assert np.allclose(red, expected, atol=1e-5)
