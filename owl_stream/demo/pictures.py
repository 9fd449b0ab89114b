"""The demo's pictures: real photographs from scikit-image's wheel, in the formats that real shards hold."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from owl_stream.errors import ConfigError

LONGEST_SIDE = 480
FORMATS = {"page.png": "png", "camera.png": "png", "moon.png": "webp", "coffee.png": "webp"}
"""Photographs kept as something else than JPEG."""
KEPT_OF_CORRUPT = 0.4
"""Share of the corrupt JPEG's bytes that is written: its header is whole, its scan is not."""
END_OF_IMAGE = b"\xff\xd9"
"""The corrupt JPEG ends with it, so that only a decoder can tell: without it, indexing would quarantine the sample."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture and the extension its member takes."""

    ext: str
    data: bytes


def photograph_directory() -> Path:
    """Where scikit-image's wheel keeps its photographs; found without importing scikit-image.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ConfigError("the demo's photographs come with scikit-image; pip install 'owl-stream[demo]'")
    return Path(spec.origin).parent / "data"


def read_photograph(name: str) -> Picture:
    """Encode one photograph, at most LONGEST_SIDE pixels long; grey ones stay grey."""
    fmt = FORMATS.get(name, "jpg")
    with Image.open(photograph_directory() / name) as image:
        image.load()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, Image.registered_extensions()[f".{fmt}"], quality=90)
    return Picture(fmt, out.getvalue())


def corrupt(picture: Picture) -> Picture:
    """Cut a JPEG's scan off and close the file: it looks whole, and more than half of its pixels are missing."""
    return Picture(picture.ext, picture.data[: int(len(picture.data) * KEPT_OF_CORRUPT)] + END_OF_IMAGE)
