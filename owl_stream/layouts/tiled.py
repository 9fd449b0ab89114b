"""Families whose vision tower takes square pictures of one size, one after the other: `pixel_values` [U, 3, S, S]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError
from owl_stream.layouts.image_settings import Colours
from owl_stream.layouts.templated import TemplatedLayout, TextSettings, lengths_of
from owl_stream.layouts.text import TEXT_TENSORS, attended_lengths, collate_text
from owl_stream.layouts.types import BatchReport, EncodedRow, RowLook, Transparency, drawn
from owl_stream.shards import RowSize
from owl_stream.wire import SchemaEntry


class TiledLayout(TemplatedLayout):
    """A unit is one such picture, and has `unit_tokens` text tokens.

    `extra`: tensors of the family's own, between those of text and `pixel_values`.
    """

    pixels: ClassVar[str] = "pixel_values"
    transparency: ClassVar[Transparency] = "white"
    extra: ClassVar[tuple[SchemaEntry, ...]] = ()
    unit_tokens: int

    def __init__(self, text: TextSettings, side: int, colours: Colours) -> None:
        super().__init__(text)
        pixels = drawn(self.pixels, "U", 3, side, side, normalise=colours.normalise())
        self.schema: tuple[SchemaEntry, ...] = (*TEXT_TENSORS, *self.extra, pixels)

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """B rows, L tokens, U units."""
        return {**lengths_of(sizes), "U": sum(size.image_units for size in sizes)}

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`."""
        collate_text(rows, pad_id, out)

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`: placeholders of all rows together are as many as `pixel_values` needs, in whole units."""
        lengths = attended_lengths(tensors["attention_mask"])
        units = with_media = 0
        for b, (ids, length) in enumerate(zip(tensors["input_ids"], lengths, strict=True)):
            tokens = int(np.count_nonzero(np.isin(np.asarray(ids)[:length], self.placeholder_ids)))
            if tokens % self.unit_tokens:
                raise ContractError(
                    f"row {b}: expected placeholders in whole units of {self.unit_tokens}, got {tokens} of them"
                )
            units += tokens // self.unit_tokens
            with_media += tokens > 0
        drawn_units = 0 if (pixels := tensors.get(self.pixels)) is None else len(pixels)
        if units != drawn_units:
            raise ContractError(
                f"{self.pixels}: expected {units} pictures, as rows have placeholders, got {drawn_units}"
            )
        return BatchReport(with_media, len(lengths) - with_media, units)

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`: attention is causal, so a token sees the units that begin at it or before it."""
        looks, first = [], 0
        for ids in tensors["input_ids"]:
            places = np.flatnonzero(np.isin(ids, self.placeholder_ids))
            unit = np.full(len(ids), -1, dtype=np.int64)
            unit[places] = np.arange(len(places)) // self.unit_tokens
            sees = np.maximum.accumulate(unit) + 1
            count = len(places) // self.unit_tokens
            pictures = list(tensors[self.pixels][first : first + count].transpose(0, 2, 3, 1)) if count else []
            says = [self.says(place, int(number)) for place, number in enumerate(unit)]
            looks.append(RowLook(unit, sees, says, pictures))
            first += count
        return looks

    def says(self, place: int, unit: int) -> str:
        """What the tensors say of a token of a unit, or of text (-1)."""
        return f"position {place}" if unit < 0 else f"position {place}, unit {unit}"
