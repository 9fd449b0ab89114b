"""Choices of a configuration -> a layout's settings: what is not offered, or not allowed, is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from owl_stream.errors import ConfigError
from owl_stream.layouts.types import Choices


class number(NamedTuple):  # noqa: N801 # it reads as a word in a table of choices
    """A whole number within bounds."""

    least: int
    most: int


Allowed = number | tuple[str, ...]
"""What a key may be: a number within bounds, or one of some words."""


def settle_vision(given: Mapping[str, Any], offered: Mapping[str, tuple[Allowed, Any]]) -> dict[str, Any]:
    """The value of every key that a layout offers under `vision:`: the one given, else the default.

    `offered`: what each key may be, and its default.

    Raises:
        ConfigError: naming the key, what was expected and what was got.
    """
    for key in given:
        if key not in offered:
            near = difflib.get_close_matches(str(key), offered, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(offered) or 'none'}"
            raise ConfigError(f"unknown key `vision.{key}`; {hint}")
    return {
        key: default if given.get(key) is None else _allowed(f"vision.{key}", given[key], allowed)
        for key, (allowed, default) in offered.items()
    }


def choice(key: str, value: object, words: tuple[str, ...]) -> str:
    """One of some words.

    Raises:
        ConfigError: it is none of them.
    """
    if isinstance(value, bool) and (word := "on" if value else "off") in words:
        return word  # so YAML reads it
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"`{key}`: expected {' or '.join(words)}, got {value!r:.80}")
    return value


def _allowed(key: str, value: object, allowed: Allowed) -> Any:
    if not isinstance(allowed, number):
        return choice(key, value, allowed)
    if not isinstance(value, int) or isinstance(value, bool) or not allowed.least <= value <= allowed.most:
        raise ConfigError(f"`{key}`: expected a whole number from {allowed.least} to {allowed.most}, got {value!r:.80}")
    return value


def refuse(choices: Choices, layout: str, *keys: str) -> None:
    """Refuse choices that have no meaning for a layout.

    Raises:
        ConfigError: one was made.
    """
    for key in keys:
        if getattr(choices, key) is not None:
            raise ConfigError(f"`{key}`: layout {layout} has none: leave it out")
