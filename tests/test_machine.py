"""What the machine refuses is said in words: what failed, and what to do about it."""

from __future__ import annotations

import pytest

from owl_stream.errors import ConfigError, OwlStreamError, ReadError, SampleError, WorkerError
from owl_stream.machine import explained


@pytest.mark.parametrize(
    ("exc", "kind", "said"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), ConfigError, "/a/b: Permission denied; allow it"),
        (FileNotFoundError(2, "No such file or directory", "/a"), ConfigError, "/a: No such file"),
        (OSError(28, "No space left on device"), ConfigError, "free space"),
        (OSError(122, "Disk quota exceeded"), ConfigError, "free space"),
        (OSError(30, "Read-only file system", "/a"), ConfigError, "make it writable"),
        (OSError(23, "Too many open files in system"), ConfigError, "fs.file-max"),
        (BlockingIOError(11, "Resource temporarily unavailable"), ConfigError, "ulimit -u"),
        (RuntimeError("can't start new thread"), ConfigError, "ulimit -u"),
        (OSError(12, "Cannot allocate memory"), WorkerError, "out of memory"),
        (MemoryError(), WorkerError, "out of memory"),
        (OSError(5, "Input/output error", "/a"), ReadError, "/a: Input/output error"),
        (OSError(116, "Stale file handle", "/a"), ReadError, "try again"),
        (OSError("no number"), ReadError, "no number"),
        (ZeroDivisionError("division\nby zero"), OwlStreamError, "ZeroDivisionError: division by zero"),
    ],
    ids=repr,
)
def test_every_exception_becomes_one_line_of_the_right_kind(
    exc: Exception, kind: type[OwlStreamError], said: str
) -> None:
    """Whose fault it is decides the exit code; the message begins with what was tried."""
    error = explained(exc, "opening train")
    assert type(error) is kind
    assert str(error).startswith("opening train")
    assert said in str(error)
    assert "\n" not in str(error)


def test_our_own_errors_stay_as_they_are() -> None:
    """They say what failed already; one that came in a group is taken out of it."""
    ours = SampleError("jpeg_corrupt", "broken")
    assert explained(ours, "opening train") is ours
    assert explained(ExceptionGroup("several", [ours, ValueError()]), "opening train") is ours


def test_what_nobody_foresaw_names_the_line_that_raised_it() -> None:
    """The innermost line of owl-stream, so that a report is of use even without a traceback."""
    with pytest.raises(AttributeError) as raised:
        explained(None, "x")  # type: ignore[arg-type]
    assert "at machine.py:" in str(explained(raised.value, "opening train"))
