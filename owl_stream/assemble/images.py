"""Decoding: image bytes -> pixels. Fast for JPEG, through Pillow for all else, and strict about damage.

The pixels equal those of `Image.open(...).convert("RGB")`, which is what the released processor does: no EXIF
orientation, alpha dropped, the first frame of an animation. 16-bit grey alone differs: Pillow clips it to 255, here
its high byte counts, as Pillow itself does for 16-bit colour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from owl_stream.assemble.header import Header
from owl_stream.assemble.jpeg import scans_alone
from owl_stream.assemble.pillow import decodes_in_place, open_image
from owl_stream.errors import SampleError
from owl_stream.layouts import Transparency

Pixels = NDArray[np.uint8]
"""[height, width, 4], C-contiguous: R, G, B and a byte that means nothing. Four bytes are what resizers like."""

_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
_STRAY_BYTES = "extraneous bytes before marker"
"""libjpeg's warning about bytes that belong to nothing. Pillow takes the picture, and so it is taken here. Between
segments they change no pixel; within a scan they mostly mean that its data was damaged before."""

MAX_KEPT_BYTES = 32 << 20
"""Of a decoder's memory that is used again: a picture of eight megapixels. Fresh memory costs a page fault every 4 KiB,
which is a tenth of decoding."""


class Decoded(NamedTuple):
    """Pixels, and what makes them suspicious: libjpeg's warning about a scan that Pillow accepts; mostly empty."""

    pixels: Pixels
    warning: str = ""


