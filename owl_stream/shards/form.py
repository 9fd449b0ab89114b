"""What a file is that is no tar, by its first bytes, so that its finding says what to do."""

from __future__ import annotations

from owl_stream.shards.sniff import sniff

HEAD_BYTES = 512
"""How much of a file `foreign_form` wants to see."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
    b"\x1f\x9d": "compress",
}
_PACK = "export its samples and write shards with `owl-stream pack`"
_UNPACK = "unpack it and write its files as .tar"
_NO_TAR = {
    b"PAR1": ("a Parquet file", _PACK),
    b"ARROW1": ("an Arrow file", _PACK),
    b"\xff\xff\xff\xff": ("an Arrow stream, as `save_to_disk` writes it", _PACK),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _PACK),
    b"SQLite format 3\0": ("an SQLite database", _PACK),
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"PK\x05\x06": ("an empty zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"!<arch>\n": ("an ar archive", _UNPACK),
    b"070701": ("a cpio archive", _UNPACK),
    b"\xff\xd8\xff": ("a JPEG image", "put images into a tar, each with its text"),
    b"\x89PNG\r\n\x1a\n": ("a PNG image", "put images into a tar, each with its text"),
}
_DOWNLOAD = "it may be the error page of a download; download the shard again"
_TEXTS = {
    b"<!doctype html": ("an HTML page", _DOWNLOAD),
    b"<html": ("an HTML page", _DOWNLOAD),
    b"<?xml": ("an XML document", _DOWNLOAD),
    b"<error": ("an XML document", _DOWNLOAD),
    b"{": ("JSON", "write shards of it with `owl-stream pack`"),
    b"[": ("JSON", "write shards of it with `owl-stream pack`"),
}


def foreign_form(head: bytes) -> tuple[str, str] | None:
    """(reason, what it is and the remedy) of a file that begins like this and is no tar, or None if that is unknown."""
    for magic, form in _COMPRESSED.items():
        if head.startswith(magic):
            return "shard_compressed", f"{form} data, which cannot be read at an offset; decompress it to .tar"
    if sniff(head) == "git-lfs":
        return "shard_lfs_pointer", "a Git LFS pointer, not the shard itself; run `git lfs pull`"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((said for magic, said in _NO_TAR.items() if head.startswith(magic)), None)
    found = found or next((said for start, said in _TEXTS.items() if text.startswith(start)), None)
    return ("shard_not_tar", f"expected a tar, got {found[0]}; {found[1]}") if found else None
