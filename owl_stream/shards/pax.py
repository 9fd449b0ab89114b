"""What extension headers say of the member behind them: GNU long names, and PAX records (POSIX.1-2001)."""

from __future__ import annotations

from dataclasses import dataclass

SPARSE = "a sparse member is not read; write the shard without --sparse"
VOLUMES = "a piece of a multi-volume archive is not read; write the shard without --multi-volume"

_VOLUME = b"GNU.volume."
_NOT_READ = (_VOLUME, b"GNU.sparse.", b"SCHILY.realsize")
_REAL_NAMES = (b"GNU.sparse.name", b"GNU.volume.filename")
"""A sparse member's own header, and its `path`, hold a name that says which process wrote it."""
_MALFORMED = "a PAX header is not made of `length key=value` lines"
_MAX_SIZE_DIGITS = 18


@dataclass(slots=True)
class Said:
    """What is known of a member before its own header; the first of several headers wins, as in tarfile.

    `size` is bytes where a size was given that is no number: the text of it. `refusal` says why the member is not read.
    `fault` says why it is not known what the headers said: then the member's name is not known either.
    """

    name: str | None = None
    size: int | bytes | None = None
    refusal: str = ""
    fault: str = ""

    def read_long_name(self, data: bytes) -> None:
        """Take in a GNU long name."""
        if self.name is None:
            self.name = as_text(data)

    def read_pax(self, data: bytes, *, shared: bool) -> None:
        """Take in the records of a PAX header; a `shared` one (`g`) is about all members that follow."""
        path: str | None = None
        real_path: str | None = None
        size: int | bytes | None = None
        at = 0
        while at < len(data) and data[at] != 0:
            digits, _, _ = data[at : at + 8].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = data[at : at + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if len(record) != length or not record.endswith(b"\n") or not equals:
                self.fault = self.fault or _MALFORMED
                break
            at += length
            if key == b"path":
                path = _decode(value).rstrip("/")
            elif key == b"size":
                size = int(value) if value.isdigit() and len(value) <= _MAX_SIZE_DIGITS else value
            elif key.startswith(_NOT_READ):
                self.refusal = self.refusal or (VOLUMES if key.startswith(_VOLUME) else SPARSE)
                if key in _REAL_NAMES:
                    real_path = _decode(value)
                if shared and self.refusal == SPARSE:
                    self.fault = self.fault or f"a global header calls every member sparse: {_decode(key)}"
        if shared and (path is not None or size is not None):
            self.fault = self.fault or f"a global header gives every member one {'size' if path is None else 'path'}"
        path = path if real_path is None else real_path
        self.name = path if self.name is None else self.name
        self.size = size if self.size is None else self.size


def as_text(field: bytes) -> str:
    """A name field up to its NUL; bytes that are not UTF-8 stay visible as surrogates."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
