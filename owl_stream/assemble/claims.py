"""Sizes that WebP, GIF and icon files claim, read before Pillow opens them: it makes room by them at once."""

from __future__ import annotations

import struct

from owl_stream.errors import SampleError

MAX_ICON_ENTRIES = 1024
"""Pictures in an icon. Systems make ten."""

MAX_GIF_BLOCKS = 1 << 18
"""Blocks of comments and other extensions in front of a GIF's first picture. Pillow reads them one by one."""


def webp_size(data: bytes | memoryview) -> tuple[int, int]:
    """The canvas, for which two pictures' room is made; (0, 0) where Pillow will refuse the file."""
    head = bytes(data[:30])
    kind = head[12:16]
    if len(head) < 25:
        return 0, 0
    if kind == b"VP8X" and len(head) == 30:
        width, height = head[24:27] + b"\0", head[27:30] + b"\0"
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if kind == b"VP8 " and len(head) == 30:
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def gif_size(data: bytes | memoryview) -> tuple[int, int]:
    """The screen, or the first picture's right and lower end where it reaches beyond; (0, 0) if there is no picture.

    Raises:
        SampleError: `image_header`: more blocks stand in front of the picture than a file needs.
    """
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        position, blocks = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
        while (kind := data[position]) != 0x2C:
            if kind == 0x3B:
                return 0, 0
            position, blocks = position + 1, blocks + 1
            position += kind == 0x21
            while kind == 0x21 and (length := data[position]) and blocks <= MAX_GIF_BLOCKS:
                position, blocks = position + 1 + length, blocks + 1
            position += kind == 0x21
            if blocks > MAX_GIF_BLOCKS:
                raise SampleError(
                    "image_header",
                    f"GIF: expected at most {MAX_GIF_BLOCKS} blocks before its picture, got more; save it again",
                )
        left, top, across, down = struct.unpack_from("<HHHH", data, position + 1)
    except (struct.error, IndexError):
        return 0, 0
    return max(width, left + across), max(height, top + down)


def check_icon(data: bytes | memoryview) -> None:
    """Refuse an icon that lists more pictures than any has; Pillow reads and sorts them all.

    Raises:
        SampleError: `image_header`.
    """
    entries = int.from_bytes(data[4:6], "little")
    if entries > MAX_ICON_ENTRIES:
        raise SampleError("image_header", f"ICO: expected at most {MAX_ICON_ENTRIES} pictures in it, got {entries}")
