"""Resizing and cutting: the released processor's crops, bit for bit or nearly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cykooz_resizer import CpuExtensions
from numpy.typing import NDArray
from PIL import Image as PilImage

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import Pixels, decode
from owl_stream.assemble.resizers import SimdResizer
from owl_stream.layouts import Filter
from owl_stream.layouts.owl3.grid import choose_grid
from tests.assemble.cutting import Cutter, Grid
from tests.support.images import photo

GOLDEN = [
    pytest.param(release, line, id=f"{release}-{row['id']}-{row.get('image_size', 384)}")
    for release in ("240728", "241101")
    for line in (Path(__file__).parent.parent / "golden" / f"owl3_{release}.jsonl").read_text().splitlines()
    if (row := json.loads(line))["crop_sha256"]
]

_pixels: dict[str, Pixels] = {}


def pixels(name: str) -> Pixels:
    """A photograph, decoded once per run."""
    if name not in _pixels:
        _pixels[name] = decode(photo(name), probe(photo(name), 10**8)).pixels
    return _pixels[name]


def golden_crops(release: str, row: dict[str, Any], cutter: Cutter) -> Iterator[NDArray[np.uint8]]:
    """The crops of a golden row, in its order, each uint8 [3, S, S]."""
    size = row.get("image_size", 384)
    for medium in row["images"] if release == "240728" else row["media"]:
        frames = medium if isinstance(medium, list) else [medium]
        for name in frames:
            image = pixels(name)
            cut = row["cut"] and frames is not medium
            grid = choose_grid(image.shape[1], image.shape[0], size) if cut else None
            yield from cutter.cut(image, grid)


@pytest.mark.parametrize(("release", "line"), GOLDEN)
def test_pillow_crops_equal_the_golden_ones_bit_for_bit(release: str, line: str) -> None:
    """Every crop of every golden row, by its hash: cells row by row, then the global view."""
    row = json.loads(line)
    crops = golden_crops(release, row, Cutter(row.get("image_size", 384), "pillow"))
    assert [hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops] == row["crop_sha256"]


@pytest.mark.parametrize(("release", "line"), GOLDEN)
def test_simd_crops_are_within_50_db_of_pillows(release: str, line: str) -> None:
    """Every crop of every golden row, against the bit-exact one."""
    row = json.loads(line)
    size = row.get("image_size", 384)
    exact = golden_crops(release, row, Cutter(size, "pillow"))
    for crop, reference in zip(golden_crops(release, row, Cutter(size, "simd")), exact, strict=True):
        error = np.mean((crop.astype(float) - reference.astype(float)) ** 2)
        assert 10 * math.log10(255**2 / max(error, 1e-9)) >= 50


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", ["rocket.jpg", "text.png"])
def test_simd_crops_do_not_depend_on_the_instruction_set(name: str, filter: Filter) -> None:
    """Servers with different processors send the same bytes, so `assembly` need not name the processor."""
    native, plain = SimdResizer(), SimdResizer()
    plain._resizer.cpu_extensions = CpuExtensions.none
    for width, height in ((768, 1152), (378, 378)):
        ours, theirs = (resize(pixels(name), width, height, filter=filter) for resize in (native, plain))
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("resize", ["simd", "pillow"])
@pytest.mark.parametrize("size", [(1, 1), (1, 65_000), (65_000, 1), (37, 1000)])
def test_fault_68_the_thinnest_images_are_stretched(resize: Any, size: tuple[int, int]) -> None:
    """A flat colour stays that colour in every crop, whatever the aspect."""
    image = np.empty((size[1], size[0], 4), np.uint8)
    image[...] = (200, 100, 50, 7)
    out = Cutter(56, resize).cut(image, (2, 3))
    assert out.shape == (7, 3, 56, 56)
    assert np.array_equal(out, np.broadcast_to(np.array([200, 100, 50], np.uint8)[:, None, None], out.shape))


@pytest.mark.parametrize("resize", ["simd", "pillow"])
def test_cells_come_row_by_row_and_the_global_view_last(resize: Any) -> None:
    """A picture of six flat fields is cut into just these fields."""
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = np.repeat(np.repeat(colours, 100, 0), 100, 1)[..., None].repeat(4, 2)
    out = Cutter(50, resize).cut(image, (2, 3))
    assert out[:6, :, 25, 25].tolist() == [[c, c, c] for c in colours.ravel()]
    assert out[6, 0, 12, 8] == 0
    assert out[6, 0, 37, 41] == 200


def test_a_resizer_forgets_the_image_before() -> None:
    """Its scratch memory is used again, for larger and smaller images, and leaves no trace."""
    cutter, made = Cutter(40, "simd"), []
    pictures: list[tuple[str, Grid]] = [
        ("rocket.jpg", (2, 3)),
        ("text.png", None),
        ("coins.png", (1, 4)),
        ("rocket.jpg", (2, 3)),
    ]
    for name, grid in pictures:
        made.append(cutter.cut(pixels(name), grid))
        assert np.array_equal(made[-1], Cutter(40, "simd").cut(pixels(name), grid))
    assert np.array_equal(made[0], made[-1])


def test_the_fourth_channel_means_nothing() -> None:
    """Whatever the padding byte is, the three colours do not see it."""
    image = pixels("rocket.jpg").copy()
    resizes: tuple[Any, ...] = ("simd", "pillow")
    for resize in resizes:
        outs = []
        for padding in (0, 255):
            image[..., 3] = padding
            outs.append(Cutter(64, resize).cut(image, None))
        assert np.array_equal(outs[0], outs[1])


def test_pixels_of_pillow_and_of_the_fast_decoder_are_cut_alike() -> None:
    """A JPEG and a lossless copy of its pixels give the same crops."""
    import io

    whole = io.BytesIO()
    PilImage.fromarray(pixels("rocket.jpg")[..., :3].copy()).save(whole, "PNG")
    data = whole.getvalue()
    copies = (pixels("rocket.jpg"), decode(data, probe(data, 10**8)).pixels)
    outs = [Cutter(64, "simd").cut(copy, None) for copy in copies]
    assert np.array_equal(outs[0], outs[1])
