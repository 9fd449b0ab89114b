"""Conversations, chat templates, and what transformers makes of both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from owl_stream.errors import SampleError
from owl_stream.layouts.template import ChatMessage, ChatTemplate, Part, RenderedChat

TOKENS = {"bos_token": "<bos>", "eos_token": "</s>"}
QWEN: Any = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
CALL = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"at": "<ä> & \u2028"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look <there> & say", "parameters": {}}}


class Kind(NamedTuple):
    """A template's file, which roles it takes as lists (the others as text), and what conversations it allows.

    `thinks`: it writes the thoughts of answers.
    """

    name: str
    lists: tuple[str, ...] = ("system", "user", "assistant", "tool")
    alternating: bool = False
    marked: bool = False
    thinks: bool = False


KINDS = (
    Kind("qwen2_5_vl"),
    Kind("qwen3_vl"),
    Kind("gemma3", alternating=True),
    Kind("internvl"),
    Kind("llava_next"),
    Kind("chatml", lists=()),
    Kind("plain_answers", lists=("user",)),
    Kind("marked", marked=True, thinks=True),
    Kind("llava", marked=True),
)


@cache
def source(name: str) -> str:
    """A template's text, without the end of line that editors put behind it."""
    path = Path(__file__).parent / "templates" / f"{name}.jinja"
    return path.read_text(encoding="utf-8").removesuffix("\n")


@cache
def template(name: str) -> ChatTemplate:
    """A template with the special tokens of a model."""
    return ChatTemplate(source(name), TOKENS, None)


def bare(jinja: str, today: str | None = None) -> ChatTemplate:
    """A template without variables."""
    return ChatTemplate(jinja, {}, today)


def each(body: str) -> str:
    """Jinja that writes `body` for every turn, which is `message`."""
    return "{% for message in messages %}" + body + "{% endfor %}"


def mark(body: str) -> str:
    """Jinja that marks what `body` writes."""
    return "{% generation %}" + body + "{% endgeneration %}"


EVERY = each("{{ message.content }}")
"""The least template: it writes the texts."""


def say(role: str, *pieces: str, learned: bool = True, **extra: object) -> ChatMessage:
    """A turn; `<image>` and `<video>` are media."""
    kinds: dict[str, Literal["image", "video"]] = {"<image>": "image", "<video>": "video"}
    parts = tuple(Part(kinds[piece]) if piece in kinds else Part("text", piece) for piece in pieces)
    return ChatMessage(role, parts, learned, extra)


def talk(*texts: str) -> list[ChatMessage]:
    """User and assistant by turns."""
    return [say(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]


def as_released(messages: Sequence[ChatMessage], lists: Sequence[str]) -> list[dict[str, Any]]:
    """The messages as users of transformers write them; `lists`: the roles whose content is a list."""
    out = []
    for message in messages:
        parts = [{"type": "text", "text": p.text} if p.kind == "text" else {"type": p.kind} for p in message.parts]
        content = parts if message.role in lists else "".join(p.text for p in message.parts)
        out.append({"role": message.role, "content": content, **message.extra})
    return out


def released(jinja: str, messages: list[dict[str, Any]], *, prompt: bool = False, **more: Any) -> str:
    """The text that transformers makes."""
    given: dict[str, Any] = {**TOKENS, **more}
    texts, _ = render_jinja_template([messages], chat_template=jinja, add_generation_prompt=prompt, **given)
    return str(texts[0])


def released_marks(jinja: str, messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The ranges that transformers takes as generated."""
    given: dict[str, Any] = {**TOKENS, "return_assistant_tokens_mask": True}
    _, marks = render_jinja_template([messages], chat_template=jinja, **given)
    return list(marks[0])


def learned(chat: RenderedChat) -> list[str]:
    """What is learned."""
    return [chat.text[begin:end] for begin, end in chat.learned]


def refused(chat_template: ChatTemplate, messages: Sequence[ChatMessage], **more: Any) -> SampleError:
    """The error that rendering ends in."""
    with pytest.raises(SampleError) as caught:
        chat_template.render(messages, **more)
    return caught.value
