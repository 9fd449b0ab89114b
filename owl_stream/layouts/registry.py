"""Layouts by name, and the contract check for those who have a batch but no layout object."""

from __future__ import annotations

from typing import Any

from owl_stream.errors import ConfigError
from owl_stream.layouts.owl3_240728 import Owl3Layout240728
from owl_stream.layouts.owl3_241101 import Owl3Layout241101
from owl_stream.layouts.types import Layout, OffsetReport

_LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (Owl3Layout240728(), Owl3Layout241101())}


def get_layout(name: str) -> Layout:
    """Return the layout of that name.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    if name not in _LAYOUTS:
        raise ConfigError(f"`layout`: expected {' or '.join(_LAYOUTS)}, got {name!r}")
    return _LAYOUTS[name]


def check_media_offset(
    media_offset: Any, *, layout: str, crops: int, lengths: Any = None, attention_mask: Any = None
) -> OffsetReport:
    """Hold a batch's `media_offset` against its layout's contract, before the model misreads it.

    Args:
        media_offset: `owl3-240728`: int64 [B, L, 2]. `owl3-241101`: flat int64 [crops] with `lengths`, or a sequence
            of B int64 arrays. Anything that `numpy.asarray` takes, a CPU tensor of torch too.
        layout: the layout's name.
        crops: how many crops `pixel_values` holds, 0 if there is none.
        lengths: int64 [B], crops per row; only for the flat form.
        attention_mask: [B, L] if given: padding and attended lengths are checked too.

    Raises:
        MediaOffsetError: naming row, position, expected and got.
        ConfigError: no such layout.
    """
    tensors = {"media_offset": media_offset, "media_offset_lengths": lengths, "attention_mask": attention_mask}
    return get_layout(layout).check(tensors, crops)