class Decoder:
    """Decodes into memory that it uses again. Not for use by two threads at once."""

    def __init__(self, transparency: Transparency = "dropped") -> None:
        self._memory, self._transparency = np.empty(0, np.uint8), transparency

    def decode(self, data: bytes | memoryview, header: Header) -> Decoded:
        """As `decode`, but the pixels are valid only until the next call."""
        nbytes = header.width * header.height * 4
        if nbytes > MAX_KEPT_BYTES:
            return decode(data, header, transparency=self._transparency)
        if nbytes > self._memory.nbytes:
            self._memory = np.empty(min(MAX_KEPT_BYTES, nbytes + nbytes // 4), np.uint8)
        return decode(data, header, self._memory, self._transparency)

    def free(self) -> None:
        """Give the memory back, which also happens by itself when pixels need more."""
        self._memory = np.empty(0, np.uint8)


def decode(
    data: bytes | memoryview,
    header: Header,
    memory: NDArray[np.uint8] | None = None,
    transparency: Transparency = "dropped",
) -> Decoded:
    """The pixels of an image whose header `probe` has accepted; perhaps a view of `memory`, if that is given.

    Raises:
        SampleError: `jpeg_corrupt`, `image_truncated` or `image_corrupt`: damage is never turned into grey pixels.
        MemoryError: there is not enough memory, which is not the sample's fault.
    """
    decoded = (
        _decode_jpeg(data, header, memory)
        if header.format == "JPEG"
        else Decoded(_decode_with_pillow(data, header, memory, transparency))
    )
    _check_size(header, decoded.pixels.shape[1], decoded.pixels.shape[0])
    return decoded


def _check_size(header: Header, width: int, height: int) -> None:
    if (width, height) != (header.width, header.height):
        raise SampleError(
            "image_corrupt",
            f"{header.format}: the header says {header.width} x {header.height} pixels, the data is {width} x {height}",
        )


def _decode_jpeg(data: bytes | memoryview, header: Header, memory: NDArray[np.uint8] | None) -> Decoded:
    """By libjpeg-turbo's simple interface, which tells warnings. Where there are some, or where it refuses what Pillow
    may still take, such as odd subsampling, the pixels are Pillow's.

    A CMYK image is decoded here only to find damage, about which Pillow is silent; its colours are Pillow's.
    """
    colours, warning = "CMYK" if header.channels == 4 else "RGBX", ""
    pixels, complaint = _decode_strictly(data, colours, memory)
    if pixels is not None and colours == "RGBX":
        return Decoded(pixels)
    del pixels  # Pillow needs room for its own
    if complaint:  # libjpeg tells its first warning only, so one about a scan may hide behind others
        warning = _warning_of_scans(data, colours, memory)
    return Decoded(_decode_with_pillow(data, header, memory), warning)


def _warning_of_scans(data: bytes | memoryview, colours: str, memory: NDArray[np.uint8] | None) -> str:
    """What libjpeg warns of when all that is no scan is left out or in order; empty if it is content then.

    Raises:
        SampleError: `jpeg_corrupt`.
    """
    scans = scans_alone(data)
    _, complaint = _decode_strictly(scans, colours, memory)
    if _STRAY_BYTES in complaint:
        padded = scans[:-2].rstrip(b"\0")
        _, complaint_without = _decode_strictly(padded + b"\xff\xd9", colours, memory)
        return complaint if complaint_without else ""  # cameras fill up with zeros
    if complaint.startswith(_DAMAGE):
        raise SampleError("jpeg_corrupt", f"JPEG: {complaint}")
    return ""


def _decode_strictly(
    data: bytes | memoryview, colours: str, memory: NDArray[np.uint8] | None
) -> tuple[Pixels | None, str]:
    """The pixels, or why there are none: libjpeg's error or its first warning."""
    try:
        return simplejpeg.decode_jpeg(data, colours, fastdct=False, fastupsample=False, buffer=memory), ""
    except ValueError as exc:
        complaint = " ".join(str(exc).split())
        if "nsufficient memory" in complaint or "emory allocation" in complaint:
            raise MemoryError(complaint) from exc
        return None, complaint


def _decode_with_pillow(
    data: bytes | memoryview,
    header: Header,
    memory: NDArray[np.uint8] | None,
    transparency: Transparency = "dropped",
) -> Pixels:
    """Where Pillow's pixels are four bytes each, it decodes right into ours. Otherwise they are converted by the piece,
    so that beside its picture and ours there is little more."""
    # A bitmap in an icon is opened with its mask below it. A few pixels more are not worth another error.
    with open_image(data, header.format, 2 * header.width * header.height + 4096) as image:
        _check_size(header, *image.size)
        target = pixels = None
        if decodes_in_place(header.format, image.mode):
            pixels = _blank(header, memory)
            image.im = target = Image.frombuffer("RGBX", image.size, pixels, "raw", "RGBX", 0, 1).im
        image.load()
        _check_size(header, *image.size)
        white = transparency == "white" and image.has_transparency_data
        if pixels is None or image.im is not target:
            pixels = _blank(header, memory)
            _convert(image, pixels, white)
        elif white:
            _convert(image, pixels, white)
        return pixels


_PIECE = 512
"""Side of the pieces that are converted."""


def _blank(header: Header, memory: NDArray[np.uint8] | None) -> Pixels:
    """Zeros, as Pillow's new pictures are: some decoders leave pixels out."""
    shape = (header.height, header.width, 4)
    if memory is None or memory.nbytes < math.prod(shape):
        return np.zeros(shape, np.uint8)
    pixels = memory[: math.prod(shape)].reshape(shape)
    pixels[...] = 0
    return pixels


def _convert(image: Image.Image, out: Pixels, white: bool) -> None:
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    rows = max(1, _PIECE * _PIECE // image.width)
    columns = max(1, _PIECE * _PIECE // rows)
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            bottom, right = min(top + rows, image.height), min(left + columns, image.width)
            piece = image.crop((left, top, right, bottom))
            if wide:
                out[top:bottom, left:right] = (np.asarray(piece) >> 8).astype(np.uint8)[:, :, None]
            else:
                opaque = _on_white(image, piece) if white else _drop_alpha(piece)
                out[top:bottom, left:right] = np.asarray(opaque.convert("RGBX"))


def _on_white(image: Image.Image, piece: Image.Image) -> Image.Image:
    """A piece of an image with transparency, laid on white as transformers 5 does it (`convert_to_rgb`), to the bit."""
    if piece.mode == "RGBX":  # it lies in our memory, of which Pillow does not know what the fourth byte is
        if image.mode == "RGBA":
            piece = Image.frombytes("RGBA", piece.size, piece.tobytes())
        else:  # one colour is clear
            piece = piece.convert("RGB")
            piece.info["transparency"] = image.info["transparency"]
    background = Image.new("RGBA", piece.size, (255, 255, 255))
    return Image.alpha_composite(background, piece.convert("RGBA")).convert("RGB")


def _drop_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
