"""Finding the form of a processor's batches, by asking it for some of noise.

What is found here is a guess until `proof.py` has held the layout's own batches against the processor's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.layouts.processor.becoming import (
    as_bytes,
    ask_rows,
    picture_texts,
    shortened,
    tiles_of,
)
from owl_stream.layouts.processor.form import Extra, Form, Structure
from owl_stream.layouts.processor.released import Arrays, Picture, Released, told
from owl_stream.wire import DTYPES

Size = tuple[int, int]
"""(width, height)."""

WIDE, TALL, LARGE = (240, 60), (50, 200), (420, 300)
"""Most are long: processors that enlarge a picture make few tiles of such, and time and memory go by tiles."""
_EXTREMES = ((2400, 2400), (3000, 180), (180, 3000))
_MANY = 3
"""Pictures of a row that stand for any number of them."""
_MOST_NUMBERS = 16
"""Of a picture in one tensor."""

BATCHES: tuple[tuple[tuple[Size, ...], ...], ...] = (
    ((WIDE,),),
    ((LARGE,),),
    ((WIDE,), (LARGE,)),
    ((WIDE, WIDE),),
    ((TALL, WIDE, TALL),),
    ((WIDE, TALL), (TALL,), (WIDE, TALL, WIDE)),
)
"""Rows of pictures of several batches."""


class Probe(NamedTuple):
    """A batch that a processor made."""

    rows: tuple[tuple[Size, ...], ...]
    tensors: Arrays

    @property
    def pictures(self) -> int:
        """In all rows."""
        return sum(map(len, self.rows))


def noise(size: Size) -> Picture:
    """A picture in which no two parts are alike; equal sizes give equal pictures."""
    width, height = size
    return np.random.default_rng(size).integers(0, 256, (height, width, 3), np.uint8)


class Prober:
    """Asks one processor, in whose texts `placeholder` stands for a picture."""

    def __init__(self, released: Released, placeholder: str) -> None:
        self._released, self._placeholder = released, placeholder

    def find(self, token_id_of: Callable[[str], int | None], patch: int) -> Form:
        """The form; `patch`: side of a vision token in pixels.

        Raises:
            ConfigError: the processor fails, or its batches have a form that this layout does not have.
        """
        raw = [self._probe(rows) for rows in BATCHES]
        pixels = self._pixels()
        structure, tile = self._structure(raw, pixels)
        token = self._token()
        if (number := token_id_of(token)) is None:
            raise ConfigError(f"expected {token} to be a token of tokenizer.json, which has none")
        form = Form(
            pixels=pixels,
            structure=structure,
            tile=tile,
            axis=self._axis(pixels, tile),
            placeholder=self._placeholder,
            token=token,
            token_id=number,
            tile_run=None,
            contexts=1,
            most_tiles=1,
            tile_tokens=max(1, math.prod(tile) // 3 // patch**2),
            extras=tuple(self._extras(raw, pixels, structure, number)),
        )
        return self._measured(form)

    def _probe(self, rows: Sequence[Sequence[Size]], *, raw: bool = True) -> Probe:
        pictures = [[noise(size) for size in row] for row in rows]
        return Probe(tuple(map(tuple, rows)), self._asked(pictures, raw=raw)[0])

    def _asked(self, pictures: Sequence[Sequence[Picture]], *, raw: bool = True) -> tuple[Arrays, list[list[str]]]:
        """Tensors, and the text of each picture of each row."""
        try:
            answer = ask_rows(self._released, self._placeholder, pictures, raw=raw)
            texts = [picture_texts(text, len(row)) for text, row in zip(answer.texts, pictures, strict=True)]
        except Exception as exc:  # whatever a processor raises
            sizes = [[f"{picture.shape[1]}x{picture.shape[0]}" for picture in row] for row in pictures]
            raise ConfigError(f"its processor fails on rows of pictures {sizes}: {told(exc)}") from exc
        return answer.tensors, texts

    def _pixels(self) -> str:
        made = self._probe([[WIDE]], raw=False).tensors
        found = [name for name, values in made.items() if values.dtype.kind == "f"]
        if len(found) != 1:
            raise ConfigError(f"expected one tensor of floating-point numbers, the pixels, got {found or 'none'}")
        return found[0]

    def _structure(self, probes: Sequence[Probe], pixels: str) -> tuple[Structure, tuple[int, ...]]:
        shapes = [probe.tensors[pixels].shape for probe in probes]
        by_row = all(shape[0] == len(probe.rows) for shape, probe in zip(shapes, probes, strict=True))
        by_picture = all(shape[0] == probe.pictures for shape, probe in zip(shapes, probes, strict=True))
        structure: Structure = "flat"
        if by_row or (by_picture and len({shape[1:] for shape in shapes}) > 1):
            structure = "row" if by_row else "picture"
        tiles = {shape[1 if structure == "flat" else 2 :] for shape in shapes}
        if len(tiles) != 1:
            raise ConfigError(
                f"expected {pixels} of tiles that all have one shape, [tiles, ...], [rows, tiles, ...] or "
                f"[pictures, tiles, ...], got {', '.join(str(list(shape)) for shape in sorted(set(shapes)))}"
            )
        return structure, tuple(map(int, tiles.pop()))

    def _axis(self, pixels: str, tile: tuple[int, ...]) -> int:
        if 3 not in tile:
            raise ConfigError(f"expected {pixels} with a dimension of three colours, got tiles of {list(tile)}")
        return 1 + tile.index(3)

    def _token(self) -> str:
        _, texts = self._asked([[noise(LARGE)]])
        candidates = dict.fromkeys([self._released.image_token, *self._released.others])
        found = max(candidates, key=texts[0][0].count)
        if found not in texts[0][0]:
            raise ConfigError(f"expected {' or '.join(candidates)} in the text of a picture, got {texts[0][0][:80]!r}")
        return found

    def _extras(self, probes: Sequence[Probe], pixels: str, structure: Structure, token_id: int) -> list[Extra]:
        names = dict.fromkeys(name for probe in probes for name in probe.tensors)
        known = {"input_ids", "attention_mask", pixels}
        return [self._extra(name, probes, pixels, structure, token_id) for name in names if name not in known]

    def _extra(self, name: str, probes: Sequence[Probe], pixels: str, structure: Structure, token_id: int) -> Extra:
        if any(name not in probe.tensors for probe in probes):
            raise ConfigError(f"expected {name} in every batch with pictures, or in none")
        arrays = [probe.tensors[name] for probe in probes]
        dtype = str(arrays[0].dtype)
        if arrays[0].dtype.kind not in "iu" or dtype not in DTYPES:
            raise ConfigError(f"expected {name} of {', '.join(DTYPES)} without fractions, got {dtype}")
        if all(each.shape == probe.tensors["input_ids"].shape for each, probe in zip(arrays, probes, strict=True)):
            return Extra(name, "tokens", dtype, (), self._token_values(name, probes, token_id))
        counts = [np.array(list(map(len, probe.rows))) for probe in probes]
        if all(np.array_equal(each, count) for each, count in zip(arrays, counts, strict=True)):
            return Extra(name, "count", dtype)
        dims = {each.shape[1:] for each in arrays}
        by_picture = all(len(each) == probe.pictures for each, probe in zip(arrays, probes, strict=True))
        if by_picture and len(dims) == 1 and math.prod(only := dims.pop()) <= _MOST_NUMBERS:
            return Extra(name, "picture", dtype, tuple(map(int, only)))
        return self._ones(name, probes, arrays, pixels, structure)

    def _ones(
        self, name: str, probes: Sequence[Probe], arrays: Sequence[NDArray[Any]], pixels: str, structure: Structure
    ) -> Extra:
        leading = 2 if structure == "row" else 1
        dims = {each.shape[leading:] for each in arrays}
        leads = [probe.tensors[pixels].shape[:leading] for probe in probes]
        alike = all(each.shape[:leading] == lead for each, lead in zip(arrays, leads, strict=True))
        if structure == "picture" or not alike or len(dims) != 1 or not {*np.unique(arrays[-1])} <= {0, 1}:
            shapes = ", ".join(str(list(each.shape)) for each in arrays[:4])
            raise ConfigError(
                f"{name}: expected a tensor of tokens, of numbers of each picture, of counts of pictures, or a mask of "
                f"whole tiles, got {shapes}; what goes by pictures' content cannot be told before they are decoded"
            )
        return Extra(name, "ones", str(arrays[0].dtype), tuple(map(int, dims.pop())))

    def _token_values(self, name: str, probes: Sequence[Probe], token_id: int) -> tuple[int, ...]:
        """The number of a placeholder, of another token, and of padding."""
        found: list[int] = []
        for kind in range(3):
            values: set[int] = set()
            for probe in probes:
                ids, mask = probe.tensors["input_ids"], probe.tensors["attention_mask"]
                where = (ids == token_id, (ids != token_id) & (mask != 0), mask == 0)[kind]
                values |= {int(value) for value in np.unique(probe.tensors[name][where])}
            if len(values) != 1:
                raise ConfigError(f"{name}: expected one number for all tokens of a kind, got {sorted(values)[:8]}")
            found.append(values.pop())
        return tuple(found)

    def _measured(self, form: Form) -> Form:
        """The form with what goes by a picture's size, and by what is beside it."""
        runs: set[tuple[int, int]] = set()
        alike = []
        for size in (WIDE, TALL):
            each = [self._copies(form, size, count) for count in range(1, _MANY + 1)]
            alike.append([one == other for one, other in pairwise(each)])
            runs |= {(sum(shortened(text, form.token)[1]), tiles) for text, tiles, *_ in each}
        if not all(last for *_, last in alike):
            raise ConfigError("expected a picture to become the same beside one other and beside two, got otherwise")
        extremes = []
        for size in _EXTREMES:
            text, tiles, *_ = self._copies(form, size, 1)
            runs.add((sum(shortened(text, form.token)[1]), tiles))
            extremes.append(tiles)
        ratios = {run / tiles for run, tiles in runs}
        ratio = ratios.pop() if len(ratios) == 1 else 0.5
        values = form.__dict__ | {
            "contexts": 1 if all(first for first, *_ in alike) else 2,
            "tile_run": int(ratio) if ratio.is_integer() else None,
            "most_tiles": max(*extremes, *(tiles for _, tiles in runs)),
        }
        return Form(**values)

    def _copies(self, form: Form, size: Size, count: int) -> tuple[str, int, tuple[tuple[int, ...], ...], bytes]:
        """What each of `count` equal pictures of one row becomes: text, tiles, numbers, pixels."""
        tensors, texts = self._asked([[noise(size)] * count])
        pixels = tensors[form.pixels]
        if len({*texts[0]}) != 1:
            raise ConfigError("expected equal pictures of a row to have equal texts, got others: it numbers them")
        tiles = tiles_of(pixels, form.structure, count)
        values = tuple(tuple(tensors[extra.name][0].ravel().tolist()) for extra in form.of_kind("picture"))
        first = (pixels if form.structure == "flat" else pixels[0])[:tiles]
        return texts[0][0], tiles, values, as_bytes(first).tobytes()
