"""The tensors of text that every layout has: `input_ids`, `labels`, `attention_mask`, padded on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError
from owl_stream.layouts.types import EncodedRow, tensor

TEXT_TENSORS = tuple(tensor(name, "int64", "B", "L") for name in ("input_ids", "labels", "attention_mask"))


def collate_text(rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Write the rows' ids, labels and mask; behind a row's end are `pad_id`, -100 and 0."""
    for b, row in enumerate(rows):
        length = len(row.input_ids)
        for name, values, padding in (("input_ids", row.input_ids, pad_id), ("attention_mask", 1, 0)):
            out[name][b, :length] = values
            out[name][b, length:] = padding
        row.write_labels(out["labels"][b])


def attended_lengths(attention_mask: Any) -> list[int]:
    """How many tokens of each row are attended, of a mask [B, L] that is padded on the right.

    Raises:
        ContractError: a row is padded otherwise, or has nothing to attend to.
    """
    mask = np.asarray(attention_mask) != 0
    lengths = np.count_nonzero(mask, axis=1)
    wrong = np.flatnonzero((mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1) | (lengths == 0))
    if wrong.size:
        row = int(wrong[0])
        at = int(np.flatnonzero(mask[row] != (np.arange(mask.shape[1]) < max(lengths[row], 1)))[0])
        raise ContractError(
            f"attention_mask, row {row}, token {at}: expected ones and then zeros: padding on the right, got "
            f"{np.asarray(attention_mask)[row, at]}"
        )
    found: list[int] = lengths.tolist()
    return found
