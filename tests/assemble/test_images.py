"""Decoding: the released processor's pixels, and never grey ones for damaged bytes.

Fault 107 of docs/faults.md.
"""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, features

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.errors import SampleError
from tests.support.images import damaged_jpeg, encode, photo, png_chunk, released

JPEGS = ("rocket.jpg", "hubble_deep_field.jpg", "retina.jpg")


def rgb(data: bytes) -> NDArray[np.uint8]:
    """The pixels that assembly sees, uint8 [h, w, 3]."""
    return decode(data, probe(data, 10**8)).pixels[..., :3]


def refusal(data: bytes) -> str:
    """The reason for which `data` is refused, be it by its header or its pixels."""
    with pytest.raises(SampleError) as caught:
        rgb(data)
    assert caught.value.detail
    return caught.value.reason


def rocket(mode: str = "RGB") -> Image.Image:
    """A photograph in some mode."""
    with Image.open(io.BytesIO(photo("rocket.jpg"))) as image:
        return image.convert(mode)


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_pixels_equal_pillows(name: str) -> None:
    """libjpeg-turbo is asked for the exact transforms, so a photograph is the same bit for bit."""
    assert np.array_equal(rgb(photo(name)), released(photo(name)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 95])
def test_jpeg_pixels_equal_pillows_in_every_common_encoding(subsampling: int, progressive: bool, quality: int) -> None:
    """Subsampling, progression and quality make no difference."""
    data = encode(rocket(), "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)
    assert np.array_equal(rgb(data), released(data))


def test_real_jpegs_equal_pillows(shared_data: Path) -> None:
    """The real samples, every image of the first shard."""
    count = 0
    with tarfile.open(shared_data / "real" / "real-00000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                data = tar.extractfile(member).read()  # type: ignore[union-attr] # a regular file
                assert np.array_equal(rgb(data), released(data)), member.name
                count += 1
    assert count > 20


def odd_jpeg() -> bytes:
    """A JPEG with 1 x 4 subsampling, which libjpeg-turbo's simple interface does not know and Pillow does."""
    data = bytearray(encode(rocket().resize((64, 64)), "JPEG", subsampling=0))
    sof = data.index(b"\xff\xc0")
    for component in range(3):
        data[sof + 11 + 3 * component] = 0x14 if component == 0 else 0x12
    return bytes(data)


@pytest.mark.parametrize("percent", range(5, 100, 5))
@pytest.mark.parametrize("progressive", [False, True])
def test_fault_57_a_jpeg_cut_anywhere_is_an_error_not_grey_pixels(percent: int, progressive: bool) -> None:
    """Even where someone has put an end-of-image marker behind the cut, so that Pillow is content."""
    data = encode(rocket(), "JPEG", progressive=progressive)
    cut = data[: len(data) * percent // 100]
    assert refusal(cut) == "jpeg_truncated"
    assert refusal(cut + b"\xff\xd9") in ("jpeg_corrupt", "image_header", "jpeg_truncated")


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("percent", [10, 35, 60, 85, 95])
def test_fault_57_other_formats_cut_anywhere_are_errors_too(fmt: str, percent: int) -> None:
    """No format is filled up with what is not there."""
    data = encode(rocket("P" if fmt == "GIF" else "RGB"), fmt)
    assert refusal(data[: len(data) * percent // 100]) in ("image_truncated", "image_corrupt")


def test_a_jpeg_with_holes_in_its_data_is_an_error() -> None:
    """Pillow takes it without a word; the released run would train on grey."""
    data = damaged_jpeg(photo("rocket.jpg"))
    assert released(data).shape == (427, 640, 3)
    assert refusal(data) == "jpeg_corrupt"


def test_what_pillow_accepts_around_a_jpeg_is_fine() -> None:
    """Bytes behind the end and padding between segments change no pixel."""
    data = photo("rocket.jpg")
    assert np.array_equal(rgb(data + b"trailing garbage" * 50), released(data))
    tables = data.index(b"\xff\xdb")
    padded = data[:tables] + b"\0\0\0" + data[tables:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(padded)
    assert np.array_equal(rgb(padded), released(data))


def test_what_the_fast_decoder_refuses_goes_to_pillow() -> None:
    """A valid JPEG is not bad because it is unusual."""
    data = odd_jpeg()
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data)
    assert np.array_equal(rgb(data), released(data))


def ycck_jpeg() -> bytes:
    """A four-channel JPEG that says (Adobe transform 2) that its first three are YCbCr."""
    data = encode(rocket("CMYK"), "JPEG")
    adobe = data.index(b"Adobe")
    return data[: adobe + 11] + b"\2" + data[adobe + 12 :]


@pytest.mark.parametrize("data", [encode(rocket("CMYK"), "JPEG"), ycck_jpeg()], ids=["CMYK", "YCCK"])
def test_fault_63_cmyk_and_ycck_have_pillows_colours(data: bytes) -> None:
    """Four-channel JPEGs go through Pillow, and damage in them is found all the same."""
    assert np.array_equal(rgb(data), released(data))
    assert refusal(damaged_jpeg(data)) == "jpeg_corrupt"


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_fault_64_exif_orientation_is_not_applied(orientation: int, fmt: str) -> None:
    """The released processor does not look at it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = rocket()
    data = encode(image, fmt, exif=exif, **({"lossless": True} if fmt == "WEBP" else {}))
    assert rgb(data).shape == (427, 640, 3)
    assert np.array_equal(rgb(data), released(data))


def test_fault_65_16_bit_grey_keeps_its_high_byte() -> None:
    """Pillow's own conversion would clip all but the darkest 256 levels to white."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for fmt in ("PNG", "TIFF"):
        pixels = rgb(encode(Image.fromarray(levels), fmt))
        assert np.array_equal(pixels, np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2)), fmt


def test_fault_65_16_bit_colour_keeps_its_high_byte() -> None:
    """As Pillow reads it; written by hand, for Pillow cannot write it."""
    levels = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3) * 331
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    png += png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    assert np.array_equal(rgb(png), (levels >> 8).astype(np.uint8))


def grey_with_transparency() -> bytes:
    """A palette whose transparency is a list of bytes, about which Pillow warns when it is dropped."""
    return encode(rocket().quantize(16), "PNG", transparency=bytes([0, 128] * 8))


@pytest.mark.parametrize(
    "data",
    [
        encode(rocket().quantize(32), "PNG"),
        grey_with_transparency(),
        encode(rocket("RGBA"), "PNG"),
        photo("horse.png"),
        encode(rocket("LA"), "PNG"),
        encode(rocket("L"), "PNG"),
        encode(rocket("L"), "JPEG"),
        encode(rocket("1"), "PNG"),
        encode(rocket("P"), "GIF"),
        encode(rocket("CMYK"), "TIFF"),
        encode(rocket("RGBA"), "WEBP", lossless=True),
    ],
    ids=[
        "palette",
        "palette-alpha",
        "rgba",
        "horse",
        "la",
        "grey",
        "grey-jpeg",
        "bit",
        "gif",
        "cmyk-tiff",
        "webp-alpha",
    ],
)
def test_fault_66_palette_alpha_and_grey_become_rgb_as_released(data: bytes) -> None:
    """Alpha is dropped, not blended, and nobody hears a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = released(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(rgb(data), expected)


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "MPO", "TIFF"])
def test_fault_67_the_first_frame_of_an_animation_counts(fmt: str) -> None:
    """Animations, stereo pairs and multi-page files are their first picture."""
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if fmt == "WEBP" else {}
    pixels = rgb(encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2


ODD_FORMATS = {
    "bmp": ("BMP", "RGB", {}),
    "bmp grey": ("BMP", "L", {}),
    "bmp bit": ("BMP", "1", {}),
    "bmp palette": ("BMP", "P", {}),
    "bmp alpha": ("BMP", "RGBA", {}),
    "ppm": ("PPM", "RGB", {}),
    "pgm": ("PPM", "L", {}),
    "pbm": ("PPM", "1", {}),
    "ico png": ("ICO", "RGB", {}),
    "ico bitmap": ("ICO", "RGB", {"bitmap_format": "bmp"}),
    "ico alpha": ("ICO", "RGBA", {"bitmap_format": "bmp"}),
    "tiff lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff alpha": ("TIFF", "RGBA", {}),
    "tiff big": ("TIFF", "RGB", {"big_tiff": True}),
    "gif": ("GIF", "P", {}),
    "webp lossy": ("WEBP", "RGB", {}),
}


@pytest.mark.parametrize("name", ODD_FORMATS)
def test_every_format_that_is_read_has_pillows_pixels(name: str) -> None:
    """Whatever the member is called: its content decides."""
    fmt, mode, options = ODD_FORMATS[name]
    data = encode(rocket().resize((200, 100)).convert(mode), fmt, **options)
    assert np.array_equal(rgb(data), released(data))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif_has_pillows_pixels(mode: str) -> None:
    """The first frame where there are several; cut off it is an error."""
    frames = [rocket(mode).resize((64, 48)), Image.new(mode, (64, 48))]
    for options in ({}, {"save_all": True, "append_images": frames[1:]}):
        data = encode(frames[0], "AVIF", **options)
        assert np.array_equal(rgb(data), released(data))
        assert refusal(data[: len(data) * 2 // 3]) in ("image_truncated", "image_corrupt")


def test_fault_65_a_16_bit_pgm_keeps_its_high_byte() -> None:
    """As other 16-bit grey does; Pillow would clip it."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = b"P5 256 256 65535\n" + levels.astype(">u2").tobytes()
    assert np.array_equal(rgb(data), np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_an_icon_with_a_picture_of_another_size_is_taken() -> None:
    """Pillow warns that its directory says otherwise, and gives the pixels."""
    png = encode(rocket().resize((300, 200)), "PNG")
    data = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = released(data)
    assert np.array_equal(rgb(data), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 65_000), (65_000, 1)])
@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_fault_68_the_thinnest_images_decode(size: tuple[int, int], fmt: str) -> None:
    """One pixel, one column, one row."""
    data = encode(Image.new("RGB", size, (200, 100, 50)), fmt)
    assert np.array_equal(rgb(data), released(data))


def test_a_header_that_lies_about_the_pixels_is_an_error() -> None:
    """Crops are laid out by the header's size; a decoder that finds another size must not be believed silently."""
    small, large = (encode(Image.new("RGB", size), "PNG") for size in ((8, 8), (16, 16)))
    with pytest.raises(SampleError) as caught:
        decode(large, probe(small, 10**8))
    assert caught.value.reason == "image_corrupt"


def test_damage_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    """Decoders write to stderr if they are let: a log full of libtiff helps nobody."""
    rng = np.random.default_rng(5)
    bad = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fmt, options in (
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "jpeg"}),
            ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("PNG", {}),
            ("WEBP", {}),
            ("GIF", {}),
            ("JPEG", {"progressive": True}),
            ("BMP", {}),
        ):
            whole = encode(rocket().resize((64, 48)), fmt, **options)
            for _ in range(40):
                data = bytearray(whole)
                for place in rng.integers(4, len(data), 6):
                    data[place] = rng.integers(0, 256)
                try:
                    rgb(bytes(data))
                except SampleError:
                    bad += 1
    assert bad > 40
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
