"""What a terminal is given: results on stdout, progress on stderr, and nothing from the data that steers it.

All commands print through here: a line with `say`, JSON with `emit`, what has colours on a `Screen`. What libraries
write by themselves goes through the streams that `guarded` puts in place.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from owl_stream.inert import MARGIN, InertLines, InertStream, beneath, inert, inert_json

SHOW_AFTER_S = 1.0
"""Work that is done sooner needs no bar."""


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line, whatever is in it."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        print(inert(line), file=beneath(stream), flush=True)


def emit(value: object) -> None:
    """Print one JSON value to stdout, in ASCII, which no terminal and no locale can misread."""
    if sys.stdout is not None:
        print(inert_json(value, ascii_only=True), file=beneath(sys.stdout), flush=True)


class Screen(Console):
    """A console for what has colours. Its text is inert; only its own styles and moves reach the terminal."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        file = None if stream is None else beneath(stream)
        super().__init__(
            **{"file": file, "stderr": stderr, "markup": False, "highlight": False, "emoji": False, **options}
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`: every text that is shown comes through it."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(inert(segment.text, "\n"), segment.style)


@contextmanager
def guarded() -> Iterator[None]:
    """While a command runs: what others write is inert, a log record is one line, no character ends in an error."""
    before = sys.stdout, sys.stderr
    for stream in before:
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a test's stream may lack it
    if sys.stdout is not None:
        colours = Screen().color_system is not None
        sys.stdout = cast(TextIO, InertStream(sys.stdout, colours=colours))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, InertStream(sys.stderr, margin=MARGIN))
    try:
        with _records_told():
            yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def _records_told() -> Iterator[None]:
    """Log records go to stderr where nobody has said where else; Python's own last resort prints them as they are."""
    root = logging.getLogger()
    if root.handlers or sys.stderr is None:
        yield
        return
    handler = logging.StreamHandler(beneath(sys.stderr))
    handler.setFormatter(InertLines())
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def binary(nbytes: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


class Bar:
    """A progress bar on stderr, a context manager. It appears once the work has taken a second, if a terminal looks.

    One bar may follow several pieces of work, one after the other.
    """

    def __init__(self, what: str = "", console: Console | None = None) -> None:
        self._console = console or Screen(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._what = inert(what)
        self._task = self._progress.add_task(self._what, total=None, note="")
        self._from = time.monotonic() + SHOW_AFTER_S
        self._live = False

    def update(self, done: float, total: float, *, note: str = "", what: str = "") -> None:
        """Say how far the work is; `what` begins another one, `note` is what people want to read beside a share."""
        if what and inert(what) != self._what:
            self._what = inert(what)
            self._progress.reset(self._task, description=self._what)
        self._progress.update(self._task, completed=done, total=total, note=inert(note))
        if not self._live and self._console.is_terminal and time.monotonic() >= self._from:
            self._live = True
            self._progress.start()

    def bytes(self, done: float, total: float, *, what: str = "") -> None:
        """`update` in bytes."""
        self.update(done, total, note=f"{binary(done)} of {binary(total)}", what=what)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._progress.stop()
