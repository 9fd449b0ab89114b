"""Too long a row: a prefix that splits no medium."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import SampleError
from owl_stream.layouts import EncodedRow, Image, Tokenizer, Video
from owl_stream.layouts.truncation import cut_position
from owl_stream.layouts.types import Medium
from tests.layouts.batches import collated
from tests.layouts.characters import SPECIAL, Characters, Say, encode, owl3, recipe, talk

LAYOUTS = ("owl3-240728", "owl3-241101")
TOKENIZERS = (
    Characters(),
    Characters(fused=("><", "t<", ">t", " C", "n<")),
    Characters(whole=(*SPECIAL, "<|image|>"), fused=("><",)),
)

PIECES = st.lists(st.sampled_from(["<|image|>", "<|video|>", "t", " ", ">", "\n"]), max_size=6)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[str], list[Medium]]:
    """Several turns of text and media, with the media that they need."""
    contents: list[str] = []
    media: list[Medium] = []
    for _ in range(draw(st.integers(1, 3))):
        pieces = draw(PIECES)
        contents += ["".join(pieces), draw(st.text("ab", max_size=4))]
        for piece in pieces:
            size = Image(draw(st.integers(1, 2000)), draw(st.integers(1, 2000)))
            if piece == "<|image|>":
                media.append(size)
            elif piece == "<|video|>":
                media.append(Video((size,) * draw(st.integers(1, 18))))
    return contents, media


@given(
    conversations(), st.sampled_from(LAYOUTS), st.sampled_from(TOKENIZERS), st.sampled_from(["off", "all"]), st.data()
)
def test_fault_76_a_truncated_row_is_a_prefix_that_splits_no_medium(
    conversation: tuple[list[str], list[Medium]], name: str, tokenizer: Characters, cut: str, data: st.DataObject
) -> None:
    """Fault 76: for any length limit the row is a prefix, its media are whole, and its offsets hold the contract."""
    contents, media = conversation
    layout, messages = owl3(name), talk(*contents)
    full = encode(recipe(layout=name, cut=cut, max_length=1 << 20), messages, media, tokenizer)
    limit = data.draw(st.integers(1, full.size.text_tokens + 1))
    row = _encode_within(name, messages, media, tokenizer, cut=cut, max_length=limit)
    if row is None:
        return
    assert row.size.text_tokens <= limit
    assert row.truncated == (full.size.text_tokens > limit)
    assert np.array_equal(row.input_ids, full.input_ids[: row.size.text_tokens])
    assert np.array_equal(row.labels, full.labels[: row.size.text_tokens])
    assert np.array_equal(row.unit_starts, full.unit_starts[full.unit_starts < row.size.text_tokens])
    assert row.visuals == full.visuals[: len(row.visuals)]
    assert sum(visual.rows for visual in row.visuals) == row.image_units
    assert len({view.medium for view in row.visuals} & {view.medium for view in full.visuals[len(row.visuals) :]}) == 0
    layout.check_offsets(collated(layout, [row, layout.filler(tokenizer), full]), row.image_units + full.image_units)


@given(conversations(), st.sampled_from(LAYOUTS), st.sampled_from(TOKENIZERS), st.data())
def test_no_crop_group_loses_a_token(
    conversation: tuple[list[str], list[Medium]], name: str, tokenizer: Characters, data: st.DataObject
) -> None:
    """What follows the last kept medium is whole: a kept prompt is never cut short, nor a token fused to one."""
    contents, media = conversation
    messages = talk(*contents)
    full = encode(recipe(layout=name, cut="all", max_length=1 << 20), messages, media, tokenizer)
    limit = data.draw(st.integers(1, full.size.text_tokens))
    row = _encode_within(name, messages, media, tokenizer, cut="all", max_length=limit)
    if row is None:
        return
    text = _spelled(row, tokenizer)
    assert text.count("<|start_cut|>") == text.count("<|end_cut|>")
    assert text.count("<|start_video_frame|>") == text.count("<|end_video_frame|>")
    assert text.count("Cut to") == text.count("global_view<|image|>")
    assert text.count("<|image|>") == row.image_units


def _encode_within(
    name: str, messages: list[Say], media: list[Medium], tokenizer: Characters, *, cut: str, max_length: int
) -> EncodedRow | None:
    """Encode; None where nothing supervised is left, which is the only error that truncation may raise."""
    try:
        return encode(recipe(layout=name, cut=cut, max_length=max_length), messages, media, tokenizer)
    except SampleError as error:
        if error.reason != "no_supervised_tokens":
            raise
        return None


def _spelled(row: EncodedRow, tokenizer: Characters) -> str:
    known = (*tokenizer.whole, *tokenizer.fused)
    return "".join(chr(t) if t < tokenizer.pad_id else known[t - tokenizer.pad_id] for t in row.input_ids.tolist())


def test_the_cut_lies_at_the_limit_where_nothing_is_split() -> None:
    """Truncation gives away no token that it could keep."""
    messages = talk("Q", "A long answer", "<|image|>more", "B")
    full = encode(recipe(cut="off"), messages, [Image(9, 9)], Characters())
    start = int(full.unit_starts[0])
    behind = start + len("<|image|>")
    kept = {}
    for limit in range(start - 1, behind + 2):
        row = encode(recipe(cut="off", max_length=limit), messages, [Image(9, 9)], Characters())
        kept[limit] = (row.size.text_tokens, row.image_units)
    assert kept[start - 1] == (start - 1, 0)
    assert {kept[limit] for limit in range(start, behind)} == {(start, 0)}
    assert (kept[behind], kept[behind + 1]) == ((behind, 1), (behind + 1, 1))


def test_a_fused_token_belongs_to_both_groups() -> None:
    """Two prompts that share a token go together where the cut would fall into the shared token or behind it."""
    assert cut_position([(4, 10), (9, 20)], 20) == (20, 2)
    assert cut_position([(4, 10), (9, 20)], 15) == (4, 0)
    assert cut_position([(4, 10), (9, 20)], 9) == (4, 0)
    assert cut_position([(4, 10), (10, 20)], 15) == (10, 1)
    assert cut_position([], 7) == (7, 0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_crop_is_kept_only_with_a_token_that_sees_it(name: str) -> None:
    """Where `<|image|>` is one token, a row cut right behind it would hold a crop that the model does not count."""
    layout, tokenizer = owl3(name), Characters(whole=(*SPECIAL, "<|image|>"))
    messages, media = talk("Q", "A", "<|image|>more", "B"), [Image(9, 9)]
    start = int(encode(recipe(layout=name, cut="off"), messages, media, tokenizer).unit_starts[0])
    for limit, kept in ((start + 1, (start, 0)), (start + 2, (start + 2, 1))):
        row = encode(recipe(layout=name, cut="off", max_length=limit), messages, media, tokenizer)
        assert (row.size.text_tokens, row.image_units) == kept
        layout.check_offsets(collated(layout, [row]), row.image_units)


def test_the_real_vocabulary_fuses_neighbouring_prompts(qwen2: Tokenizer) -> None:
    """Token 1784 (`><`) closes one cut prompt and opens the next: a cut behind it takes both images."""
    messages, media = talk("Q", "A", "<|image|><|image|>?", "B"), [Image(400, 400)] * 2
    settings = {"layout": "owl3-241101", "cut": "all"}
    full = encode(recipe(**settings), messages, media, qwen2)
    shared = full.input_ids.tolist().index(1784)
    row = encode(recipe(**settings, max_length=shared + 3), messages, media, qwen2)
    assert (row.image_units, row.visuals, row.truncated) == (0, (), True)
    assert row.size.text_tokens < full.unit_starts[0]


def test_fault_76_skip_names_both_numbers() -> None:
    """Fault 76: under `on_too_long: skip` a long sample is bad, and the message says how long and how long at most."""
    settings = recipe(max_length=20, on_too_long="skip")
    with pytest.raises(SampleError, match=r"at most 20 tokens \(`max_length`\), got \d\d") as caught:
        encode(settings, talk("Q" * 30, "A"), [], Characters())
    assert caught.value.reason == "too_long"


def test_fault_78_truncation_that_leaves_no_answer_is_refused() -> None:
    """Fault 78: a row that teaches nothing is bad, not empty."""
    with pytest.raises(SampleError, match="within 40 tokens, got none") as caught:
        encode(recipe(max_length=40), talk("Q" * 60, "A"), [], Characters())
    assert caught.value.reason == "no_supervised_tokens"
