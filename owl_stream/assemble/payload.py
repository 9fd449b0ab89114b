"""The bytes of a batch frame before there are any: where each tensor will lie, and how long a header may get."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.config import Recipe
from owl_stream.layouts import get_layout
from owl_stream.wire import SchemaEntry, TensorSpec, lay_out

PIXELS = "pixel_values"

MAX_REASON_BYTES = 1024
"""Of one row in the header; longer reasons are cut. The quarantine and the log have the whole text."""

MAX_KEY_BYTES = 4096
"""Of a sample's key: shards refuse members of longer names."""

_FIXED_BYTES, _ROW_BYTES = 4096, 256
"""What a header holds beside the texts of its rows, and what a row holds beside its texts: names, numbers, tags."""


def lay_out_payload(
    recipe: Recipe, row_lengths: Sequence[int], crops: Sequence[int]
) -> tuple[tuple[TensorSpec, ...], int]:
    """Specs of a batch's tensors and the payload's length in bytes.

    The layout's text tensors come first, then `pixel_values`: uint8 [crops, 3, S, S], absent when there are no crops.
    """
    tensors = [(t.name, t.dtype, t.shape) for t in get_layout(recipe.layout).tensors(row_lengths, crops)]
    if sum(crops):
        tensors.append((PIXELS, "uint8", (sum(crops), 3, recipe.image_size, recipe.image_size)))
    return lay_out(tensors)


def header_bound(text_bytes: Sequence[int]) -> int:
    """Bytes that surely hold a batch header whose rows have names (shard, key, replaces) of these lengths."""
    return _FIXED_BYTES + sum(_ROW_BYTES + names + MAX_REASON_BYTES for names in text_bytes)


def schema(recipe: Recipe) -> tuple[SchemaEntry, ...]:
    """The tensors that batches of this recipe may hold: B rows, L tokens of the longest row, C crops."""
    # A layout tells shapes for given sizes only: sizes that no fixed dimension has, so that they can be told apart.
    letters: dict[int, str] = {101: "B", 103: "L", 107: "C"}
    rows, length, crops = letters
    shapes = get_layout(recipe.layout).tensors([length] * rows, [crops] + [0] * (rows - 1))
    text = [SchemaEntry(t.name, t.dtype, tuple(letters.get(n, n) for n in t.shape)) for t in shapes]
    return (*text, SchemaEntry(PIXELS, "uint8", ("C", 3, recipe.image_size, recipe.image_size)))
