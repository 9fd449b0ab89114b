"""Pillow, kept quiet and translated: no warnings, no surprises of format, every failure a SampleError."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from owl_stream.errors import SampleError

# Ours is `max_image_pixels`, checked on every header: Pillow's own limit would warn at half of a number nobody chose.
Image.MAX_IMAGE_PIXELS = None

with contextlib.suppress(ImportError):  # Pillow has AVIF since 11.3
    from PIL import AvifImagePlugin

    # There is a worker process for each core: more threads would only take cores from each other.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _silence_libtiff() -> None:
    """libtiff tells stderr about every damaged file, and Pillow has no switch for it: take its handlers away.

    Where the library cannot be found (no /proc), it goes on talking; nothing else changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        loaded = (line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines())
        for path in {path for path in loaded if "libtiff" in Path(path).name}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


_silence_libtiff()

_warnings = threading.RLock()
"""`catch_warnings` changes the process's filters: two threads inside it at once would restore the wrong ones."""


_FOUR_BYTES = ("RGB", "RGBA", "RGBX")
_IN_PLACE = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "PPM")
"""Formats whose decoders write every pixel where they are told. Others build pictures of their own on the way."""


def decodes_in_place(name: str, mode: str) -> bool:
    """Whether pictures of this format and Pillow's mode can be decoded into four bytes a pixel of somebody else's."""
    return name in _IN_PLACE and mode in _FOUR_BYTES


@contextmanager
def open_image(data: bytes | memoryview, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """An image file of the format `name`, opened but not decoded; what the block does with it is translated too.

    Where Pillow makes room for a picture, of whatever size, it has at most `max_pixels` (or one more).

    A JPEG is opened as a plain JPEG even where it is an MPO, whose first image it is.

    Raises:
        SampleError: `image_truncated`, `image_corrupt` or `image_too_large`.
        MemoryError: there is not enough memory, which is not the sample's fault.
    """
    with translated(name), _at_most(max_pixels, name):
        file = io.BytesIO(data)
        with JpegImageFile(file) if name == "JPEG" else Image.open(file, formats=(name,)) as image:
            yield image


@contextmanager
def _at_most(pixels: int, name: str) -> Iterator[None]:
    """Pillow refuses what has more than twice its limit. It looks before it makes room by what a file claims."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, (pixels + 1) // 2
    try:
        yield
    except Image.DecompressionBombError as exc:
        raise SampleError("image_too_large", f"{name}: {_one_line(exc)}; expected at most {pixels} pixels") from exc
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Silence Pillow's warnings in the block, and turn its exceptions about a file of the format `name` into ours.

    Raises:
        SampleError: `image_truncated` or `image_corrupt`.
        MemoryError: there is not enough memory, which is not the sample's fault.
    """
    with _warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (SampleError, MemoryError):
            raise
        except Exception as exc:  # a decoder meets hostile bytes with whatever its code path raises
            if _WITHOUT_MEMORY.search(str(exc)):
                raise MemoryError(f"{name}: {_one_line(exc)}") from exc
            reason = "image_truncated" if "truncated" in str(exc) else "image_corrupt"
            raise SampleError(reason, f"{name}: {_one_line(exc)}") from exc


_WITHOUT_MEMORY = re.compile(r"out of memory|cannot allocate|decoder error -9|Insufficient memory", re.IGNORECASE)
"""What decoders that cannot raise a MemoryError say instead."""


def _one_line(exc: Exception) -> str:
    """The error's text without Pillow's object addresses, which differ from run to run."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text.split(" <_io.")[0][:200]
