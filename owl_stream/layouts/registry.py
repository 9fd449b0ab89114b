"""Layouts by name."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import xxhash

from owl_stream.errors import ConfigError
from owl_stream.layouts.gemma3.layout import Gemma3Layout
from owl_stream.layouts.internvl.layout import InternVLLayout
from owl_stream.layouts.owl3 import Owl3Layout240728, Owl3Layout241101
from owl_stream.layouts.qwen.layout import Qwen2VLLayout, Qwen3VLLayout, Qwen25VLLayout, Qwen35Layout
from owl_stream.layouts.types import Layout
from owl_stream.models import ModelFiles

_ALL: tuple[type[Layout], ...] = (
    Owl3Layout240728,
    Owl3Layout241101,
    Qwen2VLLayout,
    Qwen25VLLayout,
    Qwen3VLLayout,
    Qwen35Layout,
    InternVLLayout,
    Gemma3Layout,
)
_LAYOUTS = {layout.name: layout for layout in _ALL}

_OF_MODEL_TYPE = {"qwen3_vl_moe": Qwen3VLLayout.name, "qwen3_5_moe": Qwen35Layout.name}
"""Layouts by `model_type` of config.json, where that is not the layout's own name."""

GROUP = "owl_stream.layouts"
"""Under which packages enter layouts of their own: `[project.entry-points."owl_stream.layouts"]`."""

_MEMBERS = (
    "name",
    "released",
    "unit",
    "transparency",
    "settle",
    "encode",
    "lengths",
    "collate",
    "check",
    "draw",
    "look",
)

LAYOUT_NAMES = tuple(_LAYOUTS)


def layout_of(model: ModelFiles) -> str:
    """The layout that a model is for, by its `model_type`.

    Raises:
        ConfigError: there is none.
    """
    name = _OF_MODEL_TYPE.get(model.model_type, model.model_type)
    if name not in _LAYOUTS:
        raise ConfigError(
            f"model {model.name}: config.json has `model_type` {model.model_type!r:.80}, for which there is no layout; "
            f"set `layout` to one of {', '.join(_LAYOUTS)}"
        )
    return name


def released_models() -> str:
    """Hub ids of the models that layouts were made for, in words."""
    return ", ".join(f"{layout.released} for {name}" for name, layout in _LAYOUTS.items())


def get_layout(name: str) -> type[Layout]:
    """The layout of that name: one of ours, one that a package has entered under `owl_stream.layouts`, or MODULE:CLASS.

    Raises:
        ConfigError: there is none, or it cannot be imported; the message lists those that there are.
    """
    if name in _LAYOUTS:
        return _LAYOUTS[name]
    if ":" in name:
        return _load(EntryPoint(name, name, GROUP))
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        installed = sorted(entry.name for entry in entry_points(group=GROUP))
        raise ConfigError(f"`layout`: expected {', '.join([*_LAYOUTS, *installed])}, or MODULE:CLASS, got {name!r:.80}")
    return _load(found[0])


def source_digest(name: str) -> str:
    """A digest of the source of a layout that is not ours; empty for one of ours.

    All Python files of its package count, or its one module.
    """
    if name in _LAYOUTS:
        return ""
    module = sys.modules[get_layout(name).__module__]
    file = Path(module.__file__ or "")
    top = importlib.import_module(module.__name__.partition(".")[0])
    files = sorted(Path(top.__path__[0]).rglob("*.py")) if hasattr(top, "__path__") else [file]
    digest = xxhash.xxh3_128()
    for each in files:
        digest.update(each.name.encode() + each.read_bytes())
    return digest.hexdigest()


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
