"""What this machine refuses, in words: foreign exceptions become our own, which name what failed and the remedy."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from owl_stream.errors import ConfigError, OwlStreamError, ReadError, WorkerError

_REMEDIES = {
    errno.ENFILE: "the machine has no descriptor left: end what holds them, or raise fs.file-max",
    errno.ENOSPC: "free space there, or choose another place",
    errno.EDQUOT: "free space there, or choose another place",
    errno.EROFS: "make it writable, or choose another place",
    errno.EACCES: "allow it to this user, or choose another place",
    errno.EPERM: "allow it to this user, or choose another place",
    errno.ENOENT: "look whether it is there, and whether its name is right",
    errno.ENOTDIR: "look whether its name is right",
    errno.EISDIR: "expected a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the links, which lead in a circle",
    errno.EAGAIN: "no process or thread can be started: raise the limit (`ulimit -u`, a service's TasksMax=, a "
    "container's --pids-limit), or use fewer workers",
}
"""What to do about errors that come again until somebody changes something."""

_OUT_OF_MEMORY = "out of memory: give it more, or use fewer workers (--workers, --processes)"
_NO_THREAD = "can't start new thread"
"""The words of the RuntimeError that `threading` raises for what every other call reports as EAGAIN."""

_NEED_SHARED_MEMORY = (
    "indexing processes need a writable /dev/shm: mount a tmpfs there (`mount -t tmpfs tmpfs /dev/shm`; "
    "`--tmpfs /dev/shm` for a container)"
)


def explained(exc: BaseException, doing: str) -> OwlStreamError:
    """`exc` as an error of ours; `doing` says what was tried, and begins the message.

    Errors of ours come back as they are. What this machine's owner can change is a `ConfigError`, storage that fails a
    `ReadError`, want of memory a `WorkerError`. Anything else is an `OwlStreamError` that says which line raised it.
    """
    if isinstance(exc, BaseExceptionGroup):
        return explained(exc.exceptions[0], doing)
    if isinstance(exc, OwlStreamError):
        return exc
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno == errno.ENOMEM):
        return WorkerError(f"{doing}: {_OUT_OF_MEMORY}")
    if isinstance(exc, RuntimeError) and _NO_THREAD in str(exc):
        return ConfigError(f"{doing}: {exc}; {_REMEDIES[errno.EAGAIN]}")
    if isinstance(exc, OSError):
        return _of_the_system(exc, doing)
    return OwlStreamError(
        f"{doing} failed unexpectedly{_raised_at(exc)}: {_words(exc)}; a fault of owl-stream: please report it"
    )


def no_processes(exc: OSError | ImportError, doing: str) -> OwlStreamError:
    """Why processes that share memory could not be started; see `explained`."""
    if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
        return explained(exc, doing)
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ConfigError(f"{doing}: /dev/shm: {reason}; {_NEED_SHARED_MEMORY}")


def _of_the_system(exc: OSError, doing: str) -> OwlStreamError:
    what = ": ".join([doing, *([str(exc.filename)] if exc.filename is not None else []), exc.strerror or str(exc)])
    if exc.errno == errno.EMFILE:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return ConfigError(
            f"{what}; this process may have {soft} files open: raise the limit (`ulimit -n 4096`, a service's "
            f"LimitNOFILE=)"
        )
    if exc.errno in _REMEDIES:
        return ConfigError(f"{what}; {_REMEDIES[exc.errno]}")
    return ReadError(f"{what}; look at that disk or network, then try again")


def _words(exc: BaseException) -> str:
    return " ".join(f"{type(exc).__name__}: {exc}".split())


def _raised_at(exc: BaseException) -> str:
    """The innermost line of ours that the exception came through: ` at shards/build.py:120`."""
    ours, place, trace = str(Path(__file__).parent) + os.sep, "", exc.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(ours):
            place = f" at {file.removeprefix(ours)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
