"""Blocking calls: each has a deadline, none holds up another, and none holds up the end of the process."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from owl_stream.blocking import Threads
from owl_stream.errors import ConfigError, ReadError, ServerBusyError
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
SOON_S = 0.5
"""Of calls that never come back; the others have all of it too, on a busy machine."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Calls that wait for it are stuck until it is set."""
    event = threading.Event()
    yield event
    event.set()


def in_loop(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a scenario; what hangs is a failure."""
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is sure to come."""
    while not condition():  # noqa: ASYNC110 # it comes true in another thread, which tells nobody
        await asyncio.sleep(0.001)


def test_a_call_gives_its_result_or_its_error_in_the_callers_context() -> None:
    """What the function returns, what it raises (a TimeoutError of its own too), and the context of who asked."""
    asked: ContextVar[str] = ContextVar("asked", default="")

    def fail() -> None:
        raise TimeoutError("its own")

    async def scenario() -> None:
        threads = Threads("tests", 2, PATIENCE_S)
        asked.set("by me")
        assert await threads.run("adding", lambda a, b: a + b, 1, 2) == 3
        assert await threads.run("asking", asked.get) == "by me"
        with pytest.raises(TimeoutError, match="its own"):
            await threads.run("failing", fail)
        assert threads.running() == []

    in_loop(scenario)


def test_what_is_stuck_is_told_and_named_until_it_comes_back(gate: threading.Event) -> None:
    """Past the deadline who waits hears what and why; the thread counts as stuck; then all is as before."""

    async def scenario() -> None:
        threads = Threads("tests", 2, SOON_S)
        with pytest.raises(ReadError, match=r"reading a\.tar: not done within 0\.5 s; storage seems to stall"):
            await threads.run("reading a.tar", gate.wait)
        assert [each.what for each in threads.stuck()] == ["reading a.tar"]
        assert await threads.run("reading b.tar", lambda: "b") == "b"
        gate.set()
        await until(lambda: not threads.stuck())
        assert await threads.run("reading a.tar", lambda: "a") == "a"

    in_loop(scenario)


def test_the_same_call_is_not_made_again_while_it_is_stuck(gate: threading.Event) -> None:
    """Who asks again and again takes one thread."""

    async def scenario() -> None:
        threads = Threads("tests", 2, SOON_S)
        for _ in range(5):
            with pytest.raises(ReadError, match=r"reading a\.tar"):
                await threads.run("reading a.tar", gate.wait)
        assert len(threads.running()) == 1
        assert await threads.run("reading b.tar", lambda: "b") == "b"

    in_loop(scenario)


def test_where_every_thread_is_stuck_calls_fail_at_once(gate: threading.Event) -> None:
    """The error names what is stuck for longest; nothing waits for a deadline again."""

    async def scenario() -> None:
        threads = Threads("tests", 2, SOON_S)
        calls = (threads.run(f"reading {number}", gate.wait) for number in range(2))
        assert all(isinstance(each, ReadError) for each in await asyncio.gather(*calls, return_exceptions=True))
        threads._deadline_s = PATIENCE_S / 10  # a call that waited would take this long
        threads_stuck = threads.running
        threads.stuck = threads_stuck  # type: ignore[method-assign] # they are past the deadline that they had
        with pytest.raises(ReadError, match=r"all 2 threads for tests are stuck, .*\(reading \d\)"):
            await threads.run("another", lambda: None)

    in_loop(scenario)


def test_a_queue_that_is_full_refuses(gate: threading.Event) -> None:
    """One thread at work, one call that waits: the third is told to come again, and the second is still made."""

    async def scenario() -> None:
        threads = Threads("tests", 1, PATIENCE_S, waiting=1)
        first = asyncio.create_task(threads.run("first", gate.wait))
        await until(lambda: len(threads.running()) == 1)
        second = asyncio.create_task(threads.run("second", lambda: "made"))
        await asyncio.sleep(0)
        with pytest.raises(ServerBusyError, match="third: 1 others wait for tests"):
            await threads.run("third", lambda: None)
        gate.set()
        assert await first
        assert await second == "made"

    in_loop(scenario)


def test_a_call_that_nobody_waits_for_is_not_begun_and_its_result_is_thrown_away(gate: threading.Event) -> None:
    """Cancelling leaves a waiting call out, and hands the result of one at work to `unwanted`."""
    begun, thrown = list[str](), list[bool]()

    async def scenario() -> None:
        threads = Threads("tests", 1, PATIENCE_S)
        first = asyncio.create_task(threads.run("first", gate.wait, unwanted=thrown.append))
        await until(lambda: len(threads.running()) == 1)
        second = asyncio.create_task(threads.run("second", begun.append, "second"))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        gate.set()
        await until(lambda: not threads.running())
        await threads.run("third", begun.append, "third")

    in_loop(scenario)
    assert (begun, thrown) == (["third"], [True])


def test_a_deadline_counts_while_a_call_waits_for_a_thread(gate: threading.Event) -> None:
    """The only thread is at something long: who waits behind it hears of it in time, and is not begun afterwards."""
    begun = list[str]()

    async def scenario() -> None:
        threads = Threads("tests", 1, SOON_S)
        first = asyncio.create_task(threads.run("first", gate.wait))
        await until(lambda: len(threads.running()) == 1)
        with pytest.raises(ReadError, match="second"):
            await threads.run("second", begun.append, "second")
        with pytest.raises(ReadError, match="first"):
            await first
        gate.set()
        await until(lambda: not threads.running())

    in_loop(scenario)
    assert begun == []


def test_without_a_deadline_a_call_may_take_its_time(gate: threading.Event) -> None:
    """Indexing is never stuck, whatever it takes."""

    async def scenario() -> None:
        threads = Threads("tests", 1, None)
        call = asyncio.create_task(threads.run("indexing", gate.wait))
        await until(lambda: len(threads.running()) == 1)
        assert threads.stuck() == []
        gate.set()
        assert await call

    in_loop(scenario)


def test_where_no_thread_can_be_started_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere: which limit to raise; and nothing of the call is left behind."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        threads = Threads("tests", 1, PATIENCE_S)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(ConfigError, match="ulimit -u"):
                await threads.run("reading", lambda: None)
        assert await threads.run("reading", lambda: "read") == "read"

    in_loop(scenario)


def test_fault_127_a_stuck_call_does_not_hold_up_the_end_of_the_process() -> None:
    """The interpreter ends although a call never returns; with asyncio's own threads it would wait for ever."""
    code = """
import asyncio, threading
from owl_stream.blocking import Threads
from owl_stream.errors import ReadError

async def main():
    try:
        await Threads("tests", 1, 0.05).run("reading", threading.Event().wait)
    except ReadError as exc:
        print(exc.code)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "read"


UNBOUNDED = {"to_thread", "run_in_executor", "run_in_threadpool", "anyio", "StaticFiles", "FileResponse"}


def test_fault_126_the_server_uses_no_threads_without_a_deadline() -> None:
    """Nothing of the server, or below it, uses threads that everybody shares."""
    used = set()
    for package in ("server", "engine", "assemble"):
        for path in (ROOT / "owl_stream" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = {getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "name", "")}
                used |= {f"{path.name}: {name}" for name in names & UNBOUNDED}
    assert used == set()
