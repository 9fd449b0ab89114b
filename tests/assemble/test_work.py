"""What decoding and resizing take is known from the header, is enough, and is refused by name beyond the limit.

Fault 130 of docs/faults.md.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from owl_stream.assemble.avif import coded_pixels
from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.assemble.limits import at_most_more
from owl_stream.assemble.work import resizing_bytes
from owl_stream.errors import SampleError
from tests.cli.faulty_shards import slow_bmp
from tests.support import poison
from tests.support.assembly import make_dataset, run_at
from tests.support.images import encode, photo, released
from tests.support.tars import Sample, chat, picture

PIXELS = 100_000_000


def refusal(data: bytes, **limits: int) -> SampleError:
    """Why a header is refused."""
    with pytest.raises(SampleError) as caught:
        probe(data, **{"max_pixels": PIXELS, **limits})
    return caught.value


@pytest.mark.parametrize("resize", ["simd", "pillow"])
def test_fault_130_every_poison_is_quarantined_by_name_and_the_others_are_served(tmp_path: Path, resize: str) -> None:
    """Indexing refuses them by their headers, whatever the resizer, and takes no memory for it."""
    samples: list[Sample] = [("good", {"json": chat(("<|image|>What?", "An owl.")), "jpg": picture(60, 40)})]
    for name, data in poison.poison_pictures().items():
        key, _, suffix = name.rpartition(".")
        samples.append((f"{key}-{suffix}", {"json": chat(("<|image|>What?", "An owl.")), suffix: data}))
    with (
        at_most_more(150 << 20),
        closing(make_dataset(tmp_path, samples, resize=resize, global_batch_size=1)) as dataset,
    ):
        bad = {row["key"]: (row["reason"], row["detail"]) for row in dataset.quarantine()}
        assert (dataset.samples, len(bad)) == (1, len(samples) - 1)
        assert {reason for reason, _ in bad.values()} == {"image_too_large", "jpeg_scans", "image_header"}
        for key in ("wide-png", "tall-png", "row-png", "tile-tiff", "large-jpg", "wide-bmp", "screen-gif"):
            reason, detail = bad[key]
            assert reason == "image_too_large", key
            assert "max_image_bytes = 268435456; make it smaller, or raise the setting" in detail
        assert run_at(dataset, 0, size=1).rows[0].status == "ok"


def _dear() -> Mapping[str, Callable[[], bytes]]:
    """Of every format and way of coding, a picture that takes tens of MiB."""
    large = Image.new("RGB", (2000, 1500), "teal")
    grey, turned = large.convert("L"), Image.Exif()
    turned[0x0112] = 6

    def tiff(**options: Any) -> Callable[[], bytes]:
        return lambda: encode(large, "TIFF", **options)

    def of(image: Image.Image, fmt: str, **options: Any) -> Callable[[], bytes]:
        return lambda: encode(image, fmt, **options)

    pictures: dict[str, Callable[[], bytes]] = {
        "a.jpg": of(large, "JPEG"),
        "progressive.jpg": of(large, "JPEG", progressive=True, subsampling=0),
        "grey.jpg": of(grey, "JPEG", progressive=True),
        "cmyk.jpg": of(large.convert("CMYK"), "JPEG", progressive=True),
        "damaged.jpg": lambda: encode(large, "JPEG", progressive=True)[:-2] + b"stray bytes" * 9 + b"\xff\xd9",
        "a.png": of(large, "PNG", compress_level=1),
        "rgba.png": lambda: poison.png(2000, 2000, colour=6),
        "deep.png": lambda: poison.png(2000, 2000, depth=16, colour=6, interlaced=True),
        "deep-grey.png": lambda: poison.png(2000, 2000, depth=16, colour=0),
        "grey-alpha.png": lambda: poison.png(2000, 2000, colour=4),
        "palette.png": lambda: poison.png(2000, 2000, colour=3),
        "wide.png": lambda: poison.png(100_000, 1),
        "tall.png": lambda: poison.png(1, 100_000),
        "a.gif": of(large.quantize(16), "GIF", transparency=3, disposal=2),
        "a.bmp": of(large, "BMP"),
        "packed.bmp": lambda: slow_bmp(1000),
        "a.ppm": of(large, "PPM"),
        "deep.pgm": lambda: b"P5\n1200 1000\n4095\n" + bytes(2 * 1_200_000),
        "plain.pbm": lambda: b"P1\n2000 2000\n" + b"1" * 4_000_000,
        "a.webp": of(large, "WEBP", method=0),
        "lossless.webp": of(large.convert("RGBA"), "WEBP", lossless=True, method=0, quality=0),
        "a.ico": lambda: poison.ico([encode(large.convert("RGBA"), "PNG", compress_level=1)]),
        "palette.ico": lambda: poison.ico([poison.png(2000, 2000, colour=3)]),
        "a.tiff": tiff(),
        "turned.tiff": tiff(exif=turned),
        "turned-deflate.tiff": tiff(exif=turned, compression="tiff_adobe_deflate"),
        "deflate.tiff": tiff(compression="tiff_adobe_deflate", strip_size=1 << 30),
        "lzma.tiff": tiff(compression="lzma"),
        "zstd.tiff": tiff(compression="zstd"),
        "jpeg.tiff": tiff(compression="jpeg", strip_size=1 << 30),
        "group4.tiff": lambda: encode(grey.convert("1"), "TIFF", compression="group4"),
        "tile.tiff": lambda: poison.tiled_tiff(64, 64, 4096),
    }
    if features.check("avif"):
        pictures |= {
            "a.avif": of(large, "AVIF", speed=10, subsampling="4:4:4"),
            "rgba.avif": of(large.convert("RGBA"), "AVIF", speed=10, subsampling="4:4:4"),
        }
    return pictures


def _endings(directory: Path, per_mille: int) -> dict[str, str]:
    command = [sys.executable, "-m", "tests.assemble.measured", str(directory), str(per_mille)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    endings: dict[str, str] = json.loads(done.stdout)
    return endings


@pytest.fixture(scope="module")
def dear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of them."""
    directory = tmp_path_factory.mktemp("dear")
    for name, make in _dear().items():
        (directory / name).write_bytes(make())
    return directory


