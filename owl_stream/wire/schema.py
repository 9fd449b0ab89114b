"""What `hello` says of the tensors that its batches hold: checked for itself, and then against every batch."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.errors import FrameError
from owl_stream.wire.headers import BatchHeader, SchemaEntry
from owl_stream.wire.tensors import DTYPES, TensorSpec

ROWS, CROPS = "B", "C"
"""The letters whose size a batch's header says; any other stands for one size within a batch."""


def check_schema(entries: Sequence[SchemaEntry]) -> None:
    """Refuse a schema that no batch could follow.

    Raises:
        FrameError: a dtype that is not known, or a name that is there twice.
    """
    names = set()
    for entry in entries:
        if entry.dtype not in DTYPES:
            raise FrameError(
                f"schema, tensor {entry.name!r:.80}: expected a dtype of {', '.join(DTYPES)}, got {entry.dtype!r:.80}"
            )
        if entry.name in names:
            raise FrameError(f"schema, tensor {entry.name!r:.80}: the name is there twice")
        names.add(entry.name)


def check_tensors(header: BatchHeader, expected: Sequence[SchemaEntry]) -> None:
    """Refuse a batch whose tensors are not exactly those expected: names, dtypes, and dimensions.

    Raises:
        FrameError: naming the tensor, what was expected and what was got.
    """
    specs = {spec.name: spec for spec in header.tensors}
    sizes: dict[str, int] = {ROWS: len(header.rows), CROPS: header.crops}
    for entry in expected:
        spec = specs.pop(entry.name, None)
        if spec is None:
            raise FrameError(f"tensor {entry.name!r:.80}: expected {_form(entry)} as hello says, got none")
        if spec.dtype != entry.dtype or not _fits(spec, entry, sizes):
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items() if letter in entry.dims)
            raise FrameError(
                f"tensor {entry.name!r:.80}: expected {_form(entry)} as hello says{f', {known}' if known else ''}, "
                f"got {spec.dtype} {list(spec.shape)}"
            )
    if specs:
        raise FrameError(
            f"tensor {next(iter(specs))!r:.80}: expected only {', '.join(entry.name for entry in expected)!r:.200} "
            f"in a batch of {header.crops} crops, as hello says"
        )


def _fits(spec: TensorSpec, entry: SchemaEntry, sizes: dict[str, int]) -> bool:
    """Whether a shape is what its dimensions say; a letter that is new gets its size here."""
    if len(spec.shape) != len(entry.dims):
        return False
    return all(
        size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        for size, dim in zip(spec.shape, entry.dims, strict=True)
    )


def _form(entry: SchemaEntry) -> str:
    return f"{entry.dtype} {list(entry.dims)!r:.200}"
