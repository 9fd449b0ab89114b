"""Holds the layout's own batches against the processor's, before a configuration is accepted.

The rows differ in number, size and place of pictures, as rows of a batch do. A processor whose batches are not made up
of its rows in one of the ways of `form.py` is refused here, so nothing else is ever sent in its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.layouts.processor.probing import LARGE, TALL, WIDE, Size, noise
from owl_stream.layouts.processor.released import Arrays, Released, told
from owl_stream.layouts.types import Chat, Image, Layout, LengthLimit
from owl_stream.wire import Normalise

TOLERANCE = 1e-6
"""Of finished pixels, relative to the largest."""

_OWN = "labels"
"""What no processor returns."""

_NO_LIMIT = LengthLimit(1 << 30, "skip")
_NARROW, _TINY = (20, 240), (40, 9)

_ROWS: tuple[tuple[tuple[Size, ...], ...], ...] = (
    ((WIDE,), (LARGE, TALL)),
    ((_TINY, _NARROW, TALL), (TALL,)),
    ((TALL, TALL), (WIDE, _TINY)),
    ((_NARROW,),),
    ((), ()),
)
_MIXED: tuple[tuple[Size, ...], ...] = ((), (TALL, WIDE), (), (WIDE,))


class _Said(NamedTuple):
    role: str
    content: str
    learned: bool = True
    calls: Sequence[Mapping[str, Any]] = ()
    reasoning: str = ""
    call_id: str = ""
    name: str = ""


def prove(layout: Any, released: Released) -> None:
    """Compare several batches; `layout`: a `ProcessorLayout` for this processor.

    Raises:
        ConfigError: a tensor that differs from the processor's, by name.
    """
    for rows in (*_ROWS, _MIXED):
        talks = [_talk(number, len(row)) for number, row in enumerate(rows)]
        texts = [layout.written(talk) for talk in talks]
        try:
            expected = released.ask(texts, [[noise(size) for size in row] for row in rows]).tensors
        except Exception as exc:  # whatever a processor raises
            if rows is _MIXED:
                continue  # it takes no rows without pictures beside others, so nothing says how they look there
            raise ConfigError(f"its processor fails on {rows}: {told(exc)}") from exc
        _compare(rows, expected, _made(layout, released, talks, rows))


def _talk(number: int, pictures: int) -> Chat:
    """A conversation with text before, between and behind its pictures."""
    question = "".join(f"No. {at}: <|image|>" for at in range(pictures)) + "What is it?" * (number + 1)
    return Chat([_Said("user", question), _Said("assistant", "An owl. " * (number % 3 + 1))])


def _made(layout: Layout, released: Released, talks: Sequence[Chat], rows: Sequence[Sequence[Size]]) -> Arrays:
    """The batch as a client gets it."""
    tokenizer = released.tokenizer()
    encoded = [
        layout.encode(talk, [Image(*size) for size in row], tokenizer, _NO_LIMIT)
        for talk, row in zip(talks, rows, strict=True)
    ]
    lengths = layout.lengths([row.size for row in encoded])
    tensors: Arrays = {}
    for entry in layout.schema:
        shape = [lengths[dim] if isinstance(dim, str) else dim for dim in entry.dims]
        if not entry.optional or 0 not in [lengths[dim] for dim in entry.dims if isinstance(dim, str)]:
            tensors[entry.name] = np.full(shape, 77, entry.dtype)
    layout.collate(encoded, tokenizer.pad_id, tensors)
    layout.check(tensors)
    _draw(layout, encoded, rows, tensors)
    for entry in layout.schema:
        cut = tensors.pop(entry.lengths, None) if entry.lengths is not None else None
        if entry.normalise is not None and entry.name in tensors:
            finished = _finished(tensors[entry.name], entry.normalise)
            tensors[entry.name] = finished if cut is None else _padded(finished, cut.tolist())
    return tensors


def _draw(layout: Layout, encoded: Sequence[Any], rows: Sequence[Sequence[Size]], tensors: Arrays) -> None:
    first = 0
    for row, sizes in zip(encoded, rows, strict=True):
        for visual, size in zip(row.visuals, sizes, strict=True):
            pixels = np.dstack([noise(size), np.zeros(size[::-1], np.uint8)])
            begin = first + visual.first
            layout.draw(pixels, visual, tensors[visual.tensor][begin : begin + visual.rows], _no_resize)
        first += sum(visual.rows for visual in row.visuals)


def _no_resize(*_: object, **__: object) -> Any:
    raise AssertionError("a processor resizes by itself")


def _finished(pixels: NDArray[Any], how: Normalise) -> NDArray[Any]:
    """As the client does it: in float32, with one division."""
    shape = [1] * pixels.ndim
    shape[how.axis] = len(how.mean)
    scale = np.array([255 * std for std in how.std], np.float32).reshape(shape)
    shift = np.array([mean / std for mean, std in zip(how.mean, how.std, strict=True)], np.float32).reshape(shape)
    finished: NDArray[Any] = pixels.astype(np.float32) / scale - shift
    return finished


def _padded(flat: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
    out = np.zeros((len(lengths), max(lengths), *flat.shape[1:]), flat.dtype)
    first = 0
    for at, length in enumerate(lengths):
        out[at, :length] = flat[first : first + length]
        first += length
    return out


def _compare(rows: Sequence[Sequence[Size]], expected: Arrays, made: Arrays) -> None:
    place = f"rows of pictures {[[f'{w}x{h}' for w, h in row] for row in rows]}"
    if {*expected} != {*made} - {_OWN}:
        raise ConfigError(f"{place}: expected tensors {sorted(expected)}, as of its processor, got {sorted(made)}")
    for tensor, want in expected.items():
        got = made[tensor]
        if want.shape != got.shape or want.dtype != got.dtype:
            raise ConfigError(
                f"{place}: {tensor}: expected {want.dtype} {list(want.shape)}, as of its processor, got {got.dtype} "
                f"{list(got.shape)}"
            )
        worst = float(np.abs(want.astype(np.float64) - got).max(initial=0.0))
        if worst > (TOLERANCE * max(1.0, float(np.abs(want).max(initial=0.0))) if want.dtype.kind == "f" else 0):
            raise ConfigError(
                f"{place}: {tensor}: expected the numbers of its processor, got some that differ by {worst}"
            )