def test_fault_130_what_is_worked_out_is_enough(dear: Path) -> None:
    """A process whose memory is limited to it decodes and resizes every kind of picture, with both resizers."""
    endings = _endings(dear, 1000)
    assert set(endings) == set(_dear())
    assert {name: ending for name, ending in endings.items() if ending != "well"} == {}


def test_fault_130_the_measure_itself_can_fail(dear: Path) -> None:
    """With a third of it hardly one is decoded: the limit of the test above is a limit."""
    endings = _endings(dear, 330)
    assert sum(ending != "well" for ending in endings.values()) > len(endings) / 2


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("background", poison.gif(1, 1)[:-12], "image_corrupt"),
        ("no block", b"GIF89a\1\0\1\0\0\0\0" + b"!\xf9\0" * 300_000, "image_header"),
        ("no picture", b"GIF89a\1\0\1\0\0\0\0;", "image_corrupt"),
    ],
)
def test_fault_130_a_gif_is_read_up_to_its_picture(name: str, data: bytes, reason: str) -> None:
    """Pillow reads its blocks one by one; there may not be too many."""
    assert refusal(data).reason == reason


def test_fault_130_a_gif_whose_picture_is_larger_than_its_screen_is_refused() -> None:
    """Pillow would make room for its background when it opens the file."""
    data = bytearray(encode(Image.new("P", (4, 4)), "GIF", disposal=2, transparency=0))
    picture_at = data.index(b",\0\0\0\0\4\0\4\0")
    data[picture_at + 5 : picture_at + 9] = struct.pack("<HH", 65_000, 65_000)
    with at_most_more(100 << 20):
        assert refusal(bytes(data)).reason == "image_too_large"


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_fault_130_a_webp_that_claims_a_huge_canvas_is_refused(kind: bytes) -> None:
    """Pillow would make room for two of them when it opens the file."""
    side = 16_383
    bits = struct.pack("<I", (side - 1) | (side - 1) << 14)
    body = {
        b"VP8X": bytes(4) + (side - 1).to_bytes(3, "little") * 2,
        b"VP8L": b"\x2f" + bits + bytes(8),
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", side, side),
    }[kind]
    data = b"RIFF" + struct.pack("<I", 4 + 8 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body
    with at_most_more(100 << 20):
        assert refusal(data, max_pixels=1 << 30).reason == "image_too_large"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_fault_130_an_avif_that_holds_more_than_it_shows_is_refused(mode: str) -> None:
    """The decoder would make all of it, and then scale it to the few pixels that the header says."""
    data = bytearray(encode(Image.new(mode, (4000, 4000)), "AVIF", speed=10))
    size_at = data.index(b"ispe") + 8
    data[size_at : size_at + 8] = struct.pack(">II", 64, 64)
    assert coded_pixels(bytes(data)) == [4000 * 4000] * (1 + (mode == "RGBA"))
    assert refusal(bytes(data)).reason == "image_too_large"
    for cut in range(0, len(data), 7):
        coded_pixels(data[:cut])  # whatever is cut off, it says nothing or a size


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_the_first_picture_of_an_avif_sequence_is_measured() -> None:
    """Files of several pictures say twice where the first one is."""
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    assert coded_pixels(encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)) == [64 * 48] * 2


