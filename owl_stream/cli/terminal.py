"""What a terminal is given: results on stdout, progress on stderr, and never a control character from the data."""

from __future__ import annotations

import json
import time
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SHOW_AFTER_S = 1.0
"""Work that is done sooner needs no bar."""


def emit(value: object) -> None:
    """Print one JSON value to stdout, in ASCII, which no terminal and no locale can misread."""
    typer.echo(json.dumps(value))


def printable(text: str) -> str:
    """Text from the data, made inert: what is not printable (escapes, line breaks, bidi marks) shows as its code."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._what = what
        self._task = self._progress.add_task(what, total=None, note="")
        self._from = time.monotonic() + SHOW_AFTER_S
        self._live = False

    def update(self, done: float, total: float, *, note: str = "", what: str = "") -> None:
        """Say how far the work is; `what` begins another one, `note` is what people want to read beside a share."""
        if what and what != self._what:
            self._what = what
            self._progress.reset(self._task, description=what)
        self._progress.update(self._task, completed=done, total=total, note=note)
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
