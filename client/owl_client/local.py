"""A server of one's own: `owl-stream serve` as a child of the trainer, for whom it ends with the trainer."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from owl_stream.errors import ConfigError, ServerError
from owl_stream.inert import inert

_TOKEN_VARIABLE = "OWL_SERVER__ACCESS__TOKENS__LOCAL"
_PLAIN_HTTP = dict.fromkeys((f"OWL_SERVER__TLS__{name}" for name in ("CERTIFICATE", "KEY", "CLIENT_CA")), "null")
"""A certificate is for other names than loopback's, and nothing leaves the machine."""
_MOST_LINES = 20
"""Of the server's log that an error repeats."""
_ENDS_S = 30.0
"""Longer than a server takes to end, whose `grace_s` is its own."""


class LocalServer:
    """Serves a configuration on loopback, for whoever knows `token`.

    It ends with `close`, and by itself when this process ends, however that happens: it listens to a pipe that the
    kernel closes then. Returns once every dataset that can be served is; indexing may take a while.

    Raises:
        ConfigError: the configuration cannot be served; the message is the server's own.
        ServerError: the server ended for another reason.
    """

    def __init__(self, config: str | Path) -> None:
        path = Path(config)
        if not path.is_file():
            raise ConfigError(f"local: expected a configuration file, got {str(path)!r}")
        self.token, self._log = secrets.token_urlsafe(24), deque[str](maxlen=_MOST_LINES)
        self._owner = os.getpid()
        command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(path), "--with-parent", "--json"]
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_PLAIN_HTTP, _TOKEN_VARIABLE: self.token},
            encoding="utf-8",
            errors="backslashreplace",
        )
        threading.Thread(target=self._listen, daemon=True, name="log of the local server").start()
        try:
            self.url = self._wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server; closing twice is fine. A fork of the trainer does not own it."""
        if os.getpid() != self._owner:
            return
        process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _wait(self) -> str:
        """The address, once the datasets are ready."""
        assert self._process.stdout is not None
        url = ""
        for line in self._process.stdout:
            event = json.loads(line)
            if event.get("event") == "listening":
                url = event["url"]
            elif event.get("event") == "ready":
                return str(url)
        code = self._process.wait()
        said = "\n".join(self._log) or "nothing"
        kind = ConfigError if code == 2 else ServerError  # what every command's user errors end with
        raise kind(f"local: the server ended with exit code {code}: {said}")

    def _listen(self) -> None:
        """Pass the server's log on, and keep its last lines for an error."""
        assert self._process.stderr is not None
        with self._process.stderr as log:
            for line in log:
                self._log.append(inert(line.rstrip("\n")))
                print(line, end="", file=sys.stderr, flush=True)
