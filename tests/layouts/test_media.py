"""Conversations that do not fit their media, or are none."""

from __future__ import annotations

import pytest

from owl_stream.errors import SampleError
from owl_stream.layouts import Image, Video
from owl_stream.layouts.types import Medium
from tests.layouts.characters import Characters, Say, encode, recipe, talk

IMAGE = Image(40, 30)
VIDEO = Video((IMAGE, IMAGE))


def _refused(messages: list[Say], media: list[Medium]) -> SampleError:
    errors = []
    for layout in ("owl3-240728", "owl3-241101"):
        with pytest.raises(SampleError) as caught:
            encode(recipe(layout=layout), messages, media, Characters())
        errors.append(caught.value)
    assert errors[0].reason == errors[1].reason
    return errors[0]


@pytest.mark.parametrize(
    ("markers", "reason", "detail"),
    [
        ("", "image_count", "the text has 0 <|image|>, the record has media for 2"),
        ("<|image|>", "image_count", "the text has 1 <|image|>, the record has media for 2"),
        ("<|image|><|image|><|image|>", "image_count", "the text has 3 <|image|>, the record has media for 2"),
        ("<|image|><|image|><|video|>", "video_count", "the text has 1 <|video|>, the record has media for 0"),
    ],
)
def test_fault_74_markers_must_be_the_media(markers: str, reason: str, detail: str) -> None:
    """Fault 74: more or fewer markers than media are refused, and the message has both numbers."""
    error = _refused(talk(markers, "A"), [IMAGE, IMAGE])
    assert (error.reason, error.detail) == (reason, detail)


def test_fault_74_an_image_does_not_stand_for_a_video() -> None:
    """Fault 74: kinds must match one by one, in the order of appearance."""
    error = _refused(talk("<|video|><|image|>", "A"), [IMAGE, VIDEO])
    assert error.reason == "media_order"
    assert error.detail == "medium 0: the text has <|video|>, the medium is one for <|image|>"


@pytest.mark.parametrize("marker", ["<|image|>", "<|video|>"])
def test_fault_75_media_stand_in_user_turns_only(marker: str) -> None:
    """Fault 75: a marker in an assistant or system turn is refused, even where the count would fit."""
    medium: Medium = IMAGE if marker == "<|image|>" else VIDEO
    in_answer = _refused(talk("Q", f"A {marker}"), [medium])
    in_system = _refused(talk("Q", "A", system=f"S{marker}"), [medium])
    assert (in_answer.reason, in_system.reason) == ("marker_role", "marker_role")
    assert (
        f"message 1 (assistant): expected media only in turns of users and tools, got {marker} at character 2"
        in str(in_answer)
    )


def test_fault_77_an_empty_conversation_is_refused() -> None:
    """Fault 77: nothing was said."""
    assert _refused([], []).reason == "record_empty"


def test_fault_78_a_conversation_without_an_answer_is_refused() -> None:
    """Fault 78: without an assistant turn there is nothing to learn."""
    assert _refused(talk("Q"), []).reason == "no_supervised_tokens"


def test_roles_are_the_three_of_chatml() -> None:
    """Another role, or a system turn that is not the first, has no place in the text."""
    assert _refused([Say("speaker", "x")], []).reason == "record_role"
    assert _refused([*talk("Q", "A"), Say("system", "S")], []).reason == "record_order"


def test_media_have_pixels() -> None:
    """A video without frames and a picture without area are refused before anything divides by them."""
    assert _refused(talk("<|video|>", "A"), [Video(())]).reason == "video_empty"
    assert _refused(talk("<|image|>", "A"), [Image(0, 5)]).reason == "image_size"
