"""What one connection's `hello` promises of tensors, and what each of its batches is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from owl_stream.errors import FrameError
from owl_stream.wire import (
    MAX_ELEMENTS,
    BatchHeader,
    Hello,
    Normalise,
    SchemaEntry,
    check_schema,
    check_tensors,
    tensor_views,
)

IDS = "input_ids"


class Contract:
    """A stream's schema, checked.

    `normalise`: what is to be done with raw pixels, by tensor. `lengths`: by flat tensor, the one that cuts it into
    pieces.

    Raises:
        FrameError: no batch of such a schema could be used: the message names the tensor.
    """

    def __init__(self, hello: Hello) -> None:
        check_schema(hello.schema)
        self._schema = hello.schema
        self.normalise: Mapping[str, Normalise] = {e.name: e.normalise for e in hello.schema if e.normalise is not None}
        self.lengths: Mapping[str, str] = {e.name: e.lengths for e in hello.schema if e.lengths is not None}
        ids = next((entry for entry in hello.schema if entry.name == IDS), None)
        if ids is None:
            names = ", ".join(entry.name for entry in hello.schema)
            raise FrameError(f"schema: expected {IDS} among the tensors, got {names!r:.200}")
        if (ids.dtype, len(ids.dims), ids.optional, ids.lengths) != ("int64", 2, False, None):
            raise _unusable(ids, "int64 in 2 dimensions, always there and never cut")

    def check(self, header: BatchHeader, payload: memoryview) -> None:
        """Hold a batch against the schema, and its tensors that cut others against those.

        Raises:
            FrameError: naming the tensor, what was expected and what was got.
        """
        check_tensors(header, self._schema)
        specs = {spec.name: spec for spec in header.tensors}
        for flat, name in self.lengths.items():
            if flat in specs:
                if name not in specs:
                    raise FrameError(f"tensor {name!r:.80}: expected it beside {flat!r:.80}, which it cuts, got none")
                lengths = tensor_views(payload, [specs[name]])[name].tolist()
                _check_lengths(name, lengths, specs[flat].shape[0])
                if flat in self.normalise:
                    _check_padded(name, lengths, specs[flat].shape)


def _check_lengths(name: str, lengths: list[int], entries: int) -> None:
    least = min(lengths, default=0)
    if least < 0 or sum(lengths) != entries:
        raise FrameError(
            f"tensor {name!r:.80}: expected lengths from 0 with the sum {entries}, "
            f"got {len(lengths)} from {least} with the sum {sum(lengths)}"
        )


def _check_padded(name: str, lengths: list[int], shape: Sequence[int]) -> None:
    """Pixels are padded to the longest piece: a few lengths must not ask for any amount of memory."""
    elements = len(lengths) * max(lengths, default=0) * math.prod(shape[1:])
    if elements > MAX_ELEMENTS:
        raise FrameError(
            f"tensor {name!r:.80}: expected lengths whose pieces have at most {MAX_ELEMENTS} elements once they are "
            f"padded, got {elements}"
        )


def _unusable(entry: SchemaEntry, expected: str) -> FrameError:
    return FrameError(
        f"schema, tensor {entry.name!r:.80}: expected {expected}, got {entry.dtype!r:.80} with the dimensions "
        f"{list(entry.dims)!r:.200}; install the same owl-stream on both sides"
    )
