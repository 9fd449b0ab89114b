"""The connections that are open now: how many there may be, which may be dropped for others, and which are stuck."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from typing import Protocol

from owl_stream.errors import ConfigError

MIN_SPARE_DESCRIPTORS = 64
MOST_UNSENT_BYTES = 64 << 20
"""Of finished answers that wait for their readers, all connections together. Frames are not among them."""
MOST_DESCRIPTORS = 1 << 20


class Connection(Protocol):
    """What this module asks of an HTTP connection."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        ...

    def drop(self) -> None:
        """End it at once; what was not sent is thrown away."""
        ...


class Connections:
    """A bounded set of connections.

    One that is not being answered is *silent*: when there are too many, the one silent for longest makes room. So
    however many clients connect and say nothing, the next one that asks for something gets in.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._silent: dict[Connection, None] = {}
        self._unsent: dict[Connection, tuple[int, int]] = {}
        self.open: set[Connection] = set()
        self.refused: Counter[str] = Counter()

    def admit(self, connection: Connection) -> bool:
        """Take in a new, silent connection; False where every place is taken by one that is being answered."""
        if len(self.open) >= self._most:
            if not self._silent:
                self.refused["full"] += 1
                return False
            longest = next((each for each in self._silent if not each.unsent_bytes), next(iter(self._silent)))
            self._drop(longest, "silent")
        self.open.add(connection)
        self.silent(connection)
        return True

    def silent(self, connection: Connection) -> None:
        """It waits for a request, or to be closed, from now on; the rest of its answer waits with it."""
        self._silent[connection] = None
        if connection.unsent_bytes:
            self._bound_unsent(connection)

    def answering(self, connection: Connection) -> None:
        """It has sent a whole request."""
        self._silent.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """It is gone; telling twice does nothing."""
        self.open.discard(connection)
        self._silent.pop(connection, None)
        self._unsent.pop(connection, None)

    def note_stuck(self) -> None:
        """Count a connection that is dropped because its peer took nothing of an answer under way."""
        self.refused["stuck"] += 1

    async def drop_stuck(self, write_timeout_s: float) -> None:
        """For ever: drop every connection whose peer reads nothing of its answer's rest for `write_timeout_s`.

        Streams look after themselves: while more is written, the length of what waits does not tell who is slow.
        """
        looks = 4
        while True:
            await asyncio.sleep(write_timeout_s / looks)
            self._look(looks)

    def _bound_unsent(self, newest: Connection) -> None:
        """Drop those that have waited longest, all but the newest, while more waits than may."""
        waiting = [each for each in self._silent if each.unsent_bytes and each is not newest]
        unsent = newest.unsent_bytes + sum(each.unsent_bytes for each in waiting)
        for connection in waiting:
            if unsent <= MOST_UNSENT_BYTES:
                return
            unsent -= connection.unsent_bytes
            self._drop(connection, "unsent")

    def _drop(self, connection: Connection, reason: str) -> None:
        self.refused[reason] += 1
        self.leave(connection)
        connection.drop()

    def _look(self, looks: int) -> None:
        before, self._unsent = self._unsent, {}
        for connection in list(self._silent):
            unsent = connection.unsent_bytes
            last, seen = before.get(connection, (0, 0))
            if not unsent:
                continue
            self._unsent[connection] = (unsent, seen + 1 if unsent >= last > 0 else 0)
            if self._unsent[connection][1] >= looks:
                self._drop(connection, "stuck")


def descriptors() -> int:
    """How many descriptors this process may have, once it has raised its own limit as far as it is let."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def open_descriptors() -> int:
    """How many descriptors this process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one of them lists the others
    except OSError:
        return 0


def places(max_connections: int, available: int) -> int:
    """How many connections there may be, so that a quarter of the descriptors stays for shards, slabs and workers.

    Raises:
        ConfigError: nothing could be served with so few descriptors.
    """
    if available < MIN_SPARE_DESCRIPTORS:
        raise ConfigError(
            f"this process may have {available} files open, expected at least {MIN_SPARE_DESCRIPTORS}: raise the "
            f"limit (`ulimit -n 4096`, a service's LimitNOFILE=)"
        )
    return max(4, min(max_connections, available - max(MIN_SPARE_DESCRIPTORS, available // 4)))
