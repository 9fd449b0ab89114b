"""What a file is by its first bytes: every format by a real or minimal file, and text that only looks like one.

Fault 107 of docs/faults.md.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from owl_stream.errors import SampleError
from owl_stream.pack.images import ImageRoot
from owl_stream.shards.media import member_kind
from owl_stream.shards.sample import Member
from owl_stream.shards.sniff import AUDIO_FORMATS, FORMAT_WORDS, HEAD_BYTES, IMAGE_FORMATS, VIDEO_FORMATS, sniff
from tests.support.images import encode, photo


def picture(fmt: str, mode: str = "RGB", **options: object) -> bytes:
    """A small picture, written by Pillow."""
    return encode(Image.new(mode, (40, 30)), fmt, **options)


def box(kind: bytes, content: bytes) -> bytes:
    """One box of an ISO media file."""
    return (len(content) + 8).to_bytes(4) + kind + content


def brands(major: bytes, *others: bytes) -> bytes:
    """The first box of an ISO media file, and a second one."""
    return box(b"ftyp", major + bytes(4) + b"".join(others)) + box(b"free", bytes(64))


def sound() -> bytes:
    """A short WAV."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(400))
    return out.getvalue()


def archive(kind: str) -> bytes:
    """An archive with one text in it."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as packed:
            packed.writestr("a.txt", "text")
    else:
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


def array() -> bytes:
    """An .npy file."""
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

FILES = [
    ("jpeg", photo("rocket.jpg")),
    ("jpeg", b"\xff\xd8\xff"),
    ("png", photo("horse.png")),
    ("webp", picture("WEBP")),
    ("gif", picture("GIF")),
    ("bmp", picture("BMP")),
    ("tiff", picture("TIFF")),
    ("tiff", b"MM\0*" + bytes(60)),
    ("tiff", picture("TIFF", big_tiff=True)),
    ("ico", picture("ICO")),
    ("jpeg2000", picture("JPEG2000")),
    ("jpeg2000", picture("JPEG2000", no_jp2=True)),
    *[("pnm", picture("PPM", mode)) for mode in ("1", "L", "RGB", "I")],
    ("pnm", b"P3\n# made by hand\n2 2\n255\n" + b"1 2 3 " * 4),
    ("pnm", b"Pf\n2 2\n-1.0\n" + bytes(16)),
    ("pam", b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(12)),
    ("dds", picture("DDS")),
    ("icns", picture("ICNS")),
    ("psd", b"8BPS\0\1" + bytes(20)),
    ("jxl", b"\xff\x0a\xfa\x1f\x01"),
    ("jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + brands(b"jxl ", b"jxl ")),
    ("avif", brands(b"avif", b"avif", b"mif1", b"miaf")),
    ("avif", brands(b"mif1", b"mif1", b"avif", b"miaf")),
    ("avif", brands(b"avis", b"avif", b"msf1")),
    ("heic", brands(b"heic", b"mif1", b"heic")),
    ("heic", brands(b"mif1", b"mif1", b"heic")),
    ("heic", brands(b"heix", b"mif1")),
    ("raw", brands(b"crx ", b"isom")),
    ("raw", b"II*\0\x10\0\0\0CR\2\0" + bytes(60)),
    ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("svg", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="2">'),
    ("mp4", brands(b"isom", b"isom", b"avc1")),
    ("mp4", brands(b"qt  ", b"qt  ")),
    ("webm", b"\x1aE\xdf\xa3" + bytes(30)),
    ("avi", b"RIFF\1\2\3\4AVI LIST"),
    ("mpeg", b"G" + bytes([0x40]) + b"\xff" * 186 + b"G" + bytes(187)),
    ("m4a", brands(b"M4A ", b"M4A ")),
    ("wav", sound()),
    ("mp3", b"ID3\4\0\0" + bytes(40)),
    ("mp3", b"\xff\xfb\x90\x64" + bytes(40)),
    ("aac", b"\xff\xf1\x50\x80" + bytes(40)),
    ("ogg", b"OggS\0\2" + bytes(40)),
    ("flac", b"fLaC\0\0\0\x22"),
    ("pdf", b"%PDF-1.7\n%"),
    ("html", b"<!DOCTYPE html>\n<html>"),
    ("html", b"\n\n  <HTML><body>404 Not Found"),
    ("html", b"<head><title>Sign in"),
    ("html", b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">'),
    ("xml", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>'),
    ("xml", b"<Error><Code>NoSuchKey</Code></Error>"),
    ("git-lfs", LFS),
    ("git-annex", b"/annex/objects/SHA256E-s12--ab.jpg\n"),
    ("gzip", gzip.compress(b"text")),
    ("xz", lzma.compress(b"text")),
    ("zip", archive("zip")),
    ("tar", archive("tar")),
    ("npy", array()),
    ("macos", b"\0\5\x16\7\0\2\0\0Mac OS X"),
]


@pytest.mark.parametrize(("name", "data"), FILES, ids=[f"{at}-{name}" for at, (name, _) in enumerate(FILES)])
def test_a_format_is_known_by_its_first_bytes(name: str, data: bytes) -> None:
    """Whole, as a view, and cut to what is looked at."""
    assert sniff(data) == sniff(memoryview(data)) == name
    assert sniff(data[:HEAD_BYTES] + b"\0" * (len(data) - HEAD_BYTES)) == name
    assert name in FORMAT_WORDS


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_pillows_own_avif_is_known() -> None:
    """What a real encoder writes."""
    assert sniff(picture("AVIF")) == "avif"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "BM",
        "BMW builds cars, and this is a caption about one of them, long enough for a header.",
        "GIF is a format. GIF8 too.",
        "P3 is the third try.",
        "P1\nis a paragraph",
        "P7\nis another",
        "RIFF raff, 1234WEB and more",
        "ID3 tags are for music",
        "Good afternoon, " + "G" * 400,
        "Rar! said the lion",
        "PK is short for Peking",
        "icns"[:3],
        "I am text, MM, II",
        "BZh is no word",
        "FORM follows function",
        "a < b, and <html> comes later",
        "<|image|> is a marker",
        "version 2 of the text",
        "%PDF is a format",
        '{"messages": []}',
    ],
)
def test_text_that_only_looks_like_a_format_is_none(text: str) -> None:
    """A short magic alone does not make a picture of a caption."""
    assert sniff(text.encode()) == ""


@pytest.mark.parametrize(("name", "data"), FILES, ids=[f"{at}-{name}" for at, (name, _) in enumerate(FILES)])
def test_any_beginning_of_a_file_is_taken(name: str, data: bytes) -> None:
    """However short: the answer is a format or none, never an error."""
    for stop in range(min(len(data), HEAD_BYTES)):
        assert sniff(data[:stop]) in ("", *FORMAT_WORDS)


def test_pictures_videos_and_sounds_are_apart() -> None:
    """No format is two kinds of medium."""
    kinds = (IMAGE_FORMATS, VIDEO_FORMATS, AUDIO_FORMATS)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))


@pytest.mark.parametrize(
    ("ext", "data", "kind"),
    [
        ("image", photo("rocket.jpg"), "image"),
        ("0", picture("BMP"), "image"),
        ("drawing", b"<svg/>", ""),
        ("clip", brands(b"isom", b"avc1"), "video"),
        ("voice", sound(), "audio"),
        ("note", b"BMW builds cars", ""),
        ("txt", b"GIF89a", ""),
        ("pyd", photo("rocket.jpg"), ""),
        ("jpg", brands(b"isom", b"avc1"), "image"),
    ],
)
def test_a_suffix_that_says_nothing_leaves_it_to_the_content(ext: str, data: bytes, kind: str) -> None:
    """Pictures, videos and sounds are found under any name; a suffix that says what the member is decides."""
    assert member_kind(Member(f"a.{ext}", ext, 0, memoryview(data))) == kind


@pytest.mark.parametrize(
    ("fmt", "ext"), [("JPEG", "jpg"), ("TIFF", "tif"), ("BMP", "bmp"), ("PPM", "pnm"), ("ICO", "ico")]
)
def test_pack_names_a_file_without_a_suffix_by_its_content(tmp_path: Path, fmt: str, ext: str) -> None:
    """The member in the shard gets the suffix of what it is."""
    (tmp_path / "picture").write_bytes(picture(fmt))
    assert ImageRoot(tmp_path, allow_outside=False).find("picture").ext == ext


@pytest.mark.parametrize(
    ("data", "words", "reason"),
    [
        (b"8BPS\0\1" + bytes(20), "PSD", "image_type"),
        (LFS, "Git LFS", "image_lfs_pointer"),
        (b"BMW builds cars", "nor", "image_type"),
    ],
)
def test_pack_names_a_file_that_is_no_picture(tmp_path: Path, data: bytes, words: str, reason: str) -> None:
    """What it is instead is said."""
    (tmp_path / "picture").write_bytes(data)
    with pytest.raises(SampleError, match=words) as caught:
        ImageRoot(tmp_path, allow_outside=False).find("picture")
    assert caught.value.reason == reason
