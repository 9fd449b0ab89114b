"""A layout that is not ours: how it is found, what it must have, and what tells one version of it from another."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import xxhash

from owl_stream.errors import ConfigError, FrameError, OwlStreamError
from owl_stream.layouts.types import Layout, SpecialTokens
from owl_stream.shards import RowSize
from owl_stream.wire import SchemaEntry, check_schema

GROUP = "owl_stream.layouts"
"""Under which packages enter their layouts: `[project.entry-points."owl_stream.layouts"]`."""

_MEMBERS = (
    "name",
    "released",
    "unit",
    "transparency",
    "settle",
    "encode",
    "filler",
    "lengths",
    "collate",
    "check",
    "targets",
    "most_target_pixels",
    "draw",
    "look",
)


def find_layout(name: str, ours: tuple[str, ...]) -> type[Layout]:
    """A layout by MODULE:CLASS, or one that a package has entered; `ours` are named where there is none.

    Raises:
        ConfigError: there is none, it cannot be imported, or it lacks a member.
    """
    if ":" in name:
        return _load(EntryPoint(name, name, GROUP))
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        installed = sorted(entry.name for entry in entry_points(group=GROUP))
        raise ConfigError(f"`layout`: expected {', '.join([*ours, *installed])}, or MODULE:CLASS, got {name!r:.80}")
    return _load(found[0])


def digest_source(layout: type[Layout]) -> str:
    """A digest of a layout's source: of all Python files of its package, or of its one module."""
    module = sys.modules[layout.__module__]
    file = Path(module.__file__ or "")
    top = importlib.import_module(module.__name__.partition(".")[0])
    files = sorted(Path(top.__path__[0]).rglob("*.py")) if hasattr(top, "__path__") else [file]
    digest = xxhash.xxh3_128()
    for each in files:
        digest.update(each.name.encode() + each.read_bytes())
    return digest.hexdigest()


class NamedLayout:
    """A layout that is not ours, whose failures have its name: see `named`."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._name, self._layout = name, layout

    def __getattr__(self, member: str) -> Any:
        value = getattr(self._layout, member)
        return partial(self._call, member, value) if callable(value) else value

    def _call(self, member: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with named(self._name, member):
            return function(*args, **options)


@contextmanager
def named(layout: str, member: str, *, own: bool = True) -> Iterator[None]:
    """Give an exception of a member of a layout that is not ours (`own`) its name, and the line that raised it.

    Raises:
        ConfigError: instead of any error that is not one of ours.
    """
    try:
        yield
    except (OwlStreamError, MemoryError):
        raise
    except Exception as exc:
        if not own:
            raise
        last = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise ConfigError(f"`layout`: {layout}: `{member}` fails ({where}): {type(exc).__name__}: {exc}") from exc


def check_own(layout: type[Layout], settings: object) -> None:
    """Refuse a layout whose settings, tokens, schema or lengths nobody could use, before anything is indexed.

    Raises:
        ConfigError: naming the member, what was expected and what was got.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise _wrong(layout, "settle", "a frozen dataclass", settings)
    try:
        json.dumps(dataclasses.asdict(settings))
    except (TypeError, ValueError) as exc:
        raise _wrong(layout, "settle", f"plain values in its dataclass ({exc})", settings) from exc
    with named(_name(layout), "__init__"):
        made = layout(settings)
    if not isinstance(getattr(made, "tokens", None), SpecialTokens):
        raise _wrong(layout, "tokens", "SpecialTokens", getattr(made, "tokens", None))
    _check_schema(layout, made)


def _check_schema(layout: type[Layout], made: Layout) -> None:
    schema = getattr(made, "schema", None)
    if not isinstance(schema, tuple) or not all(isinstance(entry, SchemaEntry) for entry in schema):
        raise _wrong(layout, "schema", "a tuple of tensor(...) and drawn(...)", schema)
    try:
        check_schema(schema)
    except FrameError as exc:
        raise ConfigError(f"`layout`: {_name(layout)}: {exc}; see layouts.md") from exc
    kinds = [entry.normalise is not None for entry in schema]
    if kinds != sorted(kinds):
        raise _wrong(layout, "schema", "tensors that are drawn behind all others", [entry.name for entry in schema])
    letters = {dim for entry in schema for dim in entry.dims if isinstance(dim, str)}
    with named(_name(layout), "lengths"):
        lengths = made.lengths([RowSize(1, 0)])  # a text-only row
    if missing := sorted(letters - lengths.keys()):
        raise _wrong(layout, "lengths", f"a number for {', '.join(missing)}, as the schema has it", lengths)


def _load(entry: EntryPoint) -> type[Layout]:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as exc:  # whatever the module raises when it is imported
        raise ConfigError(f"`layout`: {entry.value}: cannot be imported: {type(exc).__name__}: {exc}") from exc
    missing = [member for member in _MEMBERS if not hasattr(loaded, member)]
    if missing:
        raise ConfigError(f"`layout`: {entry.value}: expected a layout class, which has `{missing[0]}`; see layouts.md")
    layout: type[Layout] = loaded
    return layout


def _wrong(layout: type[Layout], member: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"`layout`: {_name(layout)}: `{member}`: expected {expected}, got {got!r:.80}; see layouts.md")


def _name(layout: type[Layout]) -> str:
    return f"{layout.__module__}:{layout.__qualname__}"
