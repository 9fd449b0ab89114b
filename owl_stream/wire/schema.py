"""What `hello` says of the tensors that its batches hold: checked for itself, and then against every batch."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.errors import FrameError
from owl_stream.wire.headers import BatchHeader, Normalise, SchemaEntry
from owl_stream.wire.tensors import DTYPES

ROWS = "B"
"""The letter that stands for the number of rows."""

LEAST_STD = 2.0**-20
"""Dividing by less leaves the numbers that float32 can say."""


def check_schema(entries: Sequence[SchemaEntry]) -> None:
    """Refuse a schema that no batch could follow.

    Raises:
        FrameError: a dtype that is not known, a name that is there twice, pixels that cannot be normalised as it says,
            or lengths that are not there.
    """
    known: dict[str, SchemaEntry] = {}
    for entry in entries:
        if entry.dtype not in DTYPES:
            raise _wrong(entry, f"expected a dtype of {', '.join(DTYPES)}, got {entry.dtype!r:.80}")
        if entry.name in known:
            raise _wrong(entry, "the name is there twice")
        known[entry.name] = entry
        if entry.normalise is not None:
            _check_normalise(entry, entry.normalise)
    for entry in entries:
        if entry.lengths is not None:
            _check_lengths(entry, known.get(entry.lengths))


def _check_lengths(entry: SchemaEntry, lengths: SchemaEntry | None) -> None:
    if not entry.dims:
        raise _wrong(entry, f"expected a dimension that its lengths cut, got {_form(entry)}")
    # a list has an entry a row; pixels are also cut by what their rows have, such as pictures
    pixels = entry.normalise is not None
    dims = lengths.dims if lengths is not None and pixels and len(lengths.dims) == 1 else (ROWS,)
    if lengths is None or (lengths.dtype, lengths.dims, lengths.lengths) != ("int64", dims, None):
        cut = "" if lengths is None or lengths.lengths is None else ", cut by lengths of its own"
        got = "none" if lengths is None else _form(lengths) + cut
        raise _wrong(entry, f"expected its lengths {entry.lengths!r:.80} as int64 [{ROWS}], got {got}")


def _check_normalise(entry: SchemaEntry, normalise: Normalise) -> None:
    channels = entry.dims[normalise.axis] if 0 < normalise.axis < len(entry.dims) else None
    if entry.dtype != "uint8" or not channels == len(normalise.mean) == len(normalise.std):
        raise _wrong(
            entry,
            f"expected uint8 with {len(normalise.mean)} means and {len(normalise.std)} deviations for axis "
            f"{normalise.axis}, got {_form(entry)}",
        )
    if min(normalise.std) < LEAST_STD:
        raise _wrong(entry, f"expected deviations from {LEAST_STD} on, got {min(normalise.std)}")


def check_tensors(header: BatchHeader, schema: Sequence[SchemaEntry]) -> None:
    """Refuse a batch whose tensors are not exactly those of the schema: names, dtypes, and dimensions.

    Raises:
        FrameError: naming the tensor, what was expected and what was got.
    """
    if header.lengths.get(ROWS) != len(header.rows):
        raise FrameError(
            f"lengths: expected {ROWS} = {len(header.rows)}, as many as there are rows, got {header.lengths.get(ROWS)}"
        )
    specs = {spec.name: spec for spec in header.tensors}
    for entry in schema:
        shape = _shape(entry, header)
        if entry.optional and any(
            size == 0 for size, dim in zip(shape, entry.dims, strict=True) if isinstance(dim, str)
        ):
            continue
        spec = specs.pop(entry.name, None)
        if spec is None or (spec.dtype, tuple(spec.shape)) != (entry.dtype, shape):
            got = "none" if spec is None else f"{spec.dtype} {list(spec.shape)}"
            raise FrameError(
                f"tensor {entry.name!r:.80}: expected {entry.dtype} {list(shape)}, {_form(entry)} in hello, got {got}"
            )
    if specs:
        raise FrameError(
            f"tensor {next(iter(specs))!r:.80}: expected only those of hello's schema that are not left out, with "
            f"lengths {dict(header.lengths)!r:.200}"
        )


def _shape(entry: SchemaEntry, header: BatchHeader) -> tuple[int, ...]:
    missing = [dim for dim in entry.dims if isinstance(dim, str) and dim not in header.lengths]
    if missing:
        raise FrameError(
            f"lengths: expected {missing[0]!r:.80} for {entry.name!r:.80}, got {list(header.lengths)!r:.200}"
        )
    return tuple(header.lengths[dim] if isinstance(dim, str) else dim for dim in entry.dims)


def _form(entry: SchemaEntry) -> str:
    return f"{entry.dtype} {list(entry.dims)!r:.200}"


def _wrong(entry: SchemaEntry, what: str) -> FrameError:
    return FrameError(f"schema, tensor {entry.name!r:.80}: {what}")
