"""The contract check of `media_offset`, for those who have a batch of their own."""

from __future__ import annotations

from typing import Any

from owl_stream.errors import ConfigError
from owl_stream.layouts.owl3.offsets import OffsetReport, check_counts, check_positions
from owl_stream.layouts.owl3.release_240728 import Owl3Layout240728
from owl_stream.layouts.owl3.release_241101 import Owl3Layout241101


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
        ConfigError: no layout of mPLUG-Owl3.
    """
    if layout == Owl3Layout240728.name:
        return check_counts(media_offset, crops, attention_mask)
    if layout == Owl3Layout241101.name:
        return check_positions(media_offset, crops, lengths, attention_mask)
    raise ConfigError(f"`layout`: expected {Owl3Layout240728.name} or {Owl3Layout241101.name}, got {layout!r:.80}")
