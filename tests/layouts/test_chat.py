"""The chat text: chunks, labels, and where crops start.

Fault 92 of docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from owl_stream.errors import SampleError
from owl_stream.layouts import Image, Medium, Tokenizer, Video
from tests.layouts.characters import Characters, Say, encode, recipe, talk

LAYOUTS = ("owl3-240728", "owl3-241101")
SQUARE = Image(400, 400)


def _text(layout: str, messages: list[Say], media: Sequence[Medium], **settings: object) -> str:
    tokenizer = Characters(whole=())
    row = encode(recipe(layout=layout, **settings), messages, media, tokenizer)
    return "".join(map(chr, row.input_ids))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_reads_as_chatml(layout: str) -> None:
    """System, user and assistant turns are spelled as the releases spell them, the end of text after every answer."""
    assert _text(layout, talk("Q1", "A1", "Q2", "A2", system="Be kind."), []) == (
        "<|im_start|>system\nBe kind.<|im_end|>"
        "\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|><|endoftext|>"
        "\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|><|endoftext|>"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_system_turn_an_empty_one_is_written(layout: str) -> None:
    """The releases always begin with a system turn."""
    assert _text(layout, talk("Q", "A"), []).startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_answers_and_their_ends_are_supervised(layout: str) -> None:
    """Labels are the ids of each answer, its end of turn and the end of text; all else is -100."""
    row = encode(recipe(layout=layout), talk("Q1", "A1", "Q2", "A2"), [], Characters(whole=()))
    learned = "".join(chr(label) for label in row.labels if label != -100)
    assert learned == "A1<|im_end|><|endoftext|>A2<|im_end|><|endoftext|>"
    assert row.size.supervised_tokens == len(learned)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_answer_that_is_not_learned_has_no_labels(layout: str) -> None:
    """Neither the answer nor its ends are learned; ids and neighbours are as they were."""
    whole = talk("Q1", "A1", "Q2", "A2", "Q3", "A3")
    partly = [Say(turn.role, turn.content, learned=turn.content != "A2") for turn in whole]
    row = encode(recipe(layout=layout), partly, [], Characters(whole=()))
    learned = "".join(chr(label) for label in row.labels if label != -100)
    assert learned == "A1<|im_end|><|endoftext|>A3<|im_end|><|endoftext|>"
    assert row.size.supervised_tokens == len(learned)
    assert row.input_ids.tolist() == encode(recipe(layout=layout), whole, [], Characters(whole=())).input_ids.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_of_which_nothing_is_learned_is_refused(layout: str) -> None:
    """It would be a row without a supervised token."""
    with pytest.raises(SampleError) as caught:
        encode(recipe(layout=layout), [Say("user", "Q"), Say("assistant", "A", learned=False)], [], Characters())
    assert caught.value.reason == "no_supervised_tokens"


def test_240728_spells_grids_and_frames() -> None:
    """`subimg(i,j)` per crop, row by row, then the global view; frames are bare."""
    text = _text("owl3-240728", talk("a <|image|> b", "A"), [SQUARE])
    assert (
        "user\na Cut to 2 rows 2 columns with a global view\nsubimg(0,0)<|image|> subimg(0,1)<|image|>\n"
        "subimg(1,0)<|image|> subimg(1,1)<|image|>\nglobal_view<|image|> b<|im_end|>"
    ) in text
    assert "user\n<|image|><|image|>?<|im_end|>" in _text(
        "owl3-240728", talk("<|video|>?", "A"), [Video((SQUARE,) * 2)]
    )


def test_241101_spells_grids_and_frames() -> None:
    """Grid as `rows*cols`, frames between their own markers."""
    text = _text("owl3-241101", talk("<|image|>", "A"), [Image(900, 300)])
    assert "user\n<|start_cut|>1*3\n<|image|> <|image|> <|image|>\n<|image|><|end_cut|><|im_end|>" in text
    text = _text("owl3-241101", talk("<|video|>?", "A"), [Video((SQUARE,) * 2)])
    assert "user\n<|start_video_frame|><|image|><|image|><|end_video_frame|>?<|im_end|>" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_chooses_which_images_are_cut(layout: str) -> None:
    """`single` cuts a sample's only medium, `all` every image, `off` none; frames never."""
    cases: list[tuple[str, str, list[Medium], list[tuple[int, int] | None]]] = [
        ("single", "<|image|>", [SQUARE], [(2, 2)]),
        ("single", "<|image|><|image|>", [SQUARE, SQUARE], [None, None]),
        ("single", "<|image|><|video|>", [SQUARE, Video((SQUARE,))], [None, None]),
        ("all", "<|image|><|video|><|image|>", [SQUARE, Video((SQUARE, SQUARE)), SQUARE], [(2, 2), None, None, (2, 2)]),
        ("off", "<|image|>", [SQUARE], [None]),
    ]
    for cut, content, media, grids in cases:
        row = encode(recipe(layout=layout, cut=cut), talk(content, "A"), media, Characters())
        assert [visual.form or None for visual in row.visuals] == grids, (cut, content)


def test_a_long_video_names_its_chosen_frames() -> None:
    """Views carry the index of each frame in the record's list."""
    video = Video((SQUARE,) * 32)
    row = encode(recipe(), talk("<|video|>", "A"), [video], Characters())
    drawn = [(visual.medium, visual.frame, visual.rows) for visual in row.visuals]
    assert drawn == [(0, 2 * i + 1, 1) for i in range(16)]


def test_a_crop_starts_at_the_first_piece_of_its_marker() -> None:
    """With a token per character the start is where the marker stands in the text."""
    messages, media = talk("a<|image|>b<|image|>", "A"), [SQUARE, SQUARE]
    text = _text("owl3-240728", messages, media)
    row = encode(recipe(), messages, media, Characters(whole=()))
    first = text.index("<|image|>")
    assert row.unit_starts.tolist() == [first, text.index("<|image|>", first + 1)]


def test_text_is_tokenised_chunk_by_chunk() -> None:
    """What a vocabulary would merge across a marker's border stays apart; within a chunk of prompts it fuses."""
    fusing = Characters(fused=("><", "b<"))
    apart = encode(recipe(), talk("b<|image|><|image|>!", "A"), [SQUARE] * 2, fusing)
    assert not [token for token in apart.input_ids if token >= fusing.pad_id + 3]
    fused = encode(recipe(layout="owl3-241101", cut="all"), talk("b<|image|><|image|>!", "A"), [SQUARE] * 2, fusing)
    assert [int(token) - fusing.pad_id for token in fused.input_ids if token >= fusing.pad_id + 3] == [4, 3]


def test_special_tokens_written_in_a_text_are_parsed(qwen2: Tokenizer) -> None:
    """As with the released processor, `<|im_end|>` inside a user's text becomes the token, and is not supervised."""
    row = encode(recipe(), talk("Say <|im_end|> now", "A"), [], qwen2)
    assert row.input_ids.tolist().count(151645) == 4
    assert row.labels.tolist().count(151645) == 1
