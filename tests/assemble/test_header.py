"""Probing: what an image claims, and which claims are refused before a pixel is decoded."""

from __future__ import annotations

import resource
import struct
import warnings

import pytest
from PIL import Image, features

from owl_stream.assemble.header import probe
from owl_stream.assemble.jpeg import MAX_JPEG_SCANS
from owl_stream.errors import SampleError
from tests.support.images import PHOTOS, encode, huge_header, photo, png_bomb, png_chunk, scans_jpeg
from tests.support.tars import picture

PIXELS = 100_000_000


def refusal(data: bytes, max_pixels: int = PIXELS) -> str:
    """The reason for which probe refuses `data`."""
    with pytest.raises(SampleError) as caught:
        probe(data, max_pixels)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_size_is_read_from_every_format(fmt: str) -> None:
    """A header names format, width and height."""
    header = probe(picture(123, 45, fmt=fmt), PIXELS)
    assert (header.format, header.width, header.height) == (fmt, 123, 45)


def test_a_memoryview_into_a_shard_is_probed_without_a_copy() -> None:
    """Members are slices of a span, so anything with a buffer is taken."""
    data = picture(50, 40)
    view = memoryview(b"\0" * 7 + data + b"\xff\xd9")[7 : 7 + len(data)]
    assert probe(view, PIXELS).width == 50


