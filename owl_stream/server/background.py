"""Work that goes on beside requests. Nobody awaits it, so what ends it is kept here, and told: log, health, page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from owl_stream.errors import MachineError

log = logging.getLogger("owl_stream.server")


class Background:
    """Tasks by name. `faults`: why one ended that never should."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task; an exception that ends it becomes a fault."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)  # the loop itself holds tasks by weak references only
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs, and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.faults[task.get_name()] = str(MachineError.of(exc, f"{task.get_name()} ended"))
            log.error("%s ended", task.get_name(), exc_info=exc)
