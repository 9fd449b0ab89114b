"""Decoding: image bytes -> pixels. Fast for JPEG, through Pillow for all else, and strict about damage.

The pixels equal those of `Image.open(...).convert("RGB")`, which is what the released processor does: no EXIF
orientation, alpha dropped, the first frame of an animation. 16-bit grey alone differs: Pillow clips it to 255, here
its high byte counts, as Pillow itself does for 16-bit colour.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from owl_stream.assemble.header import Header
from owl_stream.assemble.pillow import open_image
from owl_stream.errors import SampleError

Pixels = NDArray[np.uint8]
"""[height, width, 4], C-contiguous: R, G, B and a byte that means nothing. Four bytes are what resizers like."""

_HARMLESS = "extraneous bytes before marker"
"""libjpeg's warning about padding between segments, which cameras write. Every other warning is a damaged image."""


MAX_KEPT_BYTES = 32 << 20
"""Of a decoder's memory that is used again: a picture of eight megapixels. Fresh memory costs a page fault every 4 KiB,
which is a tenth of decoding."""


class Decoder:
    """Decodes into memory that it uses again. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def decode(self, data: bytes | memoryview, header: Header) -> Pixels:
        """As `decode`, but the pixels are valid only until the next call."""
        nbytes = header.width * header.height * 4
        if nbytes > MAX_KEPT_BYTES:
            return decode(data, header)
        if nbytes > self._memory.nbytes:
            self._memory = np.empty(min(MAX_KEPT_BYTES, nbytes + nbytes // 4), np.uint8)
        return decode(data, header, self._memory)


def decode(data: bytes | memoryview, header: Header, memory: NDArray[np.uint8] | None = None) -> Pixels:
    """The pixels of an image whose header `probe` has accepted; perhaps a view of `memory`, if that is given.

    Raises:
        SampleError: `jpeg_corrupt`, `image_truncated` or `image_corrupt`: damage is never turned into grey pixels.
        MemoryError: there is not enough memory, which is not the sample's fault.
    """
    pixels = _decode_jpeg(data, header, memory) if header.format == "JPEG" else None
    if pixels is None:
        pixels = _decode_with_pillow(data, header)
    if pixels.shape != (header.height, header.width, 4):
        raise SampleError(
            "image_corrupt",
            f"{header.format}: the header says {header.width} x {header.height} pixels, "
            f"the data is {pixels.shape[1]} x {pixels.shape[0]}",
        )
    return pixels


def _decode_jpeg(data: bytes | memoryview, header: Header, memory: NDArray[np.uint8] | None) -> Pixels | None:
    """None where libjpeg-turbo's simple interface refuses what Pillow may still take, such as odd subsampling.

    A CMYK image is decoded here only to find damage, about which Pillow is silent; its colours are Pillow's.
    """
    cmyk = header.channels == 4
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "CMYK" if cmyk else "RGBX", fastdct=False, fastupsample=False, buffer=memory
        )
    except ValueError as exc:
        message = " ".join(str(exc).split())
        damaged = message.startswith(("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression"))
        if damaged and _HARMLESS not in message:
            raise SampleError("jpeg_corrupt", f"JPEG: {message}") from exc
        return None
    return None if cmyk else pixels


def _decode_with_pillow(data: bytes | memoryview, header: Header) -> Pixels:
    with open_image(data, header.format) as image:
        if image.mode.startswith("I;16"):
            return _widen((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(_drop_alpha(image).convert("RGBX"))


def _drop_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _widen(grey: NDArray[np.uint8]) -> Pixels:
    """Grey [h, w] as four equal channels."""
    return np.repeat(grey[:, :, None], 4, axis=2)
