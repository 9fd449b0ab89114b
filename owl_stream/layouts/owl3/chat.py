"""Conversation -> tokens as the released processor has it: the ChatML text of mPLUG-Owl3, tokenised chunk by chunk.

Media prompts are put into the text *before* it is split at `<|image|>`, so the text of neighbouring prompts shares a
chunk and may share a token; hence groups are ranges that can overlap by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from owl_stream.layouts.conversation import MARKER
from owl_stream.layouts.owl3.chat_tokens import ChatTokens, ChatWriter
from owl_stream.layouts.owl3.media import split_at_images
from owl_stream.layouts.types import Tokenizer, Turn

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def encode_chat(messages: Sequence[Turn], prompts: Sequence[str], tokenizer: Tokenizer) -> ChatTokens:
    """Tokenise a checked conversation; `prompts` replace its media markers one by one."""
    writer, waiting = ChatWriter(tokenizer), iter(prompts)
    if messages[0].role != "system":
        writer.write(f"{START}system\n{END}")
    for turn in messages:
        if turn.role == "system":
            writer.write(f"{START}system\n{turn.content}{END}")
        elif turn.role == "user":
            text, spans = _with_prompts(f"\n{START}user\n{turn.content}{END}", waiting)
            writer.write_media(split_at_images(text), spans)
        else:
            writer.write(f"\n{START}assistant\n")
            writer.write(f"{turn.content}{END}", supervised=turn.learned)
            writer.write(END_OF_TEXT, supervised=turn.learned)
    return writer.finish()


def _with_prompts(text: str, prompts: Iterator[str]) -> tuple[str, list[tuple[int, int]]]:
    """Replace each media marker by the next prompt; also returns where each prompt lies in the new text."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = behind = 0
    for marker in MARKER.finditer(text):
        prompt = next(prompts)
        length += marker.start() - behind
        spans.append((length, length + len(prompt)))
        parts += [text[behind : marker.start()], prompt]
        length, behind = length + len(prompt), marker.end()
    return "".join([*parts, text[behind:]]), spans
