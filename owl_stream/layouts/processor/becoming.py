"""What becomes of a picture: the processor is asked with a blank one of the same size."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError
from owl_stream.layouts.processor.form import Becoming, Form, Structure
from owl_stream.layouts.processor.released import Answer, Picture, Released, told

_BESIDE = (28, 28)
"""Width and height of the blank picture that stands beside another, where that matters."""


def blank(width: int, height: int) -> Picture:
    """A black picture."""
    return np.zeros((height, width, 3), np.uint8)


def between(place: int) -> str:
    """A text that stands before picture number `place`; no picture's own text has it."""
    return f"[owl-{place}]"


def ask_rows(released: Released, placeholder: str, rows: Sequence[Sequence[Picture]], *, raw: bool = True) -> Answer:
    """A batch of rows whose texts are little more than their pictures."""
    texts = ["".join(between(at) + placeholder for at in range(len(row))) + between(len(row)) for row in rows]
    return released.ask(texts, rows, raw=raw)


def picture_texts(text: str, count: int) -> list[str]:
    """The text of each of a row's pictures, of `ask_rows`.

    Raises:
        ValueError: the processor has changed the text around them.
    """
    edges = [text.find(between(at)) for at in range(count + 1)]
    if -1 in edges or edges != sorted(edges):
        raise ValueError(f"the processor changes the text around pictures: {text[:200]!r}")
    return [text[edges[at] + len(between(at)) : edges[at + 1]] for at in range(count)]


def tiles_of(pixels: NDArray[np.generic], structure: Structure, count: int) -> int:
    """How many tiles each of `count` equal pictures of one row became."""
    if structure == "picture":
        return int(pixels.shape[1])
    return int(pixels.shape[0 if structure == "flat" else 1]) // count


def find_becoming(released: Released, form: Form, size: tuple[int, int], context: int) -> Becoming:
    """What becomes of a picture of `size` (width, height), alone in its row or beside another (`context` 2).

    Raises:
        SampleError: `processor_refused`, with the processor's words.
    """
    try:
        answer = ask_rows(released, form.placeholder, [[blank(*size)] * context])
        text = picture_texts(answer.texts[0], context)[0]
    except MemoryError:
        raise
    except Exception as exc:  # whatever a processor raises
        raise SampleError(
            "processor_refused",
            f"expected a picture that the model's processor takes, got one of {size[0]}x{size[1]}: {told(exc)}",
        ) from exc
    short, runs = shortened(text, form.token)
    values = tuple(tuple(answer.tensors[extra.name][0].ravel().tolist()) for extra in form.of_kind("picture"))
    tiles = tiles_of(answer.tensors[form.pixels], form.structure, context)
    if form.tile_run is not None and sum(runs) != form.tile_run * tiles:
        raise SampleError(
            "processor_refused",
            f"expected {form.tile_run} placeholders a tile, as with other sizes, got {sum(runs)} for {tiles} tiles "
            f"of a picture of {size[0]}x{size[1]}",
        )
    return Becoming(short, runs, tiles, values)


def shortened(text: str, token: str) -> tuple[str, tuple[int, ...]]:
    """A text with each run of a token written once, and how long the runs are."""
    runs = [len(found.group()) // len(token) for found in re.finditer(f"(?:{re.escape(token)})+", text)]
    return re.sub(f"(?:{re.escape(token)})+", lambda _: token, text), tuple(runs)


def draw_tiles(released: Released, form: Form, picture: Picture, context: int, tiles: int) -> NDArray[np.uint8]:
    """The tiles of a picture, uint8 [tiles, ...]. `context` as in `find_becoming`, which has told how many they are.

    Raises:
        SampleError: `processor_refused`: the processor fails, or makes something else than of a blank picture.
    """
    row = [picture, *[blank(*_BESIDE)] * (context - 1)]
    try:
        pixels = ask_rows(released, form.placeholder, [row]).tensors[form.pixels]
    except MemoryError:
        raise
    except Exception as exc:  # whatever a processor raises
        raise SampleError("processor_refused", f"the model's processor fails on this picture: {told(exc)}") from exc
    drawn = (pixels if form.structure == "flat" else pixels[0])[:tiles]
    if drawn.shape != (tiles, *form.tile):
        raise SampleError(
            "processor_refused",
            f"expected pixels of {[tiles, *form.tile]}, as of a blank picture of this size, got {list(drawn.shape)}",
        )
    return as_bytes(drawn)


def as_bytes(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Pixels that are neither scaled nor normalised.

    Raises:
        SampleError: `processor_refused`, they are no whole numbers from 0 to 255.
    """
    if pixels.dtype == np.uint8:
        return pixels  # type: ignore[return-value] # it is
    found = pixels.astype(np.uint8)
    if not np.array_equal(found, pixels):
        raise SampleError("processor_refused", "expected pixels of whole numbers from 0 to 255, got others")
    return found
