"""Running the app: bind first, say where, serve until a signal, let streams finish their frame, exit 0."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from owl_stream.config import Config
from owl_stream.errors import ConfigError, OwlStreamError
from owl_stream.machine import explained
from owl_stream.server.access import check_exposure
from owl_stream.server.app import create_app
from owl_stream.server.ending import SHARE_FOR_REQUESTS, Watchdog, in_words
from owl_stream.server.logs import configure_logs
from owl_stream.server.protocol import limited_protocol
from owl_stream.server.state import ServerState
from owl_stream.server.tls import tls_options

log = logging.getLogger("owl_stream.server")


class _Server(uvicorn.Server):
    """uvicorn, but a signal first drains the streams, and ending after a signal is a success.

    From the first signal on the watchdog counts the time; another Ctrl-C has it end the process at once.
    """

    def __init__(self, config: uvicorn.Config, drain: asyncio.Event, watchdog: Watchdog) -> None:
        super().__init__(config)
        self._drain, self._watchdog = drain, watchdog
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signalled = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signalled and sig == signal.SIGINT:
            self._watchdog.hurry()
        self._signalled = True
        self._watchdog.signalled()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain.set)
        self.should_exit = True


def bind(host: str, port: int, allowed: Callable[[str], None] = lambda address: None) -> socket.socket:
    """A listening socket. `allowed` hears the address before anyone can connect to it, and may raise.

    Raises:
        ConfigError: the address is in use, not ours, or not an address.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        allowed(str(address[0]))
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
    except (OSError, OverflowError, UnicodeError) as exc:  # UnicodeError: no name that can be looked up
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConfigError(
            f"cannot listen on {host} port {port}: {reason}; end what listens there, or choose another with --port"
        ) from exc
    return sock


def _run(server: _Server, sock: socket.socket) -> None:
    try:
        server.run(sockets=[sock])
    except OwlStreamError:
        raise
    except SystemExit as exc:  # uvicorn's way to say that the app did not start
        raise OwlStreamError("the server could not start: the log says why") from exc
    except Exception as exc:
        raise explained(exc, "the server") from exc


def serve(
    config: Config,
    *,
    index_dir: Path | None = None,
    on_listening: Callable[[str], None] = lambda url: None,
    on_ready: Callable[[Sequence[str]], None] = lambda names: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. `on_listening` hears the URL, `on_ready` which datasets are served.

    Raises:
        OwlStreamError: the address cannot be had, anyone could read, or no dataset can be opened.
    """
    failures: list[OwlStreamError] = []

    def fail(error: OwlStreamError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(config, index_dir=index_dir, on_failure=fail, on_ready=on_ready)
    state: ServerState = app.state.server
    configure_logs(config.server.log_format, config.server.log_level, state.tokens.masked)
    settings = uvicorn.Config(
        app,
        loop="owl_stream.server.tls:ServerLoop",
        http=limited_protocol(config.server.request_timeout_s, state.connections),
        ws="none",
        log_level=config.server.log_level,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `Proxies` does that: uvicorn believes whoever is on this machine
        timeout_graceful_shutdown=config.server.grace_s * SHARE_FOR_REQUESTS,  # type: ignore[arg-type] # parts too
        **tls_options(config),
    )
    watchdog = Watchdog(config.server.grace_s, state.running)
    server = _Server(settings, state.draining, watchdog)
    host = config.server.host
    allowed = partial(check_exposure, host, tokens=state.tokens, config=config)
    with bind(host, config.server.port, allowed) as sock, server.capture_signals():
        host, port = sock.getsockname()[:2]
        scheme = "https" if settings.ssl_certfile else "http"
        on_listening(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
        try:
            _run(server, sock)
        finally:
            if left := state.running():
                log.warning("stopped; what waits for storage is left behind: %s", in_words(left))
            else:
                watchdog.disarm()
    if failures:
        raise failures[0]
