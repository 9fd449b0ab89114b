"""Text that steers a terminal, hides, or pretends to be lines of ours; and what must be true of whatever is printed."""

from __future__ import annotations

import re

FORGED = "FORGED 2026-01-01 00:00:00,000 ERROR owl-stream: all is lost"
"""Must never stand at the beginning of a line."""

CONTROLS = "".join(map(chr, (*range(1, 32), *range(127, 160))))
"""C0 without NUL, which no name can hold, DEL and C1: escapes, bells, backspaces, line breaks."""
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks, embeddings, overrides and isolates of text that runs from right to left."""
BREAKS = "\u2028\u2029\x85\x0b\x0c\r\n"
UNSEEN = "\xad\u034f\u180e\u200b\u200c\u200d\u2060\u2064\u206a\u3164\ufe0f\ufeff\ufff9\U000e0001\U000e0061\U000e0100"
"""Soft hyphens, joiners of nothing, fillers, tags and variation selectors."""
LOOKS = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b1m\x1b]8;;http://x\x1b\\"
"""Sequences that terminals obey: a title, an empty screen, colours, a link."""

HOSTILE = f"a{LOOKS}{CONTROLS}{TURNING}{UNSEEN}b{BREAKS}{FORGED}".replace("/", "").replace(".", "")
"""All of them."""
NAMES = (f"a{CONTROLS}\n{FORGED}", f"a{LOOKS}{TURNING}{UNSEEN}\r\u2028{FORGED}".replace("/", ""))
"""All of them, in two names that files may have."""
SURROGATE = "\udcff"
"""Half a character: a byte of a name that is no UTF-8."""

FRIENDLY = "日本　語 👩🏽\u200d🚀 ❤️\u200d🔥 1️⃣ 🇩🇪 é e\u0301 עברית العربية می\u200cخواهم क्\u200dष \u06dd naïve"
"""What people write: it stays as it is."""

_FORBIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def assert_inert(printed: str, *, colours: bool = False) -> str:
    """Hold what was printed to the promise; with `colours` sequences that only set colours are ours. Returns it."""
    text = _COLOUR.sub("", printed) if colours else printed
    found = _FORBIDDEN.search(text)
    assert found is None, ascii(text[max(0, found.start() - 60) : found.end() + 20])
    assert not [line for line in text.splitlines() if line.startswith("FORGED")], ascii(text)
    return printed
