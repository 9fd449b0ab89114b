"""Names of images in a record -> files on this machine, below one root."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path

from owl_stream.errors import SampleError
from owl_stream.pack.entry import ImageFile
from owl_stream.pack.unpackable import is_lfs_pointer
from owl_stream.shards.media import IMAGE_SUFFIXES
from owl_stream.shards.sniff import FORMAT_WORDS, HEAD_BYTES, PICTURES, sniff

MAX_IMAGE_BYTES = 1 << 30

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_SUFFIX_OF = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}
"""The suffix that goes with a format, where it is not the format's own name."""


class ImageRoot:
    """Finds images by their names, relative to `root`. With `allow_outside` they may lie anywhere."""

    def __init__(self, root: Path, *, allow_outside: bool) -> None:
        self._root, self._allow_outside = os.path.realpath(root), allow_outside

    def find(self, name: str) -> ImageFile:
        """The file of that name.

        Raises:
            SampleError: a URL, outside of the root, missing, not a regular file, empty, or not an image.
        """
        try:
            os.fsencode(name)
        except UnicodeEncodeError as exc:
            raise SampleError("text_surrogate", f"image {name[:200]!a}: no file can have this name") from exc
        if _SCHEME.match(name) or "\0" in name:
            raise SampleError("image_remote", f"image {name[:200]!r}: expected a path, got a URL; download it first")
        path = os.path.realpath(os.path.join(self._root, name))
        if not self._allow_outside and os.path.commonpath([self._root, path]) != self._root:
            raise SampleError(
                "image_outside",
                f"image {name[:200]!r} lies outside of {self._root} (at {path}); set --images, or --allow-outside",
            )
        if not os.path.exists(path):
            path = self._spelt_otherwise(name) or path
        try:
            status = os.stat(path)
        except OSError as exc:
            raise SampleError("image_missing", f"image {name[:200]!r}: {exc.strerror} (looked for {path})") from exc
        if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
            raise SampleError("image_unreadable", f"image {name[:200]!r}: {path} is no file that can be read")
        if not 0 < status.st_size <= MAX_IMAGE_BYTES:
            raise SampleError(
                "image_size", f"image {name[:200]!r}: expected 1 to {MAX_IMAGE_BYTES} bytes, got {status.st_size}"
            )
        if is_lfs_pointer(path, status.st_size):
            raise SampleError(
                "image_lfs_pointer",
                f"image {name[:200]!r}: a Git LFS pointer, not the image; fetch it with `git lfs pull`",
            )
        return ImageFile(path, _ext(path), status.st_size, status.st_mtime_ns)

    def _spelt_otherwise(self, name: str) -> str:
        """The path of a file whose name has the same letters in another Unicode form: macOS and JSON seldom agree."""
        for form in ("NFC", "NFD"):
            path = os.path.realpath(os.path.join(self._root, unicodedata.normalize(form, name)))
            inside = self._allow_outside or os.path.commonpath([self._root, path]) == self._root
            if inside and os.path.exists(path):
                return path
        return ""


def _ext(path: str) -> str:
    suffix = os.path.splitext(path)[1][1:].lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    with open(path, "rb") as file:
        content = sniff(file.read(HEAD_BYTES))
    ext = _SUFFIX_OF.get(content, content)
    if ext in IMAGE_SUFFIXES:
        return ext
    got = f"{FORMAT_WORDS[content]}, which is not read" if content else "neither such a suffix nor such content"
    remedy = "convert it to JPEG, PNG or WebP" if content in PICTURES else "leave it out"
    raise SampleError(
        "image_type", f"image {path}: expected one of {', '.join(sorted(IMAGE_SUFFIXES))}, got {got}; {remedy}"
    )
