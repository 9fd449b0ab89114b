"""Where media stand in a conversation, and what no layout can make a row of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from owl_stream.errors import SampleError
from owl_stream.layouts.types import Chat, Image, Medium, Turn

IMAGE = "<|image|>"
VIDEO = "<|video|>"
MARKER = re.compile(r"<\|image\|>|<\|video\|>")

ROLES = ("system", "user", "assistant", "tool")
WITH_MEDIA = ("user", "tool")


def check_conversation(chat: Chat, media: Sequence[Medium], *, templated: bool = False) -> None:
    """Refuse a conversation that no chat text can be made of, or whose markers are not its media.

    `templated`: a chat template writes it, so it may have tools, calls, results and thoughts. Otherwise it may not.

    The record reader refuses most of the rest first; the reasons are its words, so that a fault is counted as one.

    Raises:
        SampleError: `record_empty`, `record_role`, `record_order`, `marker_role`, `image_count`, `video_count`,
            `media_order`, `video_empty`, `image_size`; unless `templated`, `tools_unsupported`, `thinking_unsupported`.
    """
    if not chat.turns:
        raise SampleError("record_empty", "expected at least one message, got none")
    if not templated:
        _check_plain(chat)
    for position, turn in enumerate(chat.turns):
        _check_turn(position, turn)
    for index, medium in enumerate(media):
        _check_medium(index, medium)
    expected = [marker for turn in chat.turns if turn.role in WITH_MEDIA for marker in MARKER.findall(turn.content)]
    got = [IMAGE if isinstance(medium, Image) else VIDEO for medium in media]
    _check_markers(expected, got)


def _check_plain(chat: Chat) -> None:
    remedy = "this layout has no chat template that writes it; write what is to be learned as plain turns"
    if chat.tools:
        raise SampleError("tools_unsupported", f"expected no `tools`, got {len(chat.tools)}: {remedy}")
    for position, turn in enumerate(chat.turns):
        where = f"message {position} ({turn.role})"
        if turn.role == "tool":
            raise SampleError("tools_unsupported", f"{where}: expected no turn of a tool: {remedy}")
        if turn.calls:
            raise SampleError("tools_unsupported", f"{where}: expected no `tool_calls`: {remedy}")
        if turn.reasoning:
            raise SampleError("thinking_unsupported", f"{where}: expected no `reasoning_content`: {remedy}")


def _check_turn(position: int, turn: Turn) -> None:
    if turn.role not in ROLES:
        raise SampleError("record_role", f"message {position}: expected role {', '.join(ROLES)}, got {turn.role!r}")
    if turn.role == "system" and position:
        raise SampleError("record_order", f"message {position}: expected role system only first")
    if turn.role not in WITH_MEDIA and (found := MARKER.search(turn.content)):
        raise SampleError(
            "marker_role",
            f"message {position} ({turn.role}): expected media only in turns of users and tools, got {found.group()} "
            f"at character {found.start()}",
        )


def _check_medium(index: int, medium: Medium) -> None:
    pictures = (medium,) if isinstance(medium, Image) else medium.frames
    if not pictures:
        raise SampleError("video_empty", f"medium {index}: expected a video of at least one frame, got none")
    for picture in pictures:
        if picture.width < 1 or picture.height < 1:
            raise SampleError(
                "image_size",
                f"medium {index}: expected at least 1x1 pixels, got {picture.width}x{picture.height}",
            )


def _check_markers(expected: Sequence[str], got: Sequence[str]) -> None:
    for marker, reason in ((IMAGE, "image_count"), (VIDEO, "video_count")):
        if expected.count(marker) != got.count(marker):
            raise SampleError(
                reason, f"the text has {expected.count(marker)} {marker}, the record has media for {got.count(marker)}"
            )
    for index, (marker, medium) in enumerate(zip(expected, got, strict=True)):
        if marker != medium:
            raise SampleError("media_order", f"medium {index}: the text has {marker}, the medium is one for {medium}")
