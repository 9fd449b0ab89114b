"""The markers of the usual tools mean media where a record has media; where it has none they are no text by chance.

Faults 97, 98 and 99 of docs/faults.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from owl_stream.records import RecordOptions
from tests.records.both import asked, detail, in_shard, messages, packed, reason, turns_of


@pytest.mark.parametrize("marker", ["<image>", "<|image|>"])
def test_markers_of_every_tool_mean_images_in_every_form(marker: str, tmp_path: Path) -> None:
    """In `messages` too."""
    record = asked(f"{marker}What?", images=["0.jpg"])
    assert turns_of(in_shard(record, 1))[0] == ("user", "<|image|>What?")
    assert turns_of(packed(record, tmp_path))[0] == ("user", "<|image|>What?")


@pytest.mark.parametrize("marker", ["<image>", "<video>", "<|image|>", "<|video|>"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_marker_without_media_is_an_error_that_says_how_to_write_it(marker: str, role: str, tmp_path: Path) -> None:
    """A literal marker is never learned by chance."""
    turns = [("system", "s"), ("user", "a"), ("assistant", "b")]
    record = messages(*[(who, f"{text} {marker}" if who == role else text) for who, text in turns])
    assert reason(record) in ("image_count", "video_count", "marker_role")
    assert packed(record, tmp_path) == reason(record)
    said = detail(record)
    assert ("literal_markers" in said) == (marker in ("<image>", "<video>"))
    assert ("spell it otherwise" in said) == (marker in ("<|image|>", "<|video|>"))


def test_html_of_text_only_records_is_text(tmp_path: Path) -> None:
    """Tags with attributes are no markers; a bare tag is text where the record says so."""
    html = "Write <video src=x></video> or <image src=y/>."
    assert turns_of(in_shard(asked("How?", html)))[1] == ("assistant", html)
    bare = asked("What is <image>?", "<video><source src=x></video>", literal_markers=True)
    spoken = [("user", "What is <image>?"), ("assistant", "<video><source src=x></video>")]
    assert turns_of(in_shard(bare)) == spoken
    assert turns_of(packed(bare, tmp_path)) == spoken
    whole = RecordOptions(literal_markers=True)
    assert turns_of(in_shard(asked("What is <image>?"), options=whole))[0] == spoken[0]
    assert reason(asked("a", literal_markers="yes")) == "record_type"


def test_literal_markers_beside_media_leave_ours(tmp_path: Path) -> None:
    """`<image>` is text then, and `<|image|>` is the image."""
    record = asked("<|image|> Is this an <image> tag?", "An <image> tag.", literal_markers=True, images=["0.jpg"])
    spoken = [("user", "<|image|> Is this an <image> tag?"), ("assistant", "An <image> tag.")]
    assert turns_of(in_shard(record, 1)) == spoken
    assert turns_of(packed(record, tmp_path)) == spoken


def test_images_that_nothing_marks_go_in_front_and_are_counted(tmp_path: Path) -> None:
    """Of the first user turn, behind a system turn; some marked and some not is an error."""
    record = messages(("system", "s"), ("user", "a"), ("assistant", "b"), images=["0.jpg", "1.jpg"])
    got = in_shard(record, 2)
    assert turns_of(got)[1] == ("user", "<|image|><|image|>a")
    assert got.notes == ("image_in_front",)
    assert turns_of(packed(record, tmp_path))[1] == ("user", "<|image|><|image|>a")
    assert reason(asked("<image>a"), 2) == "image_count"
    video = in_shard(asked("a", videos=[["0.jpg", "1.jpg"]]), 2)
    assert (turns_of(video)[0], video.notes) == (("user", "<|video|>a"), ("video_in_front",))


@pytest.mark.parametrize(
    "placeholder",
    [
        "<audio>",
        "<|audio|>",
        "<|image_pad|>",
        "<|vision_start|>",
        "<IMG_CONTEXT>",
        "<start_of_image>",
        "<|image_1|>",
        "<image1>",
        "<image 1>",
        "<img_2>",
        "<ImageHere>",
        "<|begin_of_image|>",
        "<im_start>",
        "[IMG]",
        "<|media_pad|>",
        "<image_pad>",
        "<|IMAGE|>",
        "<Image 1>",
        "<image_0001>",
        "Picture 1: <img>0.jpg</img>",
        "<image-placeholder>",
        "<ref-object>",
        "<bbox>",
    ],
)
@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_placeholders_that_nobody_fills_are_never_learned_as_text(placeholder: str, images: int, role: str) -> None:
    """Numbered markers, other processors' tokens, grounding."""
    record = asked(placeholder if role == "user" else "a", placeholder if role == "assistant" else "b")
    assert reason(record, images) == "marker_unknown"
    assert placeholder.removeprefix("Picture 1: ") in detail(record, images)
    literal = in_shard({**record, "literal_markers": True}, images)
    assert placeholder in turns_of(literal)[0 if role == "user" else 1][1]


def test_objects_without_placeholders_are_annotations_of_the_picture() -> None:
    """Nothing in the text refers to them."""
    assert in_shard(asked("<image>a", objects={"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}), 1).notes == ()


@pytest.mark.parametrize("marker", ["<Image>", "<IMAGE>", "<|Image|>", "</image>", "<image/>"])
def test_a_marker_in_other_letters_beside_an_image_is_refused(marker: str) -> None:
    """The image would go in front and the marker be learned; without media it is a tag of somebody's language."""
    assert reason(asked(f"{marker}a"), 1) == "marker_unknown"
    assert turns_of(in_shard(asked(f"Use {marker}.")))[0] == ("user", f"Use {marker}.")
