"""Layouts that are not ours: whatever is wrong with one is told in a line that names it, and is not taken for ours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owl_stream.errors import ConfigError, OwlStreamError
from owl_stream.layouts.registry import LAYOUT_NAMES
from owl_stream.layouts.types import Layout, SpecialTokens
from owl_stream.shards import RowSize
from owl_stream.wire import DTYPES, SchemaEntry


@contextmanager
def named(layout: str, member: str) -> Iterator[None]:
    """Give an exception of a member of a layout that is not ours its name, and the line that raised it.

    Raises:
        ConfigError: instead of any error that is not one of ours.
    """
    try:
        yield
    except (OwlStreamError, MemoryError):
        raise
    except Exception as exc:
        if layout in LAYOUT_NAMES:
            raise
        last = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise ConfigError(f"`layout`: {layout}: `{member}` fails ({where}): {type(exc).__name__}: {exc}") from exc


def check_made(name: str, layout: Layout) -> None:
    """Refuse a layout whose members are not what `Layout` says, as far as can be told without a sample.

    Raises:
        ConfigError: naming the member, what was expected and what was got.
    """
    if not isinstance(tokens := getattr(layout, "tokens", None), SpecialTokens):
        raise _wrong(name, "tokens", "SpecialTokens", tokens)
    schema = getattr(layout, "schema", None)
    if not isinstance(schema, tuple) or not all(isinstance(entry, SchemaEntry) for entry in schema):
        raise _wrong(name, "schema", "a tuple of `tensor(...)` and `drawn(...)`", schema)
    letters = {dim for entry in schema for dim in entry.dims if isinstance(dim, str)}
    with named(name, "lengths"):
        known = layout.lengths([RowSize(1, 1)])
    for entry in schema:
        if entry.dtype not in DTYPES:
            raise _wrong(name, f"schema: {entry.name}", f"a dtype of {', '.join(DTYPES)}", entry.dtype)
    if missing := sorted(letters - {*known}):
        raise _wrong(name, "lengths", f"a number for each letter of `schema`, {missing[0]} too", known)


def _wrong(name: str, member: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"`layout`: {name}: `{member}`: expected {expected}, got {got!r:.80}; see layouts.md")
