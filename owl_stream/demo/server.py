"""The demo's server: `owl-stream serve` as a process of its own, which can be killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from owl_stream.errors import OwlStreamError

READY_WITHIN_S = 300.0
STOP_WITHIN_S = 10.0
POLL_S = 0.1


class DemoServer:
    """Serves a configuration on one port of the loopback interface; a context manager that stops it at the end."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._log = config.with_name("server.log")
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, before and after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the process and return when it is ready to stream.

        Raises:
            OwlStreamError: it exited, or was not ready within READY_WITHIN_S; the end of its log is in the message.
        """
        command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(self._config)]
        environment = {**os.environ, "OWL_SERVER__HOST": "127.0.0.1", "OWL_SERVER__PORT": str(self._port)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise OwlStreamError(f"the demo's server did not get ready; the end of {self._log}:", *self._log_tail())
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL: no goodbye, frames in flight are cut off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to a process that does not go."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def __enter__(self) -> DemoServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _log_tail(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()[-15:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
