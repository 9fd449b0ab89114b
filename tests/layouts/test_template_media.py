"""Where a chat template put the media, told from what a conversation's texts spell out."""

from __future__ import annotations

import pytest

from owl_stream.layouts.template import ChatMessage, MediumPlace
from tests.layouts.chats import CALL, QWEN, refused, say, talk, template


def test_media_are_found_where_the_template_put_them() -> None:
    """Ranges and kinds in the text's order, also where a template moves images to the front."""
    messages = [say("user", "a", "<video>", "<image>"), say("user", "<image>")]
    chat = template("qwen2_5_vl").render(messages, placeholders=QWEN)
    first = chat.text.index("<|video_pad|>")
    assert chat.media[0] == MediumPlace("video", first, first + 13)
    assert [chat.text[begin:end] for _, begin, end in chat.media] == ["<|video_pad|>", "<|image_pad|>", "<|image_pad|>"]
    llava = template("llava").render([say("user", "a", "<image>", "b", "<image>")], placeholders={"image": "<image>"})
    assert llava.text == "USER: <image>\n<image>\na b "
    assert llava.media == (MediumPlace("image", 6, 13), MediumPlace("image", 14, 21))


def test_a_conversation_without_media_has_no_places() -> None:
    """Nor one for which nobody asks."""
    assert template("llava").render(talk("a", "b"), placeholders={"image": "<image>"}).media == ()
    assert template("llava").render(talk("a", "b"), placeholders={}).media == ()
    assert template("llava").render([say("user", "<image>")]).media == ()


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        (talk("see <|image_pad|>", "A"), "message 0 (user)"),
        ([say("user", "<image>", "see"), say("assistant", "an <|video_pad|>")], "message 1 (assistant)"),
        ([say("user", "<image>", "<|image_", "pad|>")], "message 0 (user)"),
        ([say("system", "<image>"), say("user", "<|image_", "<video>", "pad|>")], "message 1 (user)"),
        (
            [
                *talk("a"),
                say("assistant", tool_calls=[{**CALL, "function": {"name": "<|image_pad|>", "arguments": ""}}]),
            ],
            "the conversation",
        ),
    ],
    ids=["text", "other kind", "in pieces", "for one that was left out", "call"],
)
def test_a_placeholder_that_is_spelt_out_is_never_taken_for_a_medium(messages: list[ChatMessage], place: str) -> None:
    """Not even where the template left out an image, so that the count is right."""
    error = refused(template("qwen3_vl"), messages, placeholders=QWEN)
    assert error.reason == "template_placeholder"
    assert error.detail.startswith(f"{place}: its text spells out '<|")


def test_a_medium_without_a_place_is_refused() -> None:
    """An image in a turn whose media the template leaves out, and a kind that the model has not."""
    error = refused(template("qwen3_vl"), [say("system", "<image>"), *talk("a", "b")], placeholders=QWEN)
    assert error.reason == "template_media"
    assert error.detail == "expected a placeholder for each image (1), the chat template wrote 0"
    error = refused(template("llava"), [say("user", "<video>", "a")], placeholders={"image": "<image>"})
    assert error.detail == "expected a placeholder for each video (1), the chat template wrote 0"
