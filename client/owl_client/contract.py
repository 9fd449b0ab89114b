"""What one connection's `hello` promises of tensors, and what each of its batches is held against."""

from __future__ import annotations

from collections.abc import Sequence

from owl_client.batch import OFFSET_LENGTHS, OFFSETS, check_lengths
from owl_client.device import PIXELS
from owl_stream.errors import FrameError
from owl_stream.wire import BatchHeader, Hello, SchemaEntry, check_schema, check_tensors, tensor_views

IDS = "input_ids"

_FORMS = {
    IDS: ("int64", 2),
    "attention_mask": ("int64", 2),
    "labels": ("int64", 2),
    PIXELS: ("uint8", 4),
    OFFSET_LENGTHS: ("int64", 1),
}
"""Dtype and number of dimensions that every layout gives these tensors, see `Batch`."""


class Contract:
    """A stream's schema, checked.

    Raises:
        FrameError: no batch of such a schema could be used: the message names the tensor.
    """

    def __init__(self, hello: Hello) -> None:
        check_schema(hello.schema)
        self._schema = {entry.name: entry for entry in hello.schema}
        for name, form in _FORMS.items():
            entry = self._schema.get(name)
            if entry is not None and (entry.dtype, len(entry.dims)) != form:
                raise _unusable(name, f"{form[0]} in {form[1]} dimensions", entry)
        if IDS not in self._schema:
            raise FrameError(f"schema: expected {IDS} among the tensors, got {', '.join(self._schema)!r:.200}")
        if OFFSET_LENGTHS in self._schema:
            entry = self._schema.get(OFFSETS)
            if entry is None or (entry.dtype, len(entry.dims)) != ("int64", 1):
                raise _unusable(OFFSETS, f"int64 in 1 dimension beside {OFFSET_LENGTHS}", entry)

    def check(self, header: BatchHeader, payload: memoryview) -> None:
        """Hold a batch against the schema, and its tensors that cut others against those.

        Raises:
            FrameError: naming the tensor, what was expected and what was got.
        """
        check_tensors(header, self._expected(header.crops))
        cutting = [spec for spec in header.tensors if spec.name in (OFFSETS, OFFSET_LENGTHS)]
        if OFFSET_LENGTHS in self._schema:
            views = tensor_views(payload, cutting)
            check_lengths(views[OFFSETS].size, views[OFFSET_LENGTHS].tolist(), len(header.rows))

    def _expected(self, crops: int) -> Sequence[SchemaEntry]:
        """The tensors of a batch with so many crops; one without crops has no pixels."""
        return [entry for entry in self._schema.values() if crops or entry.name != PIXELS]


def _unusable(name: str, expected: str, entry: SchemaEntry | None) -> FrameError:
    got = "none" if entry is None else f"{entry.dtype!r:.80} with the dimensions {list(entry.dims)!r:.200}"
    return FrameError(
        f"schema, tensor {name!r}: expected {expected}, got {got}; install the same owl-stream on both sides"
    )
