"""A batch of anybody's, held against what all layouts have in common: names, shapes, kinds of numbers, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError
from owl_stream.layouts.types import IGNORE
from owl_stream.wire import SchemaEntry


def check_tensors(batch: Mapping[str, Any], schema: Sequence[SchemaEntry], made_by_model: Sequence[str]) -> None:
    """Refuse a batch whose tensors do not have the shapes of `schema`, before anything reads them.

    Pixels may be as they are sent or as the client hands them out. `made_by_model`: what the model computes where a
    batch has none. Tensors that are handed out as one for each row are left to the layout.

    Raises:
        ContractError: naming the tensor, what was expected and what was got.
    """
    cut = {entry.lengths for entry in schema}
    letters: dict[str, int] = {}
    for entry in schema:
        if entry.name in cut:
            continue
        if batch.get(entry.name) is None:
            if not entry.optional and entry.name not in made_by_model:
                raise ContractError(f"{entry.name}: expected it in the batch, got {', '.join(batch)}")
        elif entry.lengths is None:
            _check_one(entry, batch[entry.name], letters)


def check_labels(batch: Mapping[str, Any]) -> None:
    """A label is the token at its own place, or -100: the model shifts them itself. None is learned from padding.

    Raises:
        ContractError: naming row, token, expected and got.
    """
    ids, labels, mask = (np.asarray(batch[name]) for name in ("input_ids", "labels", "attention_mask"))
    wrong = np.argwhere((labels != IGNORE) & ((labels != ids) | (mask == 0)))
    if len(wrong):
        b, at = wrong[0].tolist()
        token = f"{IGNORE} or {ids[b, at]}, the token itself (the model shifts labels)"
        expected = token if mask[b, at] else f"{IGNORE}, as nothing is attended there"
        raise ContractError(f"labels, row {b}, token {at}: expected {expected}, got {labels[b, at]}")


def _check_one(entry: SchemaEntry, value: Any, letters: dict[str, int]) -> None:
    shape = tuple(value.shape) if hasattr(value, "shape") else _array(entry.name, value).shape
    allowed = list(_shapes(entry))
    if not any(_fits(shape, dims, letters) for dims in allowed):
        words = " or ".join(f"[{', '.join(str(letters.get(str(dim), dim)) for dim in dims)}]" for dims in allowed)
        raise ContractError(f"{entry.name}: expected shape {words}, got {list(shape)}")
    if entry.normalise is None and "int" in entry.dtype and _array(entry.name, value).dtype.kind not in "iub":
        raise ContractError(f"{entry.name}: expected whole numbers, got {_array(entry.name, value).dtype}")


def _shapes(entry: SchemaEntry) -> Iterator[tuple[str | int, ...]]:
    """As it is sent; as it is handed out, where that differs."""
    dims, way = entry.dims, entry.normalise
    yield dims
    if way is not None:
        done = (*dims[: way.axis + 1], *([way.repeat] if way.repeat > 1 else []), *dims[way.axis + 1 :])
        if way.flatten:
            done = (done[0], int(np.prod([int(dim) for dim in done[1:]])))
        if done != dims:
            yield done


def _fits(shape: tuple[int, ...], dims: tuple[str | int, ...], letters: dict[str, int]) -> bool:
    if len(shape) != len(dims) or any(
        isinstance(dim, int) and dim != side for dim, side in zip(dims, shape, strict=True)
    ):
        return False
    return all(
        letters.setdefault(dim, side) == side for dim, side in zip(dims, shape, strict=True) if isinstance(dim, str)
    )


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ContractError(f"{name}: expected a tensor on the CPU, or an array: {exc}") from exc
