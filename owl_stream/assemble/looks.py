"""A frame -> what people look at: which tokens each row has, what each of them sees, and the pictures of its units."""

from __future__ import annotations

import itertools
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import FrameError
from owl_stream.layouts import IGNORE, Layout, RowLook
from owl_stream.wire import BatchHeader, BatchLook, Frame, LookPicture, LookRow, LookRun, RowInfo, tensor_views


def look_at(layout: Layout, frame: Frame) -> BatchLook:
    """What there is to see of a batch.

    Raises:
        FrameError: it is no batch.
    """
    header = frame.header
    if not isinstance(header, BatchHeader):
        raise FrameError(f"expected a batch, got a frame of kind {header.kind}")
    tensors = tensor_views(frame.payload, header.tensors)
    lengths = np.count_nonzero(tensors["attention_mask"], axis=1).tolist()
    rows = zip(header.rows, tensors["input_ids"], tensors["labels"], layout.look(tensors), lengths, strict=True)
    return BatchLook(
        fingerprint=header.fingerprint,
        layout=layout.name,
        unit=layout.unit,
        epoch=header.epoch,
        step=header.step,
        micro=header.micro,
        rank=header.rank,
        world_size=header.world_size,
        attended_tokens=header.attended_tokens,
        supervised_tokens=header.supervised_tokens,
        step_supervised_tokens=header.step_supervised_tokens,
        vision_tokens=header.vision_tokens,
        units=header.units,
        nbytes=frame.nbytes,
        tensors={spec.name: f"{spec.dtype} {list(spec.shape)}" for spec in header.tensors},
        rows=tuple(itertools.starmap(_row, rows)),
    )


def _row(info: RowInfo, ids: NDArray[np.int64], labels: NDArray[np.int64], look: RowLook, tokens: int) -> LookRow:
    learned = labels[:tokens] != IGNORE
    return LookRow(
        shard=info.shard,
        key=info.key,
        status=info.status,
        reason=info.reason,
        replaces=info.replaces,
        ids=tuple(ids[:tokens].tolist()),
        padding=len(ids) - tokens,
        supervised=tuple((begin, end) for begin, end in _stretches(learned) if learned[begin]),
        units=tuple((begin, end) for begin, end in _stretches(look.unit[:tokens]) if look.unit[begin] >= 0),
        runs=tuple(_runs(look, tokens)),
        pictures=tuple(_picture(pixels) for pixels in look.pictures),
    )


def _runs(look: RowLook, tokens: int) -> list[LookRun]:
    numbers: dict[str, int] = {}
    said = np.array([numbers.setdefault(text, len(numbers)) for text in look.says[:tokens]], dtype=np.int64)
    alike = look.sees[:tokens] * (len(numbers) + 1) + said
    return [
        LookRun(begin, end, int(look.sees[begin]), look.says[begin][:_MOST_SAID]) for begin, end in _stretches(alike)
    ]


_MOST_SAID = 400
"""Characters of what the tensors say of a token."""


def _stretches(values: NDArray[Any]) -> list[tuple[int, int]]:
    """[begin, end) of each run of equal values."""
    if not len(values):
        return []
    return list(pairwise([0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]))


def _picture(pixels: NDArray[np.uint8]) -> LookPicture:
    height, width, _ = pixels.shape
    return LookPicture(width, height, np.ascontiguousarray(pixels).tobytes())
