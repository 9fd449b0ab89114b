"""What steers a terminal is shown as its code, what people write stays as it is, and lines cannot be forged."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
import unicodedata
from pathlib import Path

import pytest

from owl_stream.errors import ConfigError, MediaOffsetError, OwlStreamError, SampleError, ShardError, StateMismatchError
from owl_stream.inert import InertLines, InertStream, inert, inert_json, inert_record
from tests.support.hostile import FORGED, FRIENDLY, HOSTILE, SURROGATE, assert_inert

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = [chr(code) for code in range(sys.maxunicode + 1)]


def test_fault_137_no_character_that_controls_is_left() -> None:
    """Of all that Unicode has, alone and between letters: no control, format, surrogate, line end or unassigned one."""
    for category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        chars = [char for char in EVERYTHING if unicodedata.category(char) == category]
        shown = inert("a".join(chars))
        left = {char for char in shown if unicodedata.category(char) == category}
        assert left <= set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
    assert inert("\x1b[31m\n\u202e\u2028\udcff\U000e0041\x7f\x9b") == (
        r"\x1b[31m\n\u202e\u2028\udcff\U000e0041\x7f\x9b"
    )


def test_fault_137_what_people_write_stays_as_it_is() -> None:
    """Han, emoji of several parts, combining marks, Hebrew, Persian and Hindi; all letters and all marks that show."""
    assert inert(FRIENDLY) == FRIENDLY
    letters = "".join(char for char in EVERYTHING if unicodedata.category(char)[0] in "LNPS")
    hidden = set(letters) - set(inert(letters))
    assert hidden == set("\u115f\u1160\u3164\uffa0")
    assert inert("\U0001fae8\U00031351") == "\U0001fae8\U00031351"  # of a Unicode that this Python may not know yet


@pytest.mark.parametrize(
    "text",
    [
        "\u200d",
        "a\u200db",
        "a\ufe0f",
        "1\U000e0100",
        "é\u200d",
        "\u200cé",
        "é\u200d\u200dé",
        "\ufe0f",
        " \ufe0f",
        "é\ufe0f\ufe0f\ufe0f",
    ],
)
def test_fault_137_joiners_and_selectors_of_nothing_are_shown(text: str) -> None:
    """They say nothing there, so they can only hide something."""
    shown = inert(text)
    assert shown != text
    assert sum(shown.count(char) for char in "\u200c\u200d\ufe0f") <= 1


def test_fault_137_it_is_stable() -> None:
    """What is inert already stays as it is, so that it may be asked for at every border."""
    assert inert(inert(HOSTILE + SURROGATE + FRIENDLY)) == inert(HOSTILE + SURROGATE + FRIENDLY)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_fault_137_json_is_inert_and_reads_back_equal(ascii_only: bool) -> None:
    """JSON leaves DEL, C1, turning marks and line separators as they are; here they are escaped as JSON escapes."""
    value = {HOSTILE: [FRIENDLY, HOSTILE, SURROGATE]}
    line = inert_json(value, ascii_only=ascii_only)
    assert_inert(line)
    assert "\n" not in line
    assert json.loads(line) == value
    assert (FRIENDLY in line) is not ascii_only


@pytest.mark.parametrize(
    "error",
    [
        OwlStreamError(HOSTILE),
        ConfigError(f"first {HOSTILE}", "second"),
        StateMismatchError(HOSTILE, {HOSTILE: (HOSTILE, HOSTILE)}),
        SampleError("reason", HOSTILE, shard=HOSTILE, key=SURROGATE, member=HOSTILE, offset=1),
        ShardError(HOSTILE, 0, "reason", HOSTILE),
        MediaOffsetError(0, 0, HOSTILE, HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_fault_137_the_message_of_every_error_is_inert(error: OwlStreamError) -> None:
    """Whoever prints it: a trainer, a log, a traceback. Each argument is a line; what it quotes adds none."""
    assert_inert(str(error))
    assert str(error).count("\n") == (1 if isinstance(error, ConfigError) else 0)
    assert HOSTILE in error.raw() or isinstance(error, SampleError)


def test_fault_137_what_libraries_write_is_inert_with_a_margin() -> None:
    """Also in pieces; only colours come through, and only where they are wanted; bytes have no way past."""
    beneath = io.StringIO()
    stream = InertStream(beneath, margin="    ")
    for piece in ("Trace", f"back\n{FORGED}\n\x1b", "[31m", "\r", f"\n{HOSTILE}", "\n"):
        assert stream.write(piece) == len(piece)
    stream.writelines(["a\n", "b"])
    printed = assert_inert(beneath.getvalue())
    assert all(line.startswith("    ") for line in printed.splitlines())
    assert "    Traceback\n" in printed
    assert not hasattr(stream, "buffer")
    coloured = io.StringIO()
    InertStream(coloured, colours=True).write(f"\x1b[1;31mred\x1b[0m \x1b[2J {HOSTILE}".replace("\n", " "))
    assert coloured.getvalue().startswith("\x1b[1;31mred\x1b[0m \\x1b[2J ")
    assert_inert(coloured.getvalue(), colours=True)


def test_fault_137_log_records_are_single_lines() -> None:
    """Message, arguments and exception quote the data; the traceback has a margin, and so no line to forge."""
    formatter = InertLines("%(levelname)s %(message)s")
    try:
        int(HOSTILE)
    except ValueError:
        info = sys.exc_info()
        assert info[1] is not None
        info[1].args = (HOSTILE,)
    record = logging.LogRecord(HOSTILE, logging.ERROR, "x", 1, "of %s", (HOSTILE,), info, sinfo=f"stack\n{FORGED}")
    record.exc_text = HOSTILE  # as another handler may have left it
    first, *rest = assert_inert(formatter.format(record)).splitlines()
    assert first.startswith("ERROR of a")
    assert all(line.startswith("    ") for line in rest)


def test_fault_137_a_librarys_records_are_inert_before_any_handler_sees_them() -> None:
    """What is harmless keeps its arguments."""
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s of %d %%", (HOSTILE, 3), None)
    assert inert_record(record)
    assert_inert(record.getMessage())
    assert record.getMessage().endswith(" of 3 %")
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (FRIENDLY,), None)
    assert inert_record(record)
    assert record.args == (FRIENDLY,)


MAY_PRINT = {"inert.py", "cli/__init__.py", "cli/terminal.py"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "owl_stream").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_fault_137_one_place_prints(path: Path) -> None:
    """No module prints by itself: `say`, `emit`, `Screen` and `logging` make text inert."""
    if str(path.relative_to(ROOT / "owl_stream")) in MAY_PRINT:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "Console", "typer.echo", "typer.secho", "warnings.warn"), called
            assert not called.endswith(("stdout.write", "stderr.write", "print_exc", "print_exception")), called
