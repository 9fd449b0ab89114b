"""Where tensors lie in a payload: names, types, shapes and byte ranges, checked before anyone trusts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import FrameError
from owl_stream.wire.bounds import MAX_DIMENSIONS, Count, Name, Shape

ALIGNMENT = 64
"""Tensors start on 64-byte boundaries of the payload: a cache line, and what SIMD loads and DMA like best."""

DTYPES = {"uint8": 1, "int32": 4, "int64": 8, "float16": 2, "float32": 4}
"""Element types by name, with their sizes in bytes; all little endian."""

MAX_ELEMENTS = (1 << 32) - 1
"""Of a tensor, taking empty dimensions for 1: the length of a payload is a u32."""

_NUMPY = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a payload: `nbytes` C-contiguous bytes at `offset` from the payload's start."""

    name: Name
    dtype: Name
    shape: Shape
    offset: Count
    nbytes: Count


def lay_out(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> tuple[tuple[TensorSpec, ...], int]:
    """Place tensors one after the other on aligned offsets; returns the specs and the payload's length in bytes."""
    specs, end = [], 0
    for name, dtype, shape in tensors:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        nbytes = math.prod(shape) * DTYPES[dtype]
        specs.append(TensorSpec(name, dtype, tuple(shape), offset, nbytes))
        end = offset + nbytes
    return tuple(specs), end


def check_specs(specs: Sequence[TensorSpec], payload_nbytes: int) -> None:
    """Refuse specs that do not describe disjoint, aligned, exactly sized parts of a payload.

    Raises:
        FrameError: naming the tensor, what was expected and what was got.
    """
    end, names = 0, set()
    for spec in specs:
        place = f"tensor {spec.name!r:.80}"
        if spec.dtype not in DTYPES:
            raise FrameError(f"{place}: expected a dtype of {', '.join(DTYPES)}, got {spec.dtype!r:.80}")
        if len(spec.shape) > MAX_DIMENSIONS or min(spec.shape, default=0) < 0:
            raise FrameError(f"{place}: expected at most {MAX_DIMENSIONS} dimensions, none negative, got {spec.shape}")
        if math.prod(size or 1 for size in spec.shape) > MAX_ELEMENTS:  # numpy cannot say such a shape, empty or not
            raise FrameError(
                f"{place}: expected at most {MAX_ELEMENTS} elements, those beside an empty dimension too, "
                f"got a shape of {spec.shape}"
            )
        expected = math.prod(spec.shape) * DTYPES[spec.dtype]
        if spec.nbytes != expected:
            raise FrameError(f"{place}: shape {spec.shape} of {spec.dtype} needs {expected} bytes, got {spec.nbytes}")
        if spec.offset < end or spec.offset % ALIGNMENT:
            raise FrameError(f"{place}: expected an offset of at least {end}, on {ALIGNMENT}, got {spec.offset}")
        if spec.name in names:
            raise FrameError(f"{place}: the name is there twice")
        names.add(spec.name)
        end = spec.offset + spec.nbytes
        if end > payload_nbytes:
            raise FrameError(f"{place}: ends at byte {end} of a payload of {payload_nbytes}")


def tensor_views(payload: memoryview | bytes | bytearray, specs: Iterable[TensorSpec]) -> dict[str, NDArray[Any]]:
    """The tensors of a payload as numpy views that share its memory; nothing is copied."""
    return {
        spec.name: np.frombuffer(payload, _NUMPY[spec.dtype], count=math.prod(spec.shape), offset=spec.offset).reshape(
            spec.shape
        )
        for spec in specs
    }
