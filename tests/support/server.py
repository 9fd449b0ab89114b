"""The real server as a process of its own, on a real socket, for tests that stop, kill and restart it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent.parent


class ServerProcess:
    """`owl-stream serve` of a configuration. A context manager that ends it, and fails loudly if it never got ready.

    `behind` is a command that executes the rest of its arguments, once it has changed what it is to change.
    """

    def __init__(
        self,
        config: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        behind: tuple[str, ...] = (),
    ) -> None:
        self._config, self._arguments, self._behind = config, arguments, behind
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._port = 0
        self.log = config.with_name(f"server-{id(self):x}.log")
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._drain: threading.Thread | None = None

    def start(self) -> ServerProcess:
        """Start it (again, on the same port) and return once it is ready."""
        command = [*self._behind, sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(self._config)]
        command += ["--port", str(self._port), *self._arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := re.search(r"listens on (https?://\S+:(\d+))", line):
                self.url, self._port = match[1], int(match[2])
            if line.startswith("ready:"):
                self._drain = threading.Thread(target=self.process.stdout.read, daemon=True)
                self._drain.start()
                return self
        self.process.wait()
        raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is said."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE_S)
        if self._drain is not None:
            self._drain.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        elif self.process is not None:
            self._reap()
