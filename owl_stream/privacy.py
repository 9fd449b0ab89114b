"""Who may read the files that we write: nobody who may not read what they were made from.

Index files, cached pixels and packed shards hold the conversations and pictures themselves. Every module that writes
such a file asks here for its mode. A file has that mode from the moment it exists; the umask may take more away.
Access control lists are not looked at.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("owl_stream.privacy")

_GROUP, _OTHER = 0o070, 0o007
_OPEN_FOR_ANYONE = 0o077


@dataclass(frozen=True)
class _Door:
    """Whom a source, or a directory above it, lets in: its `group` (`gid`), and all `other` users."""

    gid: int
    group: bool
    other: bool

    @classmethod
    def of(cls, status: os.stat_result, bits: int) -> _Door:
        """`bits`: what reading needs, as the three bits of one class (4 to read, 1 to pass a directory)."""
        group, other = status.st_mode >> 3 & bits == bits, status.st_mode & bits == bits
        return cls(status.st_gid, group, other)


_CLOSED = _Door(-1, group=False, other=False)


@dataclass(frozen=True)
class Readers:
    """Who may read all of some sources, besides their owner. `doors` are all that must be passed."""

    doors: frozenset[_Door]

    @property
    def is_everyone(self) -> bool:
        """Whether nobody is kept out."""
        return all(door.group and door.other for door in self.doors)

    def mask(self, gid: int) -> int:
        """The bits that a file or directory of group `gid` may have: those of a class that may read, and the owner's.

        A file may belong to another group than its source. Then its group is let in only where everyone may read.
        """
        group = all(door.group and (door.other or door.gid == gid) for door in self.doors)
        other = all(door.other and (door.group or door.gid == gid) for door in self.doors)
        return 0o7700 | (_GROUP if group else 0) | (_OTHER if other else 0)


PRIVATE = Readers(frozenset({_CLOSED}))
"""Nobody but the owner."""


class Sources:
    """Tells who may read sources; directories are looked at once.

    Directories that are above both a source and `beside`, where the new files lie, keep the same people from both.
    """

    def __init__(self, beside: Path) -> None:
        real = Path(os.path.realpath(beside))
        self._shared = {real, *real.parents}
        self._above: dict[str, frozenset[_Door]] = {}
        self._real: dict[Path, str] = {}

    def readers(self, paths: Iterable[Path]) -> Readers:
        """Who may read all of these. What cannot be looked at is read by nobody."""
        doors: set[_Door] = set()
        for path in paths:
            try:
                doors |= self._doors(path)
            except OSError:
                doors.add(_CLOSED)
        return Readers(frozenset(doors)) if doors else PRIVATE

    def _doors(self, path: Path) -> frozenset[_Door]:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            path = Path(os.path.realpath(path))
            status = os.stat(path)
        if path.parent not in self._real:
            self._real[path.parent] = os.path.realpath(path.parent)
        own = _Door.of(status, 0o5 if stat.S_ISDIR(status.st_mode) else 0o4)
        return self._directories(self._real[path.parent]) | {own}

    def _directories(self, directory: str) -> frozenset[_Door]:
        """Those above a source, but for the shared ones."""
        if directory not in self._above:
            above = {Path(directory), *Path(directory).parents} - self._shared
            self._above[directory] = frozenset(_Door.of(os.stat(each), 0o1) for each in above)
        return self._above[directory]


def readers_of(paths: Iterable[Path], beside: Path) -> Readers:
    """Who may read all of these, as far as files in the directory `beside` are concerned."""
    return Sources(beside).readers(paths)


def create(path: Path, readers: Readers, flags: int = 0) -> int:
    """A new file, open for reading and writing, that `readers` may read and nobody else.

    Raises:
        OSError: the file is there already, or cannot be made.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    gid = _group_in(path.parent)
    file = os.open(path, flags, 0o644 & readers.mask(gid))
    if os.fstat(file).st_gid == gid:
        return file
    os.close(file)  # its file system gives files another group than Linux would: nothing was written yet
    os.unlink(path)
    return os.open(path, flags, 0o600)


def make_directory(path: Path, readers: Readers) -> None:
    """Make a directory, and those above it, that only `readers` may enter. One that is there stays as it is.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, readers)
    gid = _group_in(path.parent)
    try:
        os.mkdir(path, 0o755 & readers.mask(gid))
    except FileExistsError:
        if not path.is_dir():  # else another process was quicker
            raise
    else:
        if os.stat(path).st_gid != gid:
            os.chmod(path, 0o700)


def tighten(path: Path, readers: Readers) -> None:
    """Take from a file or directory what it allows to others than `readers`. One that is not there is no matter."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            tighten_open(file, readers, path)
        finally:
            os.close(file)


def tighten_open(file: int, readers: Readers, path: Path) -> None:
    """As `tighten`, of an open file. `path` names it in the log where that is not allowed to us."""
    status = os.fstat(file)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & _OPEN_FOR_ANYONE or mode & readers.mask(status.st_gid) == mode:
        return
    try:
        os.fchmod(file, mode & readers.mask(status.st_gid))
    except OSError as exc:
        log.warning(
            "%s may be read by people who may not read what it was made from (mode %o): %s; its owner should chmod it",
            path,
            mode,
            exc.strerror,
        )


def _group_in(directory: Path) -> int:
    """The group that a new file in a directory has: the directory's where that says so, else this process's."""
    status = os.stat(directory)
    return status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()
