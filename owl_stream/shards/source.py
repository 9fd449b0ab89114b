"""Where shards come from: brace patterns, globs and directories of local tars.

Only paths are taken. A scheme is refused before anything else looks at it, because webdataset-like loaders run a shell
for `pipe:` and open whatever `file:` or `http:` names.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from owl_stream.errors import ConfigError, ReadError, ShardError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".tbz", ".xz", ".txz", ".zst", ".tzst", ".lz4", ".br", ".zip", ".Z")
_DENIED = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Shard:
    """One tar: `name` is what users and frames see, `path` where this machine reads it."""

    name: str
    path: Path
    size: int
    mtime_ns: int


def find_shards(
    patterns: Sequence[str], base: Path, on_error: Callable[[ShardError], None] | None = None
) -> tuple[Shard, ...]:
    """Shards in the order of the patterns; the matches of one glob or directory are sorted.

    Braces expand as in webdataset (`a-{00..03}.tar`); a directory stands for every `*.tar` directly inside. Relative
    patterns start at `base`. A shard's name is its path relative to the directory that all shards share. With
    `on_error` a shard that cannot be used is told to it and left out, instead of raised.

    Raises:
        ConfigError: an empty name, a scheme or `pipe:`, unbalanced braces, nothing matched, or one path listed twice.
        ShardError: a path that cannot be read, is no regular file, or is compressed.
    """
    paths: dict[Path, str] = {}
    for pattern in patterns:
        for path in _matches(pattern, base):
            if path in paths:
                raise ConfigError(f"shard listed twice: {path} matches {paths[path]!r} and {pattern!r}; list it once")
            paths[path] = pattern
    if not paths:
        raise ConfigError("no such shard: no pattern was given; name tars, a glob or a directory")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    found = []
    for path in paths:
        try:
            found.append(_describe(path, _printable(path.relative_to(common))))
        except ShardError as exc:
            if on_error is None:
                raise
            on_error(exc)
    return tuple(found)


def open_shard(shard: Shard) -> int:
    """A read-only file descriptor of the very file that was found.

    Raises:
        ShardError: missing (`shard_missing`), or not readable as a regular file (`shard_unreadable`).
        ReadError: storage failed; try again.
    """
    try:
        return open_regular(shard.path)
    except NotRegularError as exc:
        raise ShardError(shard.name, 0, "shard_unreadable", str(exc)) from exc
    except OSError as exc:
        raise _translate(exc, shard.name, shard.path) from exc


def open_regular(path: str | Path) -> int:
    """A read-only descriptor of a file. A FIFO, a device, a socket or a directory is refused, and never waited for.

    Raises:
        NotRegularError: it is no file; the message says what it is.
        OSError: as `os.open`.
    """
    _check_regular(path, os.stat(path).st_mode)  # some devices do something when they are opened
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        file = os.open(path, flags | os.O_NONBLOCK)  # it may have become a FIFO meanwhile
    except BlockingIOError:
        file = os.open(path, flags)  # another process holds a lease on the file (fcntl(2)), which only files have
    try:
        _check_regular(path, os.fstat(file).st_mode)
    except NotRegularError:
        os.close(file)
        raise
    return file


def read_regular(path: str | Path) -> bytes:
    """All bytes of a file. Raises as `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read()


class NotRegularError(OSError):
    """A path that is no file but `kind`."""

    def __init__(self, path: str | Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"expected a regular file, got {kind}; put a file there", str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


def _check_regular(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotRegularError(path, kind)


def _matches(pattern: str, base: Path) -> Iterator[Path]:
    for written in _expand_braces(pattern):
        if not written.strip():
            raise ConfigError(
                f"shards {pattern!r}: expected a tar, a pattern or a directory, got an empty name; "
                "the current directory is written as `.`"
            )
        if _SCHEME.match(written) or "\0" in written:
            raise ConfigError(
                f"shard {written!r}: expected a local path, got a scheme; download the shards first "
                "(a file name with a colon is written as `./name`)"
            )
        path = Path(os.path.abspath(base / written))
        if path.is_dir():
            yield from _inside(path, written)
        elif glob.has_magic(written) and not path.exists():
            yield from _all_of(glob.glob(str(path)), f"no such shard: nothing matches {written!r} (looked for {path})")
        elif os.path.lexists(path) or not _surely_missing(path):
            yield path
        else:
            raise ConfigError(f"no such shard: {written!r} (looked for {path})")


def _expand_braces(pattern: str) -> Iterator[str]:
    from braceexpand import braceexpand  # noqa: PLC0415 - only who looks for shards needs it

    try:
        yield from braceexpand(pattern)
    except ValueError as exc:
        raise ConfigError(f"shards {pattern!r}: unbalanced braces; write `{{0000..0003}}`") from exc


def _inside(directory: Path, written: str) -> Iterator[Path]:
    inside = glob.glob(glob.escape(str(directory)) + "/*")
    tars = [path for path in inside if path.endswith(".tar")] or [path for path in inside if _is_compressed(path)]
    return _all_of(tars, f"no such shard: no *.tar in the directory {written!r} ({directory})")


def _all_of(found: Iterable[str], complaint: str) -> Iterator[Path]:
    paths = sorted(found)
    if not paths:
        raise ConfigError(complaint)
    return (Path(path) for path in paths)


def _surely_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _describe(path: Path, name: str) -> Shard:
    if _is_compressed(str(path)):
        raise ShardError(
            name, 0, "shard_compressed", f"{path} is compressed and cannot be read at an offset; decompress it to .tar"
        )
    try:
        status = path.stat()
    except OSError as exc:
        raise _translate(exc, name, path) from exc
    try:
        _check_regular(path, status.st_mode)
    except NotRegularError as exc:
        raise ShardError(name, 0, "shard_unreadable", str(exc)) from exc
    if not os.access(path, os.R_OK, effective_ids=True):
        raise ShardError(name, 0, "shard_unreadable", f"no permission to read {path}; change its mode or owner")
    return Shard(name, path, status.st_size, status.st_mtime_ns)


def _is_compressed(path: str) -> bool:
    return path.endswith(_COMPRESSED)


def _translate(exc: OSError, name: str, path: Path) -> ShardError | ReadError:
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return ShardError(name, 0, "shard_missing", f"no such file: {path}")
    if exc.errno in _DENIED:
        return ShardError(name, 0, "shard_unreadable", f"cannot open {path}: {exc.strerror}")
    return ReadError(f"shard {name}: cannot open {path}: {exc.strerror}; try again")


def _printable(path: Path) -> str:
    """Frames carry UTF-8: a file name of other bytes is shown with its escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
