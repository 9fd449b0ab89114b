"""The text that an image becomes, and which tokens see each other, held against the released processor and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from owl_stream.layouts.gemma3.pan_and_scan import PanAndScan, choose_crops
from owl_stream.layouts.gemma3.text import ImageTokens, image_text, token_types
from owl_stream.layouts.placeholders import repeat
from tests.support.families_tiles import TOKENS, gemma3_model, gemma3_processor, gemma_tokenizer

NAMES = ImageTokens()
RULE = PanAndScan(min_crop_size=40)

Row = list[str | tuple[int, int]]
"""Words and sizes of images."""

words = st.sampled_from(
    ["\n", "\n\n", "\n\n\n\n\n", " ", "  \n", "the", " and", "1>", "<end_of_turn>\n", "猫", "<bos>"]
)
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
rows = st.lists(st.one_of(words, sizes), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def processor() -> transformers.Gemma3Processor:
    """The released class."""
    return gemma3_processor()


def written(row: Row) -> str:
    """A row's text as the processor takes it."""
    return "".join(NAMES.begin if isinstance(part, tuple) else part for part in row)


def ours(row: Row, rule: PanAndScan | None) -> list[int]:
    """The ids of a row by our functions: one soft token a run in the text, repeated as ids."""
    texts, runs = [], []
    for part in row:
        if isinstance(part, tuple):
            image = image_text(len(choose_crops(*part, rule)), TOKENS, NAMES)
            texts.append(image.text)
            runs += image.runs
        else:
            texts.append(part)
    ids = gemma_tokenizer()("".join(texts), add_special_tokens=False)["input_ids"]
    return repeat(ids, [gemma_tokenizer().image_token_id], runs).input_ids.tolist()


def released(processor: Any, batch: Sequence[Row], rule: PanAndScan | None, **options: Any) -> Any:
    """The processor's batch; all pictures are black."""
    black = [[Image.new("RGB", part) for part in row if isinstance(part, tuple)] for row in batch]
    if rule:
        options |= {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": rule.min_crop_size}
    text = [written(row) for row in batch]
    return processor(text=text, images=black if any(black) else None, add_special_tokens=False, **options)


@settings(max_examples=150, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=3), rule=st.sampled_from([None, RULE]))
def test_ids_equal_the_processors(
    processor: transformers.Gemma3Processor, batch: list[Row], rule: PanAndScan | None
) -> None:
    """Any mixture of words, line ends and images, with and without crops, and rows of text alone."""
    assert [ours(row, rule) for row in batch] == released(processor, batch, rule)["input_ids"]


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=3), side=st.sampled_from(["left", "right"]))
def test_token_types_equal_the_processors(processor: transformers.Gemma3Processor, batch: list[Row], side: str) -> None:
    """1 for soft tokens, 0 for text, padding on either side and rows of text alone."""
    expected = released(processor, batch, RULE, padding=True, padding_side=side, return_tensors="np")
    types = token_types(expected["input_ids"], processor.tokenizer.image_token_id)
    assert np.array_equal(types, expected["token_type_ids"])
    assert types.dtype == expected["token_type_ids"].dtype == np.int64


def test_line_ends_beside_a_picture_merge_with_its_own() -> None:
    """A text tokenised in pieces would differ: the line end of the text and two of the picture are one token."""
    tokens = gemma_tokenizer().convert_ids_to_tokens(ours(["1\n", (8, 8), "\n\n2"], None))
    assert tokens == ["1", "\n" * 3, NAMES.begin, *[NAMES.soft] * TOKENS, NAMES.end, "\n" * 4, "2"]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_model_without_token_types_is_causal_and_says_nothing(
    processor: transformers.Gemma3Processor, training: bool
) -> None:
    """With them a picture's first token sees its last one; without them other logits come out, and no error."""
    batch = released(processor, [[(20, 20), "the"]], None, return_tensors="pt")
    model = gemma3_model().train(training)
    with torch.no_grad():
        right = model(**batch).logits
        del batch["token_type_ids"]
        wrong = model(**batch).logits
    assert (right - wrong).abs().max() > 1e-4
