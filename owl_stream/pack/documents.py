"""Files of records, read a piece at a time: JSON Lines, or one JSON array of any length.

A bad line costs that line. In an array nothing behind damage can be found again, so damage there ends the reading.
Bytes that are not UTF-8 become lone surrogates, which no record may hold: they too cost one record only.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from owl_stream.errors import ConfigError, DataError, SampleError
from owl_stream.records import is_conversation, key_that_comes_twice

MAX_RECORD = 16 << 20
"""Characters; what a shard's record may be, too."""

_CHUNK = 1 << 20
_SPACE = " \t\n\r"


class Documents:
    """The records of a file in order. Iterating yields (number, line, record, or the SampleError that it is instead).

    Both count from 1. `number` is the record's place in an array; in JSON Lines it is 0, for the line says it there.
    `position` and `size` say in bytes how far it is; iterate only once at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
        except OSError as exc:
            raise ConfigError(f"{path}: cannot read it: {exc.strerror}") from exc
        self.position = 0

    @property
    def inputs(self) -> list[Path]:
        """The file."""
        return [self.path]

    def __iter__(self) -> Iterator[tuple[int, int, dict[str, Any] | list[Any] | SampleError]]:
        try:
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
                head = file.read(_CHUNK)
                file.seek(0)
                for number, line, value in self._pieces(file, head):
                    yield number, line, _record(value)
        except OSError as exc:
            raise ConfigError(f"{self.path}: cannot read it: {exc.strerror}") from exc
        self.position = self.size

    def _pieces(self, file: TextIO, head: str) -> Iterable[tuple[int, int, object]]:
        """An array of records, JSON Lines, or one record that is a list of turns; what it begins with tells."""
        if head.lstrip(_SPACE)[:1] != "[":
            return self._lines(file)
        if not _begins_with_a_turn(head):
            return _Array(file, self)
        first = head.lstrip(_SPACE).partition("\n")[0]
        if isinstance(_parse(first), list):
            return self._lines(file)
        text = file.read(MAX_RECORD + 1)
        too_long = SampleError("record_too_long", f"a record of more than {MAX_RECORD} characters")
        return [(0, 1, too_long if len(text) > MAX_RECORD else _parse(text))]

    def _lines(self, file: TextIO) -> Iterator[tuple[int, int, object]]:
        at = 0
        while line := file.readline(MAX_RECORD + 1):
            at += 1
            self.position += len(line)
            if len(line) > MAX_RECORD:
                while line and not line.endswith("\n"):
                    line = file.readline(MAX_RECORD)
                yield 0, at, SampleError("record_too_long", f"a line of more than {MAX_RECORD} characters")
            elif line.strip():
                yield 0, at, _parse(line)


class _Array:
    """The elements of `[...]`, one by one."""

    def __init__(self, file: TextIO, of: Documents) -> None:
        self._file, self._of = file, of
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[int, int, object]]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
        else:
            for number in itertools.count(1):
                self._peek()
                line = self._line
                yield number, line, self._value()
                if self._peek() != ",":
                    break
                self._take(",")
            self._take("]")
        if self._peek():
            raise self._damage("expected nothing behind the array")

    def _value(self) -> object:
        while True:
            try:
                value, end = _decoded(self._text, self._at)
            except RecursionError as exc:
                raise self._damage("lists and objects are nested too deep") from exc
            except ValueError as exc:
                if self._ended or len(self._text) - self._at > MAX_RECORD:
                    raise self._damage(f"not JSON, or a record of more than {MAX_RECORD} characters: {exc}") from exc
                self._fill()
            else:
                self._advance(end)
                return value

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            rest = len(self._text)
            end = self._at
            while end < rest and self._text[end] in _SPACE:
                end += 1
            self._advance(end)
            if end < rest or self._ended:
                return self._text[end : end + 1]
            self._fill()

    def _take(self, expected: str) -> None:
        got = self._peek()
        if got != expected:
            raise self._damage(f"expected `{expected}`, got {got!r}" if got else f"expected `{expected}`, got the end")
        self._advance(self._at + 1)

    def _advance(self, end: int) -> None:
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _fill(self) -> None:
        """Read as much again as is waiting, so that a long record is not tried more than a few times."""
        kept = self._text[self._at :]
        more = self._file.read(max(_CHUNK, len(kept)))
        self._of.position += len(more)
        self._text, self._at, self._ended = kept + more, 0, not more

    def _damage(self, what: str) -> DataError:
        return DataError(f"{self._of.path}, line {self._line}: {what}; nothing behind it can be read: mend the file")


def _parse(line: str) -> object:
    try:
        value, end = _decoded(line, len(line) - len(line.lstrip(_SPACE)))
    except RecursionError:
        return SampleError("json_nesting", "lists and objects are nested too deep")
    except ValueError as exc:
        return SampleError("json_malformed", f"not JSON: {exc}")
    if rest := line[end:].strip(_SPACE):
        return SampleError("json_malformed", f"not JSON: expected nothing behind the value, got {rest[:40]!r}")
    return value


def _decoded(text: str, at: int) -> tuple[object, int]:
    """The value that begins at a place, or a SampleError where a key of it comes twice; and the place behind it.

    Raises:
        ValueError: no whole value stands there. RecursionError: it is nested too deep.
    """
    twice: list[str] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if (name := key_that_comes_twice(pairs)) is not None:
            twice.append(name)
        return dict(pairs)

    value, end = json.JSONDecoder(object_pairs_hook=made).raw_decode(text, at)
    if twice:
        detail = f"not JSON: the key {twice[0][:64]!r} comes twice in one object"
        return SampleError("json_malformed", detail), end
    return value, end


def _begins_with_a_turn(head: str) -> bool:
    """Whether the first element of an array is a turn, so that the array is a conversation and not a list of them."""
    start = head.index("[") + 1
    try:
        first, _ = _decoded(head, start + len(head[start:]) - len(head[start:].lstrip(_SPACE)))
    except (ValueError, RecursionError):
        return False
    return is_conversation([first])


def _record(value: object) -> dict[str, Any] | list[Any] | SampleError:
    if isinstance(value, dict | list | SampleError):
        return value
    return SampleError("json_malformed", f"expected an object or a list of turns, got {type(value).__name__}")
