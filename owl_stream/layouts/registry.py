"""Layouts by name."""

from __future__ import annotations

from owl_stream.errors import ConfigError
from owl_stream.layouts.gemma3.layout import Gemma3Layout
from owl_stream.layouts.internvl.layout import InternVLLayout
from owl_stream.layouts.owl3 import Owl3Layout240728, Owl3Layout241101
from owl_stream.layouts.own import find_layout
from owl_stream.layouts.processor.layout import ProcessorLayout
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
    ProcessorLayout,
)
_LAYOUTS = {layout.name: layout for layout in _ALL}

_OF_MODEL_TYPE = {"qwen3_vl_moe": Qwen3VLLayout.name, "qwen3_5_moe": Qwen35Layout.name}
"""Layouts by `model_type` of config.json, where that is not the layout's own name."""

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
            "set `layout: processor` to run its own processor, or `layout` to one that fits: "
            f"{', '.join(name for name in _LAYOUTS if name != 'processor')}"
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
    return _LAYOUTS[name] if name in _LAYOUTS else find_layout(name, LAYOUT_NAMES)
