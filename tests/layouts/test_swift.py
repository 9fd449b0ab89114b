"""`chat: swift`, number by number: what the mPLUG-Owl3 templates of ms-swift made (tests/golden/make_swift.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import SampleError
from owl_stream.layouts import EncodedRow, Image, Medium, Tokenizer, Video
from owl_stream.layouts.conversation import IMAGE, MARKER
from tests.layouts.batches import collated
from tests.layouts.characters import Characters, Say, encode, make, owl3, recipe, talk

LINES = (Path(__file__).resolve().parents[1] / "golden" / "swift_owl3.jsonl").read_text(encoding="utf-8").splitlines()
ROWS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
LAYOUTS = ("owl3-240728", "owl3-241101")
FRAME, WIDE, TALL = Image(8, 6), Image(640, 384), Image(333, 640)


def _media(golden: dict[str, Any]) -> list[Medium]:
    """The row's media in the order of their markers."""
    pictures = iter([Image(*size) for size in golden["media"] if isinstance(size, list)])
    videos = iter([Video((FRAME,) * frames) for frames in golden["media"] if isinstance(frames, int)])
    content = "".join(message["content"] for message in golden["messages"])
    return [next(pictures) if marker == IMAGE else next(videos) for marker in MARKER.findall(content)]


def _encode(golden: dict[str, Any], tokenizer: Tokenizer) -> EncodedRow:
    layout = f"owl3-{golden['version']}"
    settings = recipe(layout=layout, image_size=golden["image_size"], cut="all", chat="swift")
    messages = [Say(**message) for message in golden["messages"]]
    return encode(settings, messages, _media(golden), tokenizer)


@pytest.mark.parametrize("golden", ROWS, ids=lambda golden: f"{golden['id']}-{golden['version']}")
def test_every_row_is_what_ms_swift_made(golden: dict[str, Any], qwen2: Tokenizer) -> None:
    """Ids, labels, offsets, crops and the frames of videos are those of the package's templates."""
    row = _encode(golden, qwen2)
    layout = owl3(f"owl3-{golden['version']}")
    out = collated(layout, [row])
    assert row.input_ids.tolist() == golden["input_ids"]
    assert row.labels.tolist() == golden["labels"]
    assert out["labels"][0].tolist() == golden["labels"]
    assert row.image_units == golden["crops"]
    assert sum(visual.rows for visual in row.visuals) == row.image_units
    if golden["media_offset"] is not None:
        got = out["media_offset"][0] if golden["version"] == "240728" else out["media_offset"]
        assert got.tolist() == golden["media_offset"]
    kinds = _media(golden)
    assert [view.frame for view in row.visuals if isinstance(kinds[view.medium], Video)] == golden["frames"]
    layout.check_offsets(out, row.image_units)


def test_the_rows_cover_both_releases_and_all_that_differs() -> None:
    """A file that lost its rows would pass the test above by having nothing to compare."""
    by_version = {version: {row["id"] for row in ROWS if row["version"] == version} for version in ("240728", "241101")}
    assert by_version["240728"] == by_version["241101"]
    assert len(by_version["240728"]) >= 36


def _text(layout: str, messages: list[Say], media: list[Medium], **settings: object) -> str:
    row = encode(recipe(layout=layout, chat="swift", **settings), messages, media, Characters(whole=()))
    return "".join(map(chr, row.input_ids))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversation_reads_as_ms_swift_spells_it(layout: str) -> None:
    """Turns end in a newline each, there is no end of text, and an image is followed by a newline."""
    assert _text(layout, talk("<|image|>Q1", "A1", "Q2", "A2", system="Be kind."), [WIDE], cut="off") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\n<|image|>\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("cut", "content", "media", "grids"),
    [
        ("all", "<|image|><|image|>", [WIDE, TALL], [(2, 3), (3, 2)]),
        ("all", "<|image|><|video|>", [WIDE, Video((FRAME,))], [None, None]),
        ("single", "<|image|><|image|>", [WIDE, TALL], [None, None]),
        ("single", "<|image|>", [WIDE], [(2, 3)]),
        ("off", "<|image|>", [WIDE], [None]),
    ],
)
def test_a_video_keeps_the_images_of_its_sample_whole(
    layout: str, cut: str, content: str, media: list[Medium], grids: list[Any]
) -> None:
    """`all` cuts every image of a sample without video, as ms-swift does; `single` and `off` mean what they say."""
    settings = recipe(layout=layout, cut=cut, chat="swift")
    row = encode(settings, talk(content, "A"), media, Characters())
    assert [visual.form or None for visual in row.visuals] == grids


@pytest.mark.parametrize("layout", LAYOUTS)
def test_media_that_are_too_long_go_as_a_whole(layout: str) -> None:
    """Truncation splits no medium's prompt under this form either: at every length the row is consistent."""
    messages = talk("<|image|>a", "A", "b<|video|>", "B")
    media: list[Medium] = [WIDE, Video((FRAME,) * 3)]
    tokenizer = Characters(whole=())
    settings: dict[str, Any] = {"layout": layout, "chat": "swift", "cut": "off"}
    whole = encode(recipe(**settings), messages, media, tokenizer)
    first = int(whole.supervised[0][0])
    kept = set()
    for length in range(first + 1, whole.size.text_tokens + 1):
        row = encode(recipe(**settings, max_length=length), messages, media, tokenizer)
        assert row.size.text_tokens <= length
        assert row.input_ids.tolist() == whole.input_ids[: row.size.text_tokens].tolist()
        assert [view.medium for view in row.visuals] == [0, 1, 1, 1][: row.image_units]
        owl3(layout).check_offsets(collated(make(layout), [row]), row.image_units)
        kept.add(row.image_units)
    assert kept == {1, 4}


def test_a_sample_without_an_answer_is_refused() -> None:
    """Nothing but a question has nothing to learn."""
    with pytest.raises(SampleError) as caught:
        encode(recipe(chat="swift"), talk("Q"), [], Characters())
    assert caught.value.reason == "no_supervised_tokens"
