"""A turn's content as a list of typed parts, as transformers writes conversations."""

from __future__ import annotations

from typing import Any

import pytest

from owl_stream.errors import SampleError
from owl_stream.records import RecordOptions, read_conversation

OPTIONS = RecordOptions()


def of(content: object) -> dict[str, Any]:
    """A record whose question has that content."""
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "An owl."}]}


def test_parts_are_the_text_with_our_markers() -> None:
    """Texts and media in their order, for every role."""
    parts = [
        {"type": "text", "text": "Look: "},
        {"type": "image"},
        {"type": "text", "text": " and "},
        {"type": "video"},
    ]
    record = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": "An owl."}], "loss": False},
        ]
    }
    read = read_conversation(record, OPTIONS)
    assert [message.content for message in read.messages] == ["Be brief.", "Look: <|image|> and <|video|>", "An owl."]
    assert [message.learned for message in read.messages] == [True, True, False]


def test_no_parts_are_an_empty_text() -> None:
    """As a chat template has it."""
    assert read_conversation(of([]), OPTIONS).messages[0].content == ""


@pytest.mark.parametrize(
    ("part", "reason", "message"),
    [
        ("Look", "record_type", r"messages\[0\].content\[0\]: expected an object with `type`, got a string"),
        ({"text": "Look"}, "record_type", r"content\[0\].type: expected text, image, video, got 'None'"),
        ({"type": "audio"}, "record_type", "got 'audio'"),
        ({"type": ["text"], "text": "x"}, "record_type", "expected text, image, video"),
        ({"type": "text"}, "record_type", r"content\[0\].text: expected a string"),
        ({"type": "text", "text": 3}, "record_type", "expected a string"),
        ({"type": "image", "image": "0.jpg"}, "turn_media", "expected no `image`: list media in `images`"),
        ({"type": "image_url", "image_url": {"url": "http://x"}}, "record_type", "got 'image_url'"),
    ],
)
def test_a_part_that_cannot_be_honoured_is_refused(part: object, reason: str, message: str) -> None:
    """The error names the part, what was expected, and where media go."""
    with pytest.raises(SampleError, match=message) as caught:
        read_conversation(of([part]), OPTIONS)
    assert caught.value.reason == reason
