"""Damaged and hostile tars, made from raw blocks: `tarfile` itself would refuse to write most of them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: str | bytes, size: int = 0, kind: bytes = b"0", link: str = "", raw_size: bytes | None = None
) -> bytes:
    """One ustar header block with a right checksum, whatever else is wrong with it."""
    raw_name = name.encode() if isinstance(name, str) else name
    block = bytearray(BLOCK)
    block[0 : len(raw_name[:100])] = raw_name[:100]
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = raw_size if raw_size is not None else b"%011o\0" % size
    block[136:148], block[156:157] = b"00000000000\0", kind
    block[157 : 157 + len(link)] = link.encode()
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary_size(size: int) -> bytes:
    """A size field in base 256, as GNU tar writes large (and a hostile writer negative) numbers."""
    return (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)


def member(name: str | bytes, data: bytes = b"data", kind: bytes = b"0", link: str = "") -> bytes:
    """Header, data and padding."""
    return header(name, len(data), kind, link) + padded(data)


def pax(records: Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """A PAX extension header."""
    lines = b""
    for key, value in records:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        lines += str(length).encode() + body
    return member("pax", lines, kind)


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def write(path: Path, *blocks: bytes, end: bytes = END) -> Path:
    """Blocks as a tar, with or without its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks) + end)
    return path


def member_offsets(path: Path) -> dict[str, tuple[int, int, int]]:
    """name -> (first header, data, bytes) of every member of a good tar."""
    with tarfile.open(path) as tar:
        return {info.name: (info.offset, info.offset_data, info.size) for info in tar}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes."""
    with path.open("r+b") as file:
        file.truncate(size)
