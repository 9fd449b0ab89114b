"""What a member's first bytes say that it is."""

from __future__ import annotations

IMAGE_FORMATS = frozenset(("jpeg", "png", "webp", "gif"))


def sniff(data: memoryview) -> str:
    """The name of the format, or an empty text."""
    head = bytes(data[:12])
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if head.startswith(b"RIFF") and head.endswith(b"WEBP") else ""
