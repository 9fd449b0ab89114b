"""Calls that may block for ever, made in daemon threads with a deadline: storage that stalls holds up nobody else.

asyncio's own threads (`to_thread`) are few, shared by the whole process, have no deadline, and are waited for when the
process ends. One call that never returns is enough to keep a process from ending, and a few stop all others.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from owl_stream.errors import ReadError, ServerBusyError
from owl_stream.machine import explained

log = logging.getLogger("owl_stream")

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

MOST_WAITING = 1024
IDLE_S = 60.0
"""A thread that has had nothing to do for this long ends."""

STORAGE = "storage seems to stall: look at it, then ask again"


class Running(NamedTuple):
    """A call that has not returned yet: what it does, in words, and for how many seconds."""

    what: str
    seconds: float


@dataclass(eq=False)
class _Call:
    """`unwanted` gets the result of a call that was `abandoned`. `began` is 0.0 while the call waits for a thread."""

    what: str
    make: Callable[[], Any]
    answer: asyncio.Future[Any]
    unwanted: Callable[[Any], None]
    began: float = 0.0
    abandoned: bool = False


class Threads:
    """A few daemon threads for the blocking calls of one `purpose`. They start when there is something to do.

    A call that takes longer than `deadline_s` is *stuck*: whoever waited for it gets an error, and its thread is lost
    to others until the call returns. None: calls may take as long as they like. `remedy` ends the errors' messages.
    Used on one event loop; `running` and `stuck` may be called from any thread.
    """

    def __init__(
        self, purpose: str, most: int, deadline_s: float | None, *, waiting: int = MOST_WAITING, remedy: str = STORAGE
    ) -> None:
        self._purpose, self._most, self._deadline_s = purpose, most, deadline_s
        self._most_waiting, self._remedy = waiting, remedy
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._running: list[_Call] = []
        self._threads = self._idle = 0

    async def run(
        self,
        what: str,
        call: Callable[[*Arguments], Result],
        *arguments: *Arguments,
        unwanted: Callable[[Result], None] = lambda result: None,
    ) -> Result:
        """Run `call(*arguments)` in a thread; raises what it raises. `what` names the call in errors and in `running`.

        Cancelling abandons the call: it is never started, or its thread finishes alone and passes the result to
        `unwanted`. While a call is stuck, others with the same `what` are refused, so retries block only one thread.

        Raises:
            ReadError: it did not return within the deadline, one with the same `what` is stuck, or all threads are.
            ServerBusyError: too many calls wait already.
            ConfigError: no thread can be started.
        """
        made = self._take(what, partial(contextvars.copy_context().run, call, *arguments), unwanted)
        try:
            async with asyncio.timeout(self._deadline_s) as limit:
                result: Result = await made.answer
                return result
        except TimeoutError:
            if not limit.expired():
                raise
            raise ReadError(f"{what}: not done within {self._deadline_s:g} s; {self._remedy}") from None
        finally:
            self._give_up(made)

    def running(self) -> list[Running]:
        """Every call that a thread is at now."""
        now = time.monotonic()
        with self._changed:
            return [Running(each.what, now - each.began) for each in self._running]

    def stuck(self) -> list[Running]:
        """Those that are past the deadline."""
        return [each for each in self.running() if self._deadline_s is not None and each.seconds >= self._deadline_s]

    def _take(self, what: str, make: Callable[[], Any], unwanted: Callable[[Any], None]) -> _Call:
        stuck = self.stuck()
        if any(each.what == what for each in stuck):
            longest = max(each.seconds for each in stuck if each.what == what)
            raise ReadError(f"{what}: an earlier one has not come back for {longest:.0f} s; {self._remedy}")
        if len(stuck) >= self._most:
            longest_of_all = max(stuck, key=lambda each: each.seconds)
            raise ReadError(
                f"{what}: all {self._most} threads for {self._purpose} are stuck, the longest for "
                f"{longest_of_all.seconds:.0f} s ({longest_of_all.what}); {self._remedy}"
            )
        made = _Call(what, make, asyncio.get_running_loop().create_future(), unwanted)
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                raise ServerBusyError(f"{what}: {len(self._waiting)} others wait for {self._purpose}; ask again")
            self._waiting.append(made)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._most:
                self._begin_thread(made)
        return made

    def _begin_thread(self, made: _Call) -> None:
        thread = threading.Thread(target=self._work, name=self._purpose, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            if self._threads == 0:
                self._waiting.remove(made)
                raise explained(exc, made.what) from exc
        else:
            self._threads += 1

    def _give_up(self, made: _Call) -> None:
        if made.answer.done() and not made.answer.cancelled():
            return
        with self._changed:
            made.abandoned = True
            if made in self._waiting:
                self._waiting.remove(made)

    def _work(self) -> None:
        while (call := self._next()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = call.make()
            except BaseException as exc:  # whoever waits hears of it
                error = exc
            self._done(call, result, error)
            del call, result, error  # they may hold much memory, and the next call may come late

    def _next(self) -> _Call | None:
        with self._changed:
            self._idle += 1
            try:
                if not self._waiting and not self._changed.wait_for(lambda: self._waiting, IDLE_S):
                    self._threads -= 1
                    return None
            finally:
                self._idle -= 1
            call = self._waiting.popleft()
            call.began = time.monotonic()
            self._running.append(call)
            return call

    def _done(self, call: _Call, result: Any, error: BaseException | None) -> None:
        with self._changed:
            self._running.remove(call)
        wanted = not call.abandoned
        if wanted:
            try:
                call.answer.get_loop().call_soon_threadsafe(_answer, call, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                wanted = False
        if not wanted and error is None:
            _throw_away(call, result)


def _throw_away(call: _Call, result: Any) -> None:
    """Hand over a result that nobody waits for; the thread goes on, whatever becomes of it."""
    try:
        call.unwanted(result)
    except Exception:
        log.exception("%s: its result, which nobody waits for, could not be given back", call.what)


def _answer(call: _Call, result: Any, error: BaseException | None) -> None:
    if not call.answer.done():
        if error is None:
            call.answer.set_result(result)
        else:
            # A future takes no StopIteration, and nobody else could tell it from an end.
            told = RuntimeError(f"{call.what} ended with {error!r}") if isinstance(error, StopIteration) else error
            call.answer.set_exception(told)
    elif error is None:
        _throw_away(call, result)