def test_an_mpo_counts_as_its_first_jpeg() -> None:
    """A stereo photograph is two JPEGs in one file; the first is the image."""
    frames = [Image.new("RGB", (30, 20), "red"), Image.new("RGB", (300, 200), "blue")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    header = probe(data, PIXELS)
    assert (header.format, header.width, header.height) == ("JPEG", 30, 20)


def test_a_thumbnail_inside_a_jpeg_is_not_the_image() -> None:
    """The JPEG within an application segment has markers of its own, which are skipped with the segment."""
    data, thumbnail = picture(200, 100), picture(16, 8, seed=1)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    header = probe(data[:2] + segment + data[2:], PIXELS)
    assert (header.width, header.height) == (200, 100)


def test_fault_56_zero_bytes_are_refused() -> None:
    """An empty member is no image."""
    assert refusal(b"") == "image_empty"


@pytest.mark.parametrize("data", [b"hello, I am text", b"\xff\xd8", b"%PDF-1.7", b"RIFF0000WAVE", b"\0" * 5000])
def test_fault_58_wrong_magic_is_refused(data: bytes) -> None:
    """A format off the list is refused by its first bytes, whatever Pillow could do with it."""
    assert refusal(data) == "image_unknown"


UNREAD = {
    "HTML": b"<!DOCTYPE html><html><body>Sign in",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99999\n",
    "git-annex": b"/annex/objects/SHA256E-s99999--1234.jpg\n",
    "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "JPEG XL": b"\xff\x0a\xfa\x1f\x01",
    "JPEG 2000": b"\xff\x4f\xff\x51" + bytes(64),
    "SVG": b"<svg width='2' height='2'/>",
    "PDF": b"%PDF-1.7\n",
    "PSD": b"8BPS\0\1" + bytes(64),
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(64),
    "zip": b"PK\3\4" + bytes(64),
    "raw": b"II*\0\x10\0\0\0CR\2\0" + bytes(64),
    "begins b'BMW": b"BMW builds cars, and this is no picture of one.",
}


@pytest.mark.parametrize("words", UNREAD)
def test_fault_58_what_is_not_read_is_named_with_a_remedy(words: str) -> None:
    """Whatever the member's name says it is."""
    with pytest.raises(SampleError) as caught:
        probe(UNREAD[words], PIXELS)
    assert caught.value.reason == "image_unknown"
    assert words in caught.value.detail
    remedy = caught.value.detail.rpartition("; ")[2]
    picture_formats = ("HEIC", "JPEG XL", "JPEG 2000", "SVG", "PSD", "raw")
    assert ("convert it to JPEG, PNG or WebP" in remedy) == (words in picture_formats)
    assert ("git lfs pull" in remedy) == (words == "Git LFS")


@pytest.mark.parametrize("fmt", ["EPS", "TGA", "PCX", "SGI", "DDS", "XBM", "ICNS", "JPEG2000", "SPIDER", "MSP"])
def test_other_decoders_of_pillow_never_meet_the_data(fmt: str) -> None:
    """The list of formats is closed: what Pillow could do beyond it does not matter."""
    image = Image.new({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(fmt, "RGB"), (32, 32))
    assert refusal(encode(image, fmt)) == "image_unknown"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read() -> None:
    """Its size is known before a pixel is decoded, and held against the limit."""
    data = picture(123, 45, fmt="AVIF")
    assert probe(data, PIXELS)[:4] == ("AVIF", 123, 45, 0)
    assert refusal(data, 1000) == "image_too_large"


def test_avif_without_a_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older Pillow has none; the message says what to install."""
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(SampleError, match=r"11\.3") as caught:
        probe(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(64), PIXELS)
    assert caught.value.reason == "image_unknown"


def icon(content: bytes, width: int = 16, height: int = 16, bits: int = 32) -> bytes:
    """An ICO file with one picture, whatever its directory says of its size."""
    entry = struct.pack("<BBBBHHII", width, height, 0, 0, 1, bits, len(content), 22)
    return b"\0\0\1\0\1\0" + entry + content


def test_an_icon_has_the_size_of_the_picture_in_it() -> None:
    """The directory's numbers end at 256; the picture's own header counts, as it does for Pillow."""
    png = encode(Image.new("RGB", (300, 200), "red"), "PNG")
    assert probe(icon(png), PIXELS)[:4] == ("ICO", 300, 200, 0)
    bitmap = struct.pack("<IiiHHIIiiII", 40, 30, 2 * 20, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(30 * 20 * 4)
    assert probe(icon(bitmap), PIXELS)[:4] == ("ICO", 30, 20, 0)


@pytest.mark.parametrize("kind", ["png", "bitmap"])
def test_fault_59_an_icon_with_a_huge_picture_is_refused(kind: str) -> None:
    """Pillow decodes an icon when it opens it: so it is not opened."""
    bitmap = struct.pack("<IiiHHIIiiII", 40, 50_000, 100_000, 1, 32, 0, 0, 0, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(icon(huge_header("PNG") if kind == "png" else bitmap)) == "image_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_fault_60_a_bomb_in_an_icon_is_refused() -> None:
    """The PNG in it is held to the limits of a PNG."""
    assert refusal(icon(png_bomb(b"zTXt"))) == "png_bomb"


@pytest.mark.parametrize("header", [b"P6 50000 50000 255 ", b"P4 50000 50000 ", b"P3 50000 50000 255 1 2 3"])
def test_fault_59_a_huge_pnm_is_refused(header: bytes) -> None:
    """By its header."""
    assert refusal(header + bytes(99)) == "image_too_large"


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "BMP", "GIF"])
def test_fault_59_a_header_of_50_000_x_50_000_is_refused(fmt: str) -> None:
    """Our limit decides, on the header alone: no warning, no memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(huge_header(fmt)) == "image_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_the_pixel_limit_is_exact() -> None:
    """An image of the limit passes, one of a row more does not."""
    assert probe(picture(40, 25), 1000).height == 25
    assert refusal(picture(40, 26), 1000) == "image_too_large"


def test_pillows_own_limit_never_warns() -> None:
    """An image beyond Pillow's 89 megapixels is fine where the recipe allows it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(encode(Image.new("1", (10_000, 9_900)), "PNG"), PIXELS, 1 << 30).width == 10_000


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_fault_60_a_png_chunk_that_inflates_to_64_mib_is_refused(kind: bytes, place: str) -> None:
    """The bomb is refused after its first MiB, before or behind the pixels."""
    data = png_bomb(kind)
    if place == "behind":
        stop = 33 + 12 + struct.unpack_from(">I", data, 33)[0]
        data = data[:33] + data[stop:-12] + data[33:stop] + data[-12:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data) == "png_bomb"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


def test_fault_60_many_small_png_bombs_are_refused_together() -> None:
    """A hundred texts that each stay just under the limit share one."""
    bomb = png_bomb(b"zTXt", 1 << 20)
    length = struct.unpack_from(">I", bomb, 33)[0]
    chunk = bomb[33 : 33 + 12 + length]
    assert probe(bomb, PIXELS).width == 4
    assert refusal(bomb[:33] + chunk * 100 + bomb[33:]) == "png_bomb"


def test_an_ordinary_png_text_and_profile_pass() -> None:
    """Compressed text of ordinary size, damaged text and plain text are no reason to refuse an image."""
    png = png_bomb(b"zTXt", 1 << 20)
    damaged = png[:33] + png_chunk(b"zTXt", b"a\0\0not zlib") + png_chunk(b"iTXt", b"a\0\0\0\0\0hello") + png[33:]
    assert probe(damaged, PIXELS).width == 4


def test_fault_61_a_jpeg_of_10_000_scans_is_refused() -> None:
    """Scans are counted before any is decoded."""
    assert refusal(scans_jpeg(10_000)) == "jpeg_scans"
    assert probe(scans_jpeg(MAX_JPEG_SCANS), PIXELS).width == 64


@pytest.mark.parametrize("percent", range(5, 100, 5))
@pytest.mark.parametrize("progressive", [False, True])
def test_fault_57_a_jpeg_cut_anywhere_is_refused_by_its_markers(percent: int, progressive: bool) -> None:
    """A file that ends before its end-of-image marker is found bad without decoding it."""
    with Image.open(PHOTOS / "rocket.jpg") as image:
        data = encode(image, "JPEG", progressive=progressive)
    assert refusal(data[: len(data) * percent // 100]) == "jpeg_truncated"


def test_trailing_garbage_behind_a_jpeg_is_fine() -> None:
    """What follows the end-of-image marker is not looked at."""
    assert probe(photo("rocket.jpg") + b"\xff\xda" * 1000 + b"garbage", PIXELS).width == 640


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO"])
def test_a_header_cut_off_is_refused(fmt: str) -> None:
    """Bytes that end within the header are a typed error for every format."""
    data = picture(64, 48, fmt=fmt)
    for stop in (12, 16, 20):
        assert refusal(data[:stop]) in ("image_corrupt", "image_truncated", "image_unknown")


def test_a_jpeg_without_an_image_is_refused() -> None:
    """Start and end of image alone are not an image, nor is a height of zero."""
    assert refusal(b"\xff\xd8\xff\xd9") == "image_header"
    data = bytearray(picture(8, 8))
    sof = data.index(b"\xff\xc0")
    data[sof + 5 : sof + 7] = b"\0\0"
    assert refusal(bytes(data)) == "image_header"


@pytest.mark.parametrize("between", [b"\xff\xe5\x00\x02" * 70_000, b"\xff" * (2 << 20)], ids=["segments", "fill bytes"])
def test_jpeg_of_countless_segments_is_refused(between: bytes) -> None:
    """Pillow makes an object of each, or looks at each byte in Python: with 10 MB that was 300 MB beyond the limit."""
    data = encode(Image.new("CMYK", (16, 16)), "JPEG")
    with pytest.raises(SampleError, match="segments") as caught:
        probe(data[:2] + between + data[2:], 1000)
    assert caught.value.reason == "image_header"


def test_jpeg_whose_scan_is_mostly_stray_bytes_counts_its_copies() -> None:
    """What libjpeg warns of is looked for in copies of the file: three of them stand beside each other."""
    data = encode(Image.new("RGB", (16, 16)), "JPEG")
    data = data[:-2] + b"\1" * (1 << 20) + data[-2:]
    assert probe(data, 1000).nbytes >= 3 * len(data)
