"""Tokenizers small enough to think with: one token per character, so that a position is a character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from owl_stream.assemble import Recipe
from owl_stream.layouts import Chat, Choices, EncodedRow, Layout, Medium, Tokenizer, Tokens, Turn, get_layout
from owl_stream.layouts.owl3 import Owl3Layout
from owl_stream.records import Message as Say

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Characters:
    """One token per character; special tokens, and whatever else `whole` lists, are one token each.

    `fused` lists texts that become one token where they stand within one chunk, as a merge of a real vocabulary would.
    """

    whole: tuple[str, ...] = SPECIAL
    fused: tuple[str, ...] = ()
    pad_id: int = 1_114_112

    def encode(self, text: str) -> Tokens:
        """Tokenise."""
        known = (*self.whole, *self.fused)
        found = list(re.finditer("|".join([*map(re.escape, known), "."]), text, re.DOTALL))
        ids = [self.pad_id + known.index(m.group()) if m.group() in known else ord(m.group()) for m in found]
        return Tokens(ids, [m.span() for m in found])


def recipe(*, layout: str = "owl3-240728", chat: str | None = None, **changes: Any) -> Recipe:
    """A recipe with the defaults of the configuration, changed as asked; `image_size` is 384, `cut` is `single`."""
    vision = {"image_size": changes.pop("image_size", 384), "cut": changes.pop("cut", "single")}
    settings: dict[str, Any] = {
        "settings": get_layout(layout).settle(Choices(vision, chat)),
        "tokenizer": "",
        "resize": "pillow",
        "max_length": 4096,
        "on_too_long": "truncate",
        "max_image_pixels": 100_000_000,
    }
    return Recipe(layout=layout, **{**settings, **changes})


def make(name: str) -> Layout:
    """A layout of which nothing is chosen."""
    layout = get_layout(name)
    return layout(layout.settle(Choices.none()))


def owl3(name: str, **vision: Any) -> Owl3Layout:
    """A layout of mPLUG-Owl3, with what is chosen about its pictures."""
    made = get_layout(name)(get_layout(name).settle(Choices(vision)))
    assert isinstance(made, Owl3Layout)
    return made


def encode(settings: Recipe, messages: Sequence[Turn], media: Sequence[Medium], tokenizer: Tokenizer) -> EncodedRow:
    """Encode a conversation by a recipe."""
    return settings.make_layout().encode(Chat(messages), media, tokenizer, settings.limit)


def talk(*contents: str, system: str | None = None) -> list[Say]:
    """User and assistant by turns."""
    turns = [Say(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return turns if system is None else [Say("system", system), *turns]
