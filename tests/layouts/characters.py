"""Tokenizers small enough to think with: one token per character, so that a position is a character."""

from __future__ import annotations

import re
from dataclasses import dataclass

from owl_stream.config import Recipe
from owl_stream.layouts import Tokens

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


def recipe(**changes: object) -> Recipe:
    """A recipe with the defaults of the configuration, changed as asked."""
    settings: dict[str, object] = {
        "layout": "owl3-240728",
        "tokenizer": "",
        "image_size": 384,
        "cut": "single",
        "resize": "pillow",
        "max_length": 4096,
        "on_too_long": "truncate",
        "max_image_pixels": 100_000_000,
    }
    return Recipe(**{**settings, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Say:
    """A turn."""

    role: str
    content: str
    learned: bool = True


def talk(*contents: str, system: str | None = None) -> list[Say]:
    """User and assistant by turns."""
    turns = [Say(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return turns if system is None else [Say("system", system), *turns]
