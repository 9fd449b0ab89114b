"""Text from data, made inert: whoever prints it may not be steered by it, nor told lines that nobody wrote.

Keys, file names, records and the words of other machines may hold escape sequences, line breaks, marks that turn the
direction of text, and characters that nobody sees. Here they become visible codes (`\\x1b`, `\\u202e`), which are
ASCII and stay as they are when this is done again. Everything that is printed or logged comes through this module:
`owl_stream.errors` for the messages of errors, `owl_stream.cli.terminal` for the command line, `InertLines` for logs,
and `InertStream` for what other libraries write.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import IO, Any, TextIO, cast

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode's categories of characters that control, are not characters, or end a line."""
_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that are seen: signs of Arabic, Syriac and Kaithi that stand around or under digits."""
_FILLERS = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that show nothing."""
_JOINERS = frozenset("\u200c\u200d")
"""Emoji of several parts, Persian and Indic scripts need these: between two characters that are seen and not ASCII."""
_SELECTORS = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Say how the character before them looks; alone, or several in a row, they only hide something."""
_KEYCAP = re.compile("[0-9#*][\ufe0e\ufe0f]")
_PRINTABLE_BUT_UNSEEN = re.compile(f"[{''.join(_FILLERS)}]|{_SELECTORS.pattern}")
_LATER = re.compile("[\U0001f000-\U0001faff\U00020000-\U0002fffd\U00030000-\U0003fffd]")
"""Emoji and Han: a newer Unicode than this Python's has more of them, and they are never anything else."""
_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")

MARGIN = "    "
"""Before each line of a traceback and of what other libraries say: no such line looks like one of ours."""


def inert(text: str, keep: str = "") -> str:
    """`text` with everything escaped that controls, hides or turns; `keep` are characters that are left all the same.

    Line breaks are escaped too: what comes out is one line. Letters of every script, combining marks, spaces and emoji
    stay as they are.
    """
    return _respelt(text, keep, lambda char: char.encode("unicode_escape").decode())


def inert_json(value: object, *, ascii_only: bool = False) -> str:
    """`value` as one line of JSON that reads back equal, and that is inert where a terminal shows it."""
    return _respelt(json.dumps(value, ensure_ascii=ascii_only), "", _json_escape)


def _respelt(text: str, keep: str, escape: Callable[[str], str]) -> str:
    if text.isprintable() and not _PRINTABLE_BUT_UNSEEN.search(text):
        return text
    return "".join(char if char in keep or _is_plain(text, at) else escape(char) for at, char in enumerate(text))


def _is_plain(text: str, at: int) -> bool:
    """Whether a character may be shown, which for some depends on their neighbours."""
    char = text[at]
    if char in _JOINERS:
        return 0 < at < len(text) - 1 and _is_joined(text[at - 1]) and _is_joined(text[at + 1])
    if _SELECTORS.match(char):
        return at > 0 and (_takes_selector(text[at - 1]) or _KEYCAP.match(text, at - 1) is not None)
    return _is_seen(char)


def _takes_selector(char: str) -> bool:
    return not char.isascii() and _is_seen(char) and not char.isspace()


def _is_joined(char: str) -> bool:
    return not char.isascii() and (_is_seen(char) or _SELECTORS.match(char) is not None)


def _is_seen(char: str) -> bool:
    if " " <= char <= "~":
        return True
    if unicodedata.category(char) in _UNSEEN:
        return char in _SIGNS or _LATER.match(char) is not None
    return char not in _FILLERS and _SELECTORS.match(char) is None


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def indented(text: str) -> str:
    """Lines that others wrote (a traceback, say), inert and with a margin each."""
    return "\n".join(MARGIN + inert(line) for line in text.split("\n"))


class InertStream:
    """A text stream through which only inert text comes; stands for `sys.stdout` or `sys.stderr`.

    It is for what others write: libraries, warnings, tracebacks. Our own words, styled or not, are inert already and
    go to the stream `beneath`. `colours`: let sequences that set colours through. `margin`: put before each line.
    """

    def __init__(self, beneath: IO[str], *, colours: bool = False, margin: str = "") -> None:
        self.beneath = beneath
        self._colours, self._margin, self._begins = colours, margin, True

    def write(self, text: str) -> int:
        """Write it, inert; returns how many characters were taken."""
        parts = _COLOUR.split(text) if self._colours else [text]
        self.beneath.write("".join(part if at % 2 else self._shown(part) for at, part in enumerate(parts)))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write them one after the other."""
        for line in lines:
            self.write(line)

    def _shown(self, text: str) -> str:
        shown = inert(text, "\n")
        if not self._margin or not shown:
            return shown
        begins, self._begins = self._begins, shown.endswith("\n")
        lines = shown.removesuffix("\n").replace("\n", "\n" + self._margin) + "\n" * self._begins
        return (self._margin if begins else "") + lines

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would go past
            raise AttributeError(name)
        return getattr(self.beneath, name)


def beneath(stream: TextIO) -> TextIO:
    """Where inert text is written to: the stream under an `InertStream`, or the stream itself."""
    return cast(TextIO, getattr(stream, "beneath", stream))


def guard_stderr() -> None:
    """For a process that does our work and has no command line: whatever it says on stderr is inert, with a margin."""
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, InertStream(sys.stderr, margin=MARGIN))


class InertLines(logging.Formatter):
    """A log record is one inert line; its traceback, where there is one, follows with a margin."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [inert(self.formatMessage(record))]
        if record.exc_info:
            parts.append(indented(self.formatException(record.exc_info)))
        if record.stack_info:
            parts.append(indented(self.formatStack(record.stack_info)))
        return "\n".join(parts)


def inert_record(record: logging.LogRecord) -> bool:
    """A filter for a library's logger, whose handlers are its user's: what steers is escaped in the message itself."""
    said = record.getMessage()
    shown = inert(said)
    if shown != said:
        record.msg, record.args = shown, None
    return True
