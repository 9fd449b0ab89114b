"""The server's own tasks. One that ends with an error is not silent: the log says so, and so does /health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial

from owl_stream.errors import OwlStreamError
from owl_stream.machine import explained

log = logging.getLogger("owl_stream.server")


class Background:
    """Begins tasks that nobody waits for. `failures` says why some of them ended, by what they did."""

    def __init__(self) -> None:
        self.failures: dict[str, OwlStreamError] = {}

    def begin(self, what: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work`; `what` names it for people. Whoever begins it cancels it at the end, or waits for it."""
        task = asyncio.create_task(work, name=what)
        task.add_done_callback(partial(self._ended, what))
        return task

    def _ended(self, what: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (exc := task.exception()) is None:
            return
        self.failures[what] = explained(exc, what)
        log.error("%s: start the server again", self.failures[what], exc_info=exc)
