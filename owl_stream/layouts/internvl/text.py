"""What replaces an image or a video in InternVL's text.

Source: `InternVLProcessor.replace_image_token` and `replace_video_token` of transformers 5.23. There a picture's marker
in the text is the context token itself, and a video's is `<video>`.
"""

from __future__ import annotations

from typing import NamedTuple

from owl_stream.layouts.placeholders import Replacement


class ImageTokens(NamedTuple):
    """Names of tokens, as the model's tokenizer has them: `start_image_token` and so on."""

    start: str = "<img>"
    end: str = "</img>"
    context: str = "<IMG_CONTEXT>"


def image_text(tiles: int, tokens_per_tile: int, names: ImageTokens) -> Replacement:
    """The text of a picture: one run for all its tiles together, the thumbnail's included."""
    return Replacement(f"{names.start}{names.context}{names.end}", (tiles * tokens_per_tile,))


def video_text(frames: int, tokens_per_tile: int, names: ImageTokens) -> Replacement:
    """The text of a video: a line for each frame, which is one tile. Frames count from 1 in each video."""
    frame = f"{names.start}{names.context}{names.end}"
    lines = [f"Frame{number}: {frame}" for number in range(1, frames + 1)]
    return Replacement("\n".join(lines), (tokens_per_tile,) * frames)
