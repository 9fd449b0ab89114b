"""Conversations that nobody thought of: any texts, any sizes of pictures, against the models' own processors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from owl_stream.assemble import load_tokenizer
from owl_stream.config import DatasetConfig
from owl_stream.errors import SampleError
from owl_stream.layouts import Chat, EncodedRow, Image, Layout, LengthLimit, Recipe, Tokenizer, settle_recipe
from owl_stream.records import Message
from tests.support.families import FAMILIES, Family, as_parts, make_family

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="<>"), max_size=30)
ANSWERS = WORDS.map(lambda text: f"A{text}.")
"""One that begins with white space may share a token with what stands before it: labels are a matter of taste then."""

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400)).filter(lambda size: max(size) <= 150 * min(size))


@dataclass(frozen=True)
class Encoding:
    """A model, and the layout that its directory settles."""

    family: Family
    recipe: Recipe
    layout: Layout
    tokenizer: Tokenizer

    def encode(self, messages: list[dict[str, str]], sizes: list[tuple[int, int]], most: int = 1 << 20) -> EncodedRow:
        """By the layout."""
        turns = [Message(message["role"], message["content"]) for message in messages]
        limit = LengthLimit(most, "truncate")
        return self.layout.encode(Chat(turns), [Image(*size) for size in sizes], self.tokenizer, limit)


@pytest.fixture(scope="module", params=FAMILIES)
def encoding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoding:
    """Each family."""
    directory = tmp_path_factory.mktemp(request.param)
    family = make_family(request.param, directory / "model")
    recipe = settle_recipe(DatasetConfig(shards=("a.tar",), model="model"), directory)
    layout = recipe.make_layout()
    return Encoding(family, recipe, layout, load_tokenizer("model", directory, layout.tokens).build())


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, str]], list[tuple[int, int]]]:
    """One to three questions with none to three pictures each, anywhere in their texts."""
    messages, sizes = [], []
    for _ in range(draw(st.integers(1, 3))):
        pictures = draw(st.lists(SIZES, max_size=3))
        texts = draw(st.lists(WORDS.map(str.strip), min_size=len(pictures) + 1, max_size=len(pictures) + 1))
        question = "<|image|>".join(texts)
        messages += [
            {"role": "user", "content": question or "?"},
            {"role": "assistant", "content": draw(ANSWERS).strip()},
        ]
        sizes += pictures
    return messages, sizes


@given(conversations())
@settings(deadline=None, max_examples=40)
def test_ids_grids_and_labels_are_the_processors(encoding: Encoding, case: tuple[Any, Any]) -> None:
    """Whatever is said and shown: the ids of the whole conversation, and the labels of its prefixes."""
    messages, sizes = case
    pictures = [Pillow.new("RGB", size) for size in sizes]
    row = encoding.encode(messages, sizes)
    expected = encoding.family.batch([as_parts(messages)], pictures)
    assert row.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert row.labels.tolist() == encoding.family.labels(as_parts(messages), pictures)
    if "image_grid_thw" in expected:
        assert [list(visual.form) for visual in row.visuals] == expected["image_grid_thw"].tolist()
    rows = 0 if "pixel_values" not in expected else len(expected["pixel_values"])
    assert sum(visual.rows for visual in row.visuals) == rows


@given(conversations(), st.data())
@settings(deadline=None, max_examples=40)
def test_a_row_that_is_cut_is_a_prefix_with_whole_media(
    encoding: Encoding, case: tuple[Any, Any], data: st.DataObject
) -> None:
    """At any length: a beginning of the whole row, its media whole, and a batch of it holds the contract's counts."""
    messages, sizes = case
    whole = encoding.encode(messages, sizes)
    limit = data.draw(st.integers(1, len(whole.input_ids)))
    try:
        row = encoding.encode(messages, sizes, limit)
    except SampleError as exc:
        if exc.reason != "no_supervised_tokens":
            raise
        return
    length = len(row.input_ids)
    assert length <= limit
    assert row.input_ids.tolist() == whole.input_ids[:length].tolist()
    assert row.labels.tolist() == whole.labels[:length].tolist()
    assert row.visuals == whole.visuals[: len(row.visuals)]
    assert row.unit_starts.tolist() == whole.unit_starts[whole.unit_starts < length].tolist()
    kept, all_of_it = encoding.layout.lengths([row.size]), encoding.layout.lengths([whole.size])
    assert all(kept[letter] <= number for letter, number in all_of_it.items())
    media = [visual.medium for visual in row.visuals]
    assert not {*media} & {visual.medium for visual in whole.visuals[len(media) :]}


def test_a_text_that_spells_out_a_placeholder_is_a_bad_sample(encoding: Encoding) -> None:
    """It would take the pixels of a picture; each placeholder of the family, in a question and in an answer."""
    for placeholder in encoding.family.tokenizer.convert_ids_to_tokens([*encoding.layout.placeholder_ids]):
        for question, answer in ((f"<|image|>Is {placeholder} one?", "No."), ("<|image|>What?", f"A {placeholder}.")):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            with pytest.raises(SampleError, match=re.escape(placeholder)) as caught:
                encoding.encode(messages, [(40, 30)])
            assert caught.value.reason == "template_placeholder"
