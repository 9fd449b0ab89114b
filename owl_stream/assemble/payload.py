"""The bytes of a batch frame before there are any: where each tensor will lie, and how long a header may get."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.layouts import Layout
from owl_stream.shards import RowSize
from owl_stream.wire import TensorSpec, lay_out

MAX_REASON_BYTES = 1024
"""Of one row in the header; longer reasons are cut. The quarantine and the log have the whole text."""

MAX_KEY_BYTES = 4096
"""Of a sample's key: shards refuse members of longer names."""

_FIXED_BYTES, _ROW_BYTES = 4096, 256
"""What a header holds beside the texts of its rows, and what a row holds beside its texts: names, numbers, tags."""


def lay_out_payload(layout: Layout, sizes: Sequence[RowSize]) -> tuple[tuple[TensorSpec, ...], int]:
    """Specs of a batch's tensors, in the order of the layout's schema, and the payload's length in bytes."""
    lengths = layout.lengths(sizes)
    tensors = []
    for entry in layout.schema:
        if entry.optional and any(lengths[dim] == 0 for dim in entry.dims if isinstance(dim, str)):
            continue
        shape = tuple(lengths[dim] if isinstance(dim, str) else dim for dim in entry.dims)
        tensors.append((entry.name, entry.dtype, shape))
    return lay_out(tensors)


def drawn_rows(layout: Layout, size: RowSize) -> dict[str, int]:
    """How many rows of each drawn tensor a row of that size fills."""
    lengths = layout.lengths([size])
    return {entry.name: lengths[str(entry.dims[0])] for entry in layout.schema if entry.normalise is not None}


def header_bound(text_bytes: Sequence[int]) -> int:
    """Bytes that surely hold a batch header whose rows have names (shard, key, replaces) of these lengths."""
    return _FIXED_BYTES + sum(_ROW_BYTES + names + MAX_REASON_BYTES for names in text_bytes)
