"""Processes that start in milliseconds, so that they can be killed by the thousand.

They are forked from one process that has imported everything already. That one runs nothing, and has no socket.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.patience import PATIENCE_S


class WarmProcess:
    """`run(tell, *arguments)` in a process of its own; `hear` returns what it tells."""

    def __init__(self, run: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.trainer", "tests.faults.warm", "owl_stream.server.run"])
        self._heard, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(theirs, run, arguments), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def hear(self) -> Any:
        """The next thing that it tells.

        Raises:
            EOFError: it has ended.
        """
        assert self._heard.poll(PATIENCE_S), f"process {self.pid} told nothing for {PATIENCE_S:g} s"
        return self._heard.recv()

    def join(self) -> int:
        """Wait for its end; returns the exit code."""
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None, f"process {self.pid} did not end within {PATIENCE_S:g} s"
        code = self._process.exitcode
        self._heard.close()
        return code

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        self._process.kill()
        self.join()


def _run(ends: Connection, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    run(ends.send, *arguments)


class WarmServer:
    """What `owl-stream serve` runs, as a `WarmProcess`. Needs an index that stands; starts again on the same port."""

    def __init__(self, config: Path) -> None:
        self._config, self._port = config, 0
        self.log = config.with_name(f"server-{id(self):x}.log")
        self.url = ""
        self.process: WarmProcess | None = None

    def start(self) -> WarmServer:
        """Start it (again) and return once it is ready."""
        self.process = WarmProcess(_serve, self._config, self._port, self.log)
        self.url = self.process.hear()
        self._port = int(self.url.rpartition(":")[2])
        assert self.process.hear() == "ready"
        return self

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    @property
    def workers(self) -> list[int]:
        """Process ids of its workers; none while it is dead."""
        if self.process is None:
            return []
        return children(self.process.pid)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _serve(tell: Callable[[str], None], config: Path, port: int, log: Path) -> None:
    from owl_stream.config import load_config
    from owl_stream.server.run import serve

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    settings = load_config(config)
    server = settings.server.model_copy(update={"port": port})
    serve(
        settings.model_copy(update={"server": server}),
        on_listening=tell,
        on_ready=lambda names: tell("ready"),
    )