def _tagged(tags: Mapping[int, int], order: str = "<", *, big: bool = False) -> bytes:
    """A TIFF of one directory and no pixels, in either byte order, or a BigTIFF."""
    head = b"II" if order == "<" else b"MM"
    entry, count = ("HHQQ", "Q") if big else ("HHII", "H")
    body = b"".join(struct.pack(order + entry, tag, 16 if big else 4, 1, value) for tag, value in sorted(tags.items()))
    start = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    return head + start + struct.pack(order + count, len(tags)) + body + bytes(8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        {322: 46_000, 323: 46_000},
        {322: 1 << 31, 323: 1 << 31},
        {322: 16, 323: 0xFFFFFFF0},
        {322: 20_000, 323: 20_000, 278: 1},
        {277: 65_535, 322: 512, 323: 512},
        {258: 65_535, 322: 512, 323: 512},
        {259: 7, 262: 6, 322: 6000, 323: 6000},
        {256: 2_000_000_000, 257: 1},
    ],
)
def test_fault_130_a_tiff_with_huge_pieces_is_refused(order: str, big: bool, pieces: dict[int, int]) -> None:
    """Whatever makes them so: sides, bits, samples, an extra copy; in either byte order, and in a BigTIFF."""
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 324: 8, 325: 8, **pieces}
    data = _tagged(tags, order, big=big)
    if big and order == ">":
        assert refusal(data).reason == "image_corrupt"  # Pillow has no such files
        return
    with at_most_more(100 << 20):
        assert refusal(data).reason in ("image_too_large", "image_corrupt")
    if pieces.keys() <= {322, 323, 278}:
        assert refusal(data).reason == "image_too_large"


def test_fault_130_a_tiff_of_many_numbers_is_refused() -> None:
    """Pillow makes an object of each number in a tag."""
    assert refusal(poison.striped_tiff(8, 200_000, rows=1)).reason == "image_header"
    assert probe(poison.striped_tiff(8, 60_000, rows=1), PIXELS).height == 60_000


def test_fault_130_a_jpeg_of_many_scans_is_refused_by_its_pixels() -> None:
    """Five hundred scans of a small picture pass; of a large one they are minutes."""
    error = refusal(poison.jpeg(4000, 4000, scans=400))
    assert error.reason == "jpeg_scans"
    assert "1073741824 pixels times scans" in error.detail
    assert probe(poison.jpeg(800, 800, scans=400), PIXELS).width == 800


@pytest.mark.parametrize(
    "data",
    [slow_bmp(5000), b"P3\n2400 2400\n255\n", b"P6\n2400 2400\n254\n", b"P2\n4100 4100\n255\n"],
    ids=["packed bitmap", "plain colours", "other maximum", "plain grey"],
)
def test_fault_130_large_pictures_of_decoders_in_python_are_refused(data: bytes) -> None:
    """They take a microsecond a sample: the remedy is another format."""
    error = refusal(data)
    assert error.reason == "image_too_large"
    assert "convert it to PNG" in error.detail


def test_the_limit_of_memory_is_exact() -> None:
    """What a header is worked out to take passes, a byte less does not, and says how much it would be."""
    data = photo("rocket.jpg")
    needed = probe(data, PIXELS).nbytes
    assert probe(data, PIXELS, needed).nbytes == needed
    assert f"up to {needed} bytes" in refusal(data, max_bytes=needed - 1).detail


def test_photographs_of_sixty_megapixels_pass() -> None:
    """The default leaves room for what cameras make: baseline JPEGs of 9,500 x 6,300 pixels."""
    header = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    sof = header.index(b"\xff\xc0")
    header[sof + 5 : sof + 9] = struct.pack(">HH", 6300, 9500)
    assert probe(bytes(header), PIXELS).width == 9500


def test_resizing_counts_both_ways() -> None:
    """A row and a column of pixels take the same, whichever side a resizer begins with."""
    wide, tall = (resizing_bytes(*size, [(384, 384)]) for size in ((1_000_000, 1), (1, 1_000_000)))
    assert wide > 4 * 384 * 1_000_000 < tall


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (700, 3), (3, 700), (1200, 800)])
def test_pictures_that_are_converted_by_the_piece_equal_pillows(mode: str, size: tuple[int, int]) -> None:
    """Pieces leave no seam, and memory that is used again nothing of the picture before."""
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 255, size[::-1], np.uint8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    data = encode(image, "PNG")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2) if mode == "I;16" else released(data)
    memory = np.full(size[0] * size[1] * 4, 77, np.uint8)
    assert np.array_equal(decode(data, probe(data, PIXELS), memory).pixels[..., :3], expected)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == size


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of ISO/IEC 14496-12."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def nested(depth: int) -> bytes:
    """Boxes in boxes."""
    inner = b""
    for _ in range(depth):
        inner = box(b"minf", inner)
    return inner


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("kind", ["pieces", "items", "boxes", "depth"])
def test_fault_130_an_avif_that_claims_parts_without_end_is_refused_at_once(kind: str, version: int) -> None:
    """Pieces of no bytes, items, boxes, and boxes in boxes: each costs nothing to claim."""
    number = struct.pack(">I" if version == 2 else ">H", 65_535)
    item = number + (bytes(2) if version else b"") + bytes(2)
    pieces = item + struct.pack(">H", 65_535)
    some = {"pieces": pieces * 16, "items": (item + struct.pack(">H", 1)) * 4000}.get(kind, b"")
    iloc = box(b"iloc", bytes([version, 0, 0, 0, 0, 0]), number, some)
    rest = {"boxes": box(b"free") * 9000, "depth": nested(1500)}.get(kind, b"")
    data = box(b"ftyp", b"avif", bytes(4), b"avifmif1") + box(b"meta", bytes(4), iloc) + rest
    with pytest.raises(SampleError, match=r"AVIF: expected .*at most"):
        probe(data, 1 << 20)
