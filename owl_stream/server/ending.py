"""The end of a server: within the grace, whatever is stuck, and without tracebacks for what ends with it."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl_stream.blocking import Running
from owl_stream.errors import DrainingError
from owl_stream.server.refusals import refusal
from owl_stream.server.writer import ABORT, until_gone

log = logging.getLogger("owl_stream.server")

SHARE_FOR_REQUESTS = 0.6
"""Of `grace_s`: for requests that are being answered. The rest is for workers, datasets and the interpreter."""

TELL_S = 0.5
"""How long writing the last line may take: a log that nobody reads must not hold up the end."""


class Watchdog:
    """Ends the process `grace_s` after the first signal, or at once after another Ctrl-C, and says what was stuck.

    Waits in a daemon thread, so that a loop that is held up does not hold this up. `running` names what may be stuck.
    """

    def __init__(self, grace_s: float, running: Callable[[], Sequence[Running]]) -> None:
        self._grace_s, self._running = grace_s, running
        self._signals: queue.SimpleQueue[str] = queue.SimpleQueue()  # unlike an Event, safe in a signal's handler
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def signalled(self) -> None:
        """A signal asks the server to end: from the first one on the time counts."""
        self._signals.put("end")

    def hurry(self) -> None:
        """End now, whatever is under way."""
        self._signals.put("now")

    def disarm(self) -> None:
        """The server has ended, and nothing of it is left that could be stuck."""
        self._signals.put("ended")

    def _watch(self) -> None:
        said = self._signals.get()
        began = time.monotonic()
        while said == "end":
            try:
                said = self._signals.get(timeout=max(0.0, began + self._grace_s - time.monotonic()))
            except queue.Empty:
                said = "now"
        if said == "now":
            self._end(time.monotonic() - began)

    def _end(self, seconds: float) -> None:
        telling = threading.Thread(target=self._tell, args=(seconds,), daemon=True)
        try:
            telling.start()
            telling.join(TELL_S)
        finally:
            os._exit(0)

    def _tell(self, seconds: float) -> None:
        left = in_words(self._running()) or "its last requests"
        log.warning("ends %.1f s after the signal, by force; still under way: %s", seconds, left)
        sys.stdout.flush()


def in_words(running: Sequence[Running]) -> str:
    """What is under way, and for how long."""
    return "; ".join(f"{each.what} ({each.seconds:.0f} s)" for each in running)


class EndsQuietly:
    """ASGI middleware: a request that is cut off because the server stops is told so, or dropped, without a traceback.

    Without it the HTTP layer logs every such request as an exception of the application.
    """

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            if begun:
                await _drop(scope, receive)
            else:
                answer = refusal(DrainingError("the server stops: ask another one, or ask again"))
                answer.headers["Connection"] = "close"
                await answer(scope, receive, send)


async def _drop(scope: Scope, receive: Receive) -> None:
    """End the connection in the middle of an answer; returns once the HTTP layer knows."""
    extension = scope.get("extensions", {}).get(ABORT)
    if extension is not None:
        extension["abort"]()
        await until_gone(receive)
