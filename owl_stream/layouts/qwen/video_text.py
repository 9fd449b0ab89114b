"""A video as text, in Qwen3-VL and Qwen3.5: the second of each frame pair, and its placeholders.

    <0.3 seconds><|vision_start|><|video_pad|>...<|vision_end|><1.3 seconds><|vision_start|>...

The text has to be there before the row is tokenised: `<` may share a token with what stands before it. The other
families' videos are one run of `<|video_pad|>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"


def video_text(seconds: Sequence[float], tokens: int, start: str = START, pad: str = PAD, end: str = END) -> str:
    """Return the text of a video: `Qwen3VLProcessor.replace_video_token`.

    `seconds`: of each frame pair. `tokens`: of one frame pair. The markers may have other names in a tokenizer.
    """
    return "".join(f"<{second:.1f} seconds>{start}{pad * tokens}{end}" for second in seconds)


def replaced_span(
    text: str, at: int, release: Literal["v5", "v4"], start: str = START, pad: str = PAD, end: str = END
) -> tuple[int, int]:
    """Return which characters [begin, end) of a chat's text give way to a video's text, whose `pad` is at `at`.

    The chat templates write `start`, `pad`, `end`. transformers 5.x replaces the `pad` alone, so that the whole video
    stands within one more `start` and `end`; 4.57 replaced all three.
    """
    stop = at + len(pad)
    if release == "v4" and text.startswith(end, stop) and text.endswith(start, 0, at):
        return at - len(start), stop + len(end)
    return at, stop
