"""Shards with one fault of each kind planted among good samples, and what must be found in them."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from tests.support.damage import BLOCK, END, binary_size, cut, header, member, member_offsets, overwrite, padded, write
from tests.support.images import damaged_jpeg, encode, huge_header, photo, png_bomb, scans_jpeg
from tests.support.tars import Sample, chat, picture, write_shard

Found = tuple[str, str]
"""(shard, key); the key is empty where the shard itself is damaged."""

PICTURE = picture(40, 30)
ASKED = chat(("<|image|>What is it?", "An owl."))
MAX_LENGTH = 256


def good(key: str) -> Sample:
    """A sample that nothing is wrong with."""
    return key, {"jpg": PICTURE, "json": ASKED}


def plant_shard_faults(directory: Path) -> set[Found]:
    """Faults 42 to 49, 50 to 52, a shard each; returns what must be found."""
    expected = _plant_cuts(directory) | _plant_names(directory)
    (directory / "52.tar").write_bytes(b"")
    write(directory / "52-zeros.tar", end=bytes(10 * BLOCK))
    return expected | {("52.tar", ""), ("52-zeros.tar", "")}


def _blocks(*keys: str) -> list[bytes]:
    return [member(f"{key}.jpg", PICTURE) + member(f"{key}.json", ASKED) for key in keys]


def _plant_cuts(directory: Path) -> set[Found]:
    """Each spoils the sample that it touches, and is named itself; what comes before stays good."""
    four = ("0", "1", "2", "3")
    for name in ("42.tar", "43.tar"):
        write(directory / name, *_blocks(*four))
    places = member_offsets(directory / "42.tar")
    cut(directory / "42.tar", places["2.jpg"][1] + 100)
    cut(directory / "43.tar", places["2.json"][0] + 200)
    overwrite(write(directory / "44.tar", *_blocks(*four)), places["2.json"][0] + 3, b"X")
    write(directory / "45.tar", *_blocks("0", "1", "2"), end=b"")
    write(directory / "46-negative.tar", *_blocks("1"), header("2.jpg", raw_size=binary_size(-1)), *_blocks("4"))
    write(directory / "46-absurd.tar", *_blocks("1"), header("2.jpg", raw_size=binary_size(1 << 62)), padded(b"x"))
    bomb = member("././@LongLink", b"a" * (17 << 20), kind=b"L")
    write(directory / "47.tar", *_blocks("1", "2"), bomb, *_blocks("3"))
    packed = gzip.compress(b"".join(_blocks(*four)) + END)
    (directory / "48.tar").write_bytes(packed)
    (directory / "48.tar.gz").write_bytes(packed)
    touched = ("42.tar", "43.tar", "44.tar", "45.tar", "46-negative.tar", "46-absurd.tar", "47.tar")
    return {(name, "2") for name in touched} | {(name, "") for name in (*touched, "48.tar", "48.tar.gz")}


def _plant_names(directory: Path) -> set[Found]:
    links = [header(f"{kind}.png", 0, kind.encode(), "/etc/passwd") + _blocks(kind)[0] for kind in "12346"]
    hostile = [member("../up.png"), member("/abs.png")]
    write(directory / "49.tar", *_blocks("a"), *links, *_blocks("b"), *hostile, *_blocks("c"))
    twice = _blocks("2")[0] + member("2.jpg", PICTURE)
    write(directory / "50.tar", *_blocks("1"), twice, *_blocks("3", "4", "3", "5"))
    mixed = [member(f"{key}.{ext}", data) for ext, data in (("jpg", PICTURE), ("json", ASKED)) for key in ("2", "3")]
    write(directory / "51.tar", *_blocks("1"), *mixed, *_blocks("4"))
    expected = {("49.tar", key) for key in (*"12346", "../up", "/abs")}
    return expected | {("50.tar", "2"), ("50.tar", "3"), ("51.tar", "2"), ("51.tar", "3")}


def plant_sample_faults(directory: Path) -> set[Found]:
    """Faults 56 to 62 and 69 to 77, one shard for the pictures and one for the texts."""
    pictures = {key: {"jpg": data, "json": ASKED} for key, data in _pictures().items()}
    texts = {key: {"jpg": PICTURE, "json": data} for key, data in _texts().items()}
    texts["74-more"]["1.jpg"] = PICTURE
    _among_good(directory / "56-62.tar", pictures)
    _among_good(directory / "69-77.tar", texts)
    return {("56-62.tar", key) for key in pictures} | {("69-77.tar", key) for key in texts}


def plant_unsupervised(directory: Path) -> set[Found]:
    """Fault 78: a question that is longer than a row may be leaves no answer behind when it is truncated."""
    long = {"jpg": PICTURE, "json": chat(("<|image|>" + "why " * MAX_LENGTH, "Because."))}
    _among_good(directory / "78.tar", {"78": long})
    return {("78.tar", "78")}


def _among_good(path: Path, bad: Mapping[str, Mapping[str, bytes]]) -> None:
    samples: list[Sample] = [good("first")]
    for key, members in bad.items():
        samples += [(key, members), good(f"after-{key}")]
    write_shard(path, samples)


def _pictures() -> dict[str, bytes]:
    whole = photo("rocket.jpg")
    return {
        "56": b"",
        **{f"57-{percent:02}": whole[: len(whole) * percent // 100] for percent in range(5, 100, 5)},
        "57-holes": damaged_jpeg(whole),
        "58": b"GIF99" + PICTURE,
        **{f"59-{form}": huge_header(form) for form in ("JPEG", "PNG", "GIF", "BMP")},
        **{f"60-{kind.decode()}": png_bomb(kind) for kind in (b"zTXt", b"iTXt", b"iCCP")},
        "60-cut": encode(Image.new("RGB", (64, 64)), "PNG")[:-40],
        "61": scans_jpeg(10_000),
        "62": slow_bmp(5000),
    }


def slow_bmp(side: int = 3000) -> bytes:
    """A valid picture that costs Pillow's run-length decoder, which is written in Python, many seconds of CPU time."""
    body = (b"\1\0" * side + b"\0\0") * side + b"\0\1"
    start = 14 + 40 + 1024
    file = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return file + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0) + bytes(1024) + body


def _texts() -> dict[str, bytes]:
    return {
        "69-malformed": ASKED[:-1],
        "69-bom": b"\xef\xbb\xbf" + ASKED,
        "69-nan": chat(("<|image|>?", "Yes.")).replace(b'"Yes."', b"NaN"),
        "70": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "71": ASKED.replace(b"owl", b"o\xffl"),
        "72-surrogate": ASKED.replace(b"owl", b"\\ud83e"),
        "72-nul": ASKED.replace(b"owl", b"\\u0000"),
        "73-missing": b'{"url": "x"}',
        "73-misspelt": ASKED.replace(b'"messages"', b'"mesages"'),
        "74-more": ASKED,
        "74-fewer": chat(("<|image|> and <|image|>?", "Both.")),
        "75-assistant": chat(("<|image|>?", "This: <|image|>")),
        "75-system": _turns(("system", "<|image|>"), ("user", "What?"), ("assistant", "That.")),
        "76": chat(("<|image|>?", "long " * MAX_LENGTH)),
        "77": b'{"messages": []}',
    }


def _turns(*turns: tuple[str, str]) -> bytes:
    messages: Iterable[dict[str, str]] = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": list(messages)}).encode()
