"""A layout that no model has: two drawn tensors of different shapes, filters and letters, for tests of assembly.

An image is one row of `images`, uint8 [I, 3, S, S]. A frame of a video is two rows of `frames`, uint8 [F, S, S, 3]:
itself, and what a mirror shows. So a tensor's rows are neither units nor pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError
from owl_stream.layouts import (
    BatchReport,
    Chat,
    Choices,
    EncodedRow,
    Image,
    LengthLimit,
    Medium,
    Pixels,
    Resize,
    RowLook,
    Tokenizer,
    Transparency,
    Visual,
)
from owl_stream.layouts.owl3 import TOKENS
from owl_stream.layouts.settling import number, settle_vision
from owl_stream.layouts.text import TEXT_TENSORS, collate_text
from owl_stream.layouts.types import drawn, tensor
from owl_stream.shards import RowSize
from owl_stream.wire import Normalise

NAME = "two-towers"
IMAGE_TOKENS, ROWS_A_FRAME = 4, 2
MEDIUM_TOKEN = 7
"""The id that stands for a medium; a row begins with one for each."""

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TwoTowerSettings:
    """`image_size`: side S of a picture."""

    image_size: int


class TwoTowers:
    """Registered by tests under `NAME`."""

    name: ClassVar[str] = NAME
    released: ClassVar[str] = "nobody/two-towers"
    unit: ClassVar[str] = "medium"
    transparency: ClassVar[Transparency] = "dropped"

    @classmethod
    def settle(cls, choices: Choices) -> TwoTowerSettings:
        """See `Layout.settle`."""
        return TwoTowerSettings(**settle_vision(choices.vision, {"image_size": (number(4, 64), 28)}))

    def __init__(self, settings: TwoTowerSettings) -> None:
        self._side = side = settings.image_size
        self.tokens = TOKENS
        self.schema = (
            *TEXT_TENSORS,
            tensor("media", "int64", "B", 2),
            drawn("images", "I", 3, side, side, normalise=Normalise(_HALF, _HALF, 1, 1, flatten=False)),
            drawn("frames", "F", side, side, 3, normalise=Normalise(_HALF, _HALF, 3, 1, flatten=False)),
        )

    def encode(self, chat: Chat, media: Sequence[Medium], tokenizer: Tokenizer, limit: LengthLimit) -> EncodedRow:
        """See `Layout.encode`. Nothing is too long."""
        ids, supervised = [MEDIUM_TOKEN] * len(media), []
        for turn in chat.turns:
            begin = len(ids)
            ids += tokenizer.encode(turn.content).ids
            if turn.role == "assistant":
                supervised.append((begin, len(ids)))
        images, frames = list[Visual](), list[Visual]()
        for index, medium in enumerate(media):
            if isinstance(medium, Image):
                images.append(Visual(index, 0, "images", len(images), 1))
                continue
            for frame in range(len(medium.frames)):
                frames.append(Visual(index, frame, "frames", ROWS_A_FRAME * len(frames), ROWS_A_FRAME))
        return EncodedRow(
            np.array(ids, dtype=np.int64),
            tuple(supervised),
            np.arange(len(media), dtype=np.int64),
            (*images, *frames),
            image_units=len(images),
            image_tokens=IMAGE_TOKENS * len(images),
            video_units=len(media) - len(images),
            video_tokens=ROWS_A_FRAME * len(frames),
        )

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """See `Layout.filler`."""
        return EncodedRow(np.array([tokenizer.pad_id], dtype=np.int64), (), np.array([], dtype=np.int64), ())

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """B rows, L tokens, I images, F rows of frames."""
        return {
            "B": len(sizes),
            "L": max(size.text_tokens for size in sizes),
            "I": sum(size.image_units for size in sizes),
            "F": sum(size.video_tokens for size in sizes),
        }

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`."""
        collate_text(rows, pad_id, out)
        out["media"][:] = [(row.image_units, row.video_tokens) for row in rows]

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`: `media` says how many rows either drawn tensor has."""
        media = tensors["media"]
        for name, expected in zip(("images", "frames"), media.sum(axis=0).tolist(), strict=True):
            if (got := len(tensors.get(name, ()))) != expected:
                raise ContractError(f"{name}: expected {expected} rows, got {got}")
        with_media = int(np.count_nonzero(media.any(axis=1)))
        units = int(np.count_nonzero((tensors["input_ids"] == MEDIUM_TOKEN) & (tensors["attention_mask"] == 1)))
        return BatchReport(with_media, len(media) - with_media, units)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`."""
        return [(self._side, self._side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`."""
        return self._side**2

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`: images by bicubic, frames by bilinear."""
        if visual.tensor == "images":
            out[0] = resize(pixels, self._side, self._side)[..., :3].transpose(2, 0, 1)
            return
        resized = resize(pixels, self._side, self._side, filter="bilinear")[..., :3]
        out[0], out[1] = resized, resized[:, ::-1]

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`; nobody looks."""
        raise NotImplementedError
